"""The one owner of the model and its engine process. Start at :mod:`.model_manager`.

    model_manager     what the rest of the house sees: load, unload, submit, status
    engine_keeper     which engine runs: what may be asked; engine_places what stands where; order_worker does the work
    engine_session    one engine from start to end, with the requests it answers
    engine_client     how an engine is started and spoken to: a process, or a thread in tests
    engine_process    the child's main; engine_loop the loop both forms run
    messages, wire    what crosses the pipe, and how it is framed
    handles           one request, seen by who asked
    target            what is chosen: a model file, a strategy, a state
    library           the model files on disk

Nothing here imports torch: only the engine process does, through its backend.
"""
