"""Roost for programs: OpenAI's API first; Anthropic's, Ollama's and RWKV-Runner's are thin views on the same service.

:mod:`.operations` lists every address. A dialect is one module or folder: its types, how it reads a request and how it
writes an answer; :mod:`.answering` and :mod:`.body` are shared. A dialect is imported at its first request.
"""
