"""How to run a model on this machine.

choice      whether a model fits into memory; checks a strategy, recommends one, chooses one for a load
hardware    CPU, memory, GPUs; cached answers of backends
kernels     the library of the native engine
"""
