"""The chat page: its content, the commands of a person, and how an answer streams to every open page.

routes    pages, files, downloads, and POST for every command (the page works without its socket)
socket    the page's WebSocket: one loop for commands, one thread for updates
commands  the commands of a person, as one table for both of them
viewer    one open page: what it shows, and the updates to send
live      notifications for open pages, an answer's text as HTML (rendered once for all pages), and the context
views     list, messages and page as values for the templates
panel     the panel next to a chat: values for the page, and parsing of its form
"""
