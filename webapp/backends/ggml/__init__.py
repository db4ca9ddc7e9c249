"""RWKV-4 to 7 on ggml, the library under llama.cpp and rwkv.cpp: their ``.bin`` and ``.gguf``, and any checkpoint.

ggml's C API is driven through ctypes, so nothing is compiled and no program of theirs is run. ``library`` finds a
prebuilt ggml, ``weights`` says what is kept in which type, ``graph`` is the computation of each version, ``model`` runs
it for many slots, ``backend`` is the contract's view of it all. Nothing heavy is imported with this room.
"""
