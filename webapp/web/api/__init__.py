"""Roost for programs: OpenAI's API first; Anthropic's, Ollama's and RWKV-Runner's as thin views on the same.

:mod:`.routes` lists every address. What a dialect has of its own (request and answer types, their translation) is in
the folder of its name; what all share is here. Nothing of it is imported before the first request of a program.
"""
