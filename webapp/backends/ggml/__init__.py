"""RWKV-4 to 7 on ggml, the library used by llama.cpp and rwkv.cpp: their ``.bin`` and ``.gguf``, and any checkpoint.

It calls ggml's C API through ctypes, so nothing is compiled and no program of theirs is run. ``library`` finds a
prebuilt ggml, ``weights`` chooses the type of each tensor, ``graph`` builds the computation of each version, ``model``
runs it for many slots, ``backend`` implements the contract. Importing this package imports nothing heavy.
"""
