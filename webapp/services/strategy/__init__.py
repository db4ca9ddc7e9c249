"""How a model is run: which ways there are, what suits this machine, and whether it fits."""
