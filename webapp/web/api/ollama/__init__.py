"""Ollama's dialect: chat, generate, tags, show, version."""
