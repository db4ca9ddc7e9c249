"""The chat page: its content, the commands of a person, and how an answer streams to every open page.

routes    pages, files, downloads, and POST for every command (the page works without its socket)
commands  the commands of a person, as one table; the page's WebSocket
polling   the same in HTTP requests, if no WebSocket gets through
viewer    one open page: what it shows, and the updates to send
live      notifications for open pages, an answer's text as HTML (rendered once for all pages), and the context
views     page and messages as values for the templates
sidebars  the list of chats; the panel: values for the page, and parsing of its form
"""
