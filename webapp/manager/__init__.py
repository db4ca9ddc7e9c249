"""The manager owns the model and its engine process. Start at :mod:`.manager`.

    manager           the interface for other packages: load, unload, submit, status
    supervisor        which engine serves, loads and drains, and what waits: one state machine, one lock, one worker
    session           one engine from start to end, with its requests; when it counts as hung
    handles           one request, as its caller sees it
    client            starts an engine process and communicates with it
    messages          the messages on the pipe, and their framing
    loop              the engine's side: its loop, and its process
    health            how long an engine may be silent, and why it ended
    memory            free memory and GPUs, whether a model fits, and the strategy that ``auto`` chooses
    target            what to load (a model file, a strategy, a state), and the status of that for pages
    library           the model files on disk, and their folders

Nothing here imports torch: only the engine process does, through its backend.
"""
