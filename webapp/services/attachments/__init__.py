"""Text files in a chat: how they come in, what they cost to read, and their texts for prompts and searches."""
