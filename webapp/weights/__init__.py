"""Model and state files. Start at :mod:`.inspection`, :mod:`.checkpoint` and :mod:`.state_file`.

Nothing here imports torch before a tensor is requested: the web process inspects files, the engine process reads them.
"""
