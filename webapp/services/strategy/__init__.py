"""How a model is run on this machine.

choice      a strategy checked, the recommended one, the one of a load; the tables to compare them by
fit         whether a model fits into memory, and what else would
speed       how fast a model would write here
hardware    processor, memory, cards, disk; answers of backends, kept for a moment
"""
