"""The chat page: what it shows, what a person can do on it, and how an answer streams to every open page.

routes    pages, files, downloads, and POST for every command (the page works without its socket)
socket    the page's WebSocket: one loop for commands, one thread that shows
commands  what a person does, as one table for both of them
viewer    one open page: what it shows, and what has to be sent so that it shows what is true now
live      the news that wakes open pages, an answer's text as HTML, rendered once for all of them, and the context
views     list, messages and page as values for the templates
panel     the panel beside a chat: to the page, and back from its form
"""
