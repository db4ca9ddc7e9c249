"""How the starter model is made: the data generator, the training loop, the export. Its card: docs/starter-model.md.

Runs from a checkout (`python -m models.starter.train`, `... .export`) and is no part of the installed package. The
network itself is `webapp.training`. The result is an ordinary checkpoint with the official parameter names, so every
backend reads it like any other RWKV-7.

data/        seeded dialogues in the G1x format, held-out evaluation cases
batches      documents -> packed windows; position is a few integers, so a run resumes exactly
vocabulary   World token ids in use <-> compact rows
optimizer    official parameter groups, learning-rate schedule
checkpoint, progress, workers, loop, train, export
"""
