"""Messages <-> prompt text, and the events of a turn. Knows no tokens, no HTML, no database."""
