"""What page, API and command line all do, a folder a subject: no HTML, no sockets. Start at :mod:`.chat.turns`.

generation   one answer of the model, from a request to its events; answers for programs, stored nowhere
chat         a chat's answers: written by a thread of the server, watched by any number of pages; its tools
tools        servers that bring tools (MCP), and a tool tried by hand
bench        how fast a model runs on this machine; how well it calls tools, case by case
evaluation   held-out cases, and how answers to them are judged
attachments  text files in a chat: how they come in, their texts for prompts and searches
compose      pieces of a music model
notebook     texts the model goes on with as they are: continued, taken back, looked into token by token
batch        a prompt for each row of a list or table, answered many at once, as a job
presets      what an answer is sampled, prompted and run with
strategy     how a model is run on this machine, and whether it fits
jobs         work that takes a while: queue, progress, pause, cancel, list
downloads    models fetched from hubs: the published ones, the transfer, the queue
library      the files of the models folder: how they come, go and come back
conversion   one model file made another
states       the files of states: what fits what, and making one
access       the owner's links and key
certificates what the server shows over TLS; authority makes its own
limits       what one person may use

They import each other one way only: bench, notebook and batch stand on generation and chat, chat on attachments and
tools, chat and generation on presets, presets on strategy, and what handles files on library.
"""
