"""Messages <-> prompt text, and the events of a turn. Knows nothing of tokens, HTML or the database."""
