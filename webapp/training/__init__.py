"""RWKV-7 as a differentiable module, for training on a user's machine. Needs torch; a C++ compiler and ninja make it
several times faster on a CPU. The server does not import it. The training of the starter model uses it; that recipe is
in `models/starter` in a checkout and not part of the package.

model           the network, with the official parameter names; plain or fused operations are chosen by device
operations      the five operations the network is made of: `PlainOperations`, `ChunkedOperations` (in chunks of
                matrices) and `KernelOperations` (C++)
kernels         the C++ kernels (`kernels.cpp`), compiled at first use
"""
