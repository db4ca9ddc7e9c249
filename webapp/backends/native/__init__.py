"""Roost's own engine: RWKV-4 to 7 on a processor, batched, in 32 to 4 bits, in C++ (``src``) through ctypes.

``library`` finds, builds and tests the C++ library, ``model`` reads a file into it and runs it, ``backend`` is the
contract's view of it all. Nothing heavy is imported with this room.
"""
