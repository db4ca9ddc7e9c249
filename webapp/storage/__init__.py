"""SQLite: conversations and what a user keeps. Knows messages, no tokens' meaning, no HTML."""
