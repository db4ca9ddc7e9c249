"""Converts messages to prompt text and answer text to events. Does not know tokens, HTML or the database."""
