"""RWKV-7 as a differentiable module, for training on a user's machine. Needs torch; a C++ compiler and ninja make it
several times faster on a CPU. The server does not import it. The recipe of the starter model uses it; it is in
`models/starter` of a checkout, not in the package.

model           the network, with the official parameter names; the device decides between plain and fused operations
operations      the five operations of the network: `PlainOperations`, `ChunkedOperations` (in chunks of
                matrices) and `KernelOperations` (C++)
kernels         the C++ kernels (`kernels.cpp`), compiled at first use
"""
