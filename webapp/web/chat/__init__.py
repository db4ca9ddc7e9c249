"""The chat page: what it shows, what a person can do on it, and how an answer streams to every open page.

routes           pages, downloads, and POST for every command (the page works without its socket)
socket           the page's WebSocket: one loop for commands, one thread that shows
commands         what a person does, as one table for both of them
viewer           one open page: what it shows, and what has to be sent so that it shows what is true now
live_rendering   one answer's text as HTML, rendered once for all viewers
house            the services the page stands on, gathered from the app; the news that wakes viewers
attachment_routes   files of a chat: taken in, shown, given back
message_view, options_view, page_view   contexts made from stored things
contexts         the dataclasses the templates take
"""
