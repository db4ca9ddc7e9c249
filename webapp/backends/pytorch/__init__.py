"""The torch engine: RWKV-4 to 7, batched, on CPUs without a C++ compiler and on NVIDIA GPUs.

``backend`` implements the contract: it parses strategies and places the layers. ``linear`` has the matrices in 32 to 4
bits, ``model`` runs a step of all sequences together, ``recurrence`` handles single tokens and chunks, ``sampling``
samples tokens on the device of the logits. torch is imported with the first load.
"""
