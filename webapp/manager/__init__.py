"""The one owner of the model and its engine process. Start at :mod:`.manager`.

    manager           what the other rooms see: load, unload, submit, status
    supervisor        which engine serves, loads and drains, and who waits: one state machine, one lock, one worker
    session           one engine from start to end, with the requests it answers; when it counts as hung
    handles           one request, seen by who asked
    client            how an engine is started and spoken to: a process, or a thread in tests
    messages          what crosses the pipe, and how it is framed
    loop              the engine's side: its loop, and the process it runs in
    health            why an engine ended, and whether a model fits into memory
    target            what is chosen: a model file, a strategy, a state
    library           the model files on disk, and the folders they are in
    status            what a page shows about the model

Nothing here imports torch: only the engine process does, through its backend.
"""
