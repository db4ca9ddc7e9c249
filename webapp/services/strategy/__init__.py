"""How to run a model on this machine.

choice      checks a strategy, recommends one, chooses one for a load; the tables to compare them
fit         whether a model fits into memory, and the alternatives
speed       estimated speed of a model on this machine
hardware    CPU, memory, GPUs, disk; cached answers of backends
"""
