"""The recipe of the starter model: data generator, training loop, export. Its card is docs/starter-model.md.

Runs in a checkout (`python -m models.starter.train`, `... .export`) and is not part of the installed package. The
network itself is `webapp.training`. The result is an ordinary checkpoint with the official parameter names, which every
backend reads like any other RWKV-7.

data/        seeded dialogues in the G1x format, held-out evaluation cases
batches      documents -> packed windows; a few integers are the position, so a run resumes exactly
vocabulary   World token ids in use <-> compact rows
optimizer    official parameter groups, learning-rate schedule
checkpoint, progress, workers, loop, train, export
"""
