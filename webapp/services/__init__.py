"""The work behind pages, API and command line, one folder a subject: no HTML, no sockets. Start at :mod:`.chat.turns`.

generation   one answer of the model, from a request to its events; answers for programs, stored nowhere
chat         a chat's answers: generated in a server thread, followed by any number of pages; its tools
tools        MCP servers and their tools; a tool tried by hand
bench        how fast a model runs on this machine; how well it calls tools, case by case
attachments  files in a chat: upload, texts for prompts and searches
compose      pieces of a music model
notebook     plain texts that the model continues: continuation, undo, alternatives for each token
batch        one prompt per row of a list or table, many at once, as a job
presets      the settings of an answer: sampling, prompt, model
strategy     this machine, how to run a model on it, and whether it fits
kernels      the library of the native engine
jobs         long-running work: queue, progress, pause, cancel, list
downloads    downloads of models from hubs: the catalogue, the transfer, the queue
library      the files of the models folder: add, delete, restore
conversion   one model file converted to another
states       state files: which model each fits, and creating one
access       the owner's links and key
certificates the server's TLS certificates; authority issues its own
limits       limits for one person

Imports go one way only: notebook imports chat; chat imports attachments and tools; bench, batch, chat, compose,
notebook and states import generation; generation imports presets; presets imports strategy; all that handles files
imports library.
"""
