"""The manager owns the model and its engine process. Start at :mod:`.manager`.

    manager           the interface for other packages: load, unload, submit, status
    supervisor        which engine serves, loads and drains, and what waits: one state machine, one lock, one worker
    session           one engine from start to end, with its requests; when it counts as hung
    handles           one request, as its caller sees it
    client            starts an engine and communicates with it: a process, or a thread in tests
    messages          the messages on the pipe, and their framing
    loop              the engine's side: its loop, and its process
    health            why an engine ended, and whether a model fits into memory
    target            what to load: a model file, a strategy, a state
    library           the model files on disk, and their folders
    status            the model's status for pages

Nothing here imports torch: only the engine process does, through its backend.
"""
