"""SQLite storage: conversations and other user data. Knows messages, but not the meaning of tokens, and no HTML."""
