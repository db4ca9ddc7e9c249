"""What is in a file. Start at :mod:`.checkpoint` (``inspect``, ``open_checkpoint``) and :mod:`.state_file`.

Nothing here imports torch before a tensor is asked for: the web process inspects files, the engine process reads them.
"""
