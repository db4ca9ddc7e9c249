"""How a model is run on this machine.

choice      a strategy checked, the recommended one, the one of a load
fit         whether a model fits into memory, and what else would
speed       how fast a model would write here
hardware    processor, memory, cards, disk
comparison  the manual's tables and figures measured with Roost
"""
