"""The engine in torch: RWKV-4 to 7, batched, on processors without a C++ compiler and on NVIDIA cards.

``strategy`` reads and places the layers, ``linear`` has the matrices in 32 to 4 bits, ``model`` reads a file and runs a
step of all sequences together, ``recurrence`` is what differs between one token and a chunk of them, ``sampling`` draws
tokens where the logits are. ``backend`` is the contract's view of it all. torch is imported with the first load.
"""
