"""What page, API and command line all do. Start at :mod:`.chat_turn`; knows no HTML and no sockets."""
