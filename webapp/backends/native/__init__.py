"""Roost's own engine: RWKV-4 to 7 on a CPU, batched, in 32 to 4 bits, in C++ (``src``) through ctypes.

``library`` finds, builds and tests the C++ library, ``model`` reads a file into it and runs it, ``backend`` implements
the contract. Importing this package imports nothing heavy.
"""
