"""Roost: a server and web pages for RWKV models. The packages, from the lowest layer up:

    errors       every error that a person can see, as one tree
    settings     one table of settings -> frozen Settings
    tokenizer    text <-> token ids
    weights      reading model and state files
    engine       token ids to token ids: sequences, scheduler, sampler, states
    backends     the ways to run a model, one file or folder each
    structured   which tokens may come next
    chat         messages <-> prompt text
    tools        tools that the model may call
    manager      owns the model and its engine process
    storage      SQLite: chats, presets, tool definitions
    services     the work behind pages, API and command line
    i18n         English and Chinese
    web          Flask: pages, sockets, APIs
    training     RWKV-7 as a differentiable module
    cli          the `roost` command

``docs/architecture.md`` shows their dependencies; ``tests/test_rooms.py`` checks them.
"""

__version__ = "0.1.0"
