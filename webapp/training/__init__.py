"""Training a small RWKV-7: the model as a differentiable module, the data generator, the loop and the export.

Nobody imports this room but its own command lines (`python -m webapp.training.train`, `... .export`). It needs torch;
a C++ compiler and ninja make it several times faster on a CPU. The result is an ordinary checkpoint with the official
parameter names, so every backend reads it like any other RWKV-7.

model        the network; plain or fused operations are chosen by device
operations   the five operations the network is made of: `PlainOperations` in torch, `KernelOperations` in C++
optimizer    official parameter groups, learning-rate schedule
vocabulary   World token ids in use <-> compact rows
data/        seeded dialogues in the G1x format, held-out evaluation cases
batches      documents -> packed windows; position is a few integers, so a run resumes exactly
checkpoint, progress, loop, train, export
"""
