"""Roost: a home for RWKV models. The rooms, from the ground up:

    errors       every error a person can meet, as one tree
    settings     one table of settings -> frozen Settings
    tokenizer    text <-> token ids
    weights      what is in a model or state file
    engine       token ids in, token ids out: sequences, scheduler, sampler, states
    backends     one file or folder a way to run a model
    structured   which tokens may come next
    chat         messages <-> prompt text
    tools        what the model may call
    manager      the one owner of the model and its engine process
    storage      SQLite: chats, presets, tool definitions
    services     what page, API and command line all do
    i18n         English and Chinese
    web          Flask: pages, sockets, APIs
    training     RWKV-7 as a differentiable module
    cli          the `roost` command

``docs/architecture.md`` is the map with the arrows; ``tests/test_rooms.py`` holds the code to it.
"""

__version__ = "0.1.0"
