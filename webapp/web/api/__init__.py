"""Roost's APIs for programs: OpenAI's; Anthropic's, Ollama's and RWKV-Runner's are thin layers on the same service.

:mod:`.operations` lists every endpoint. Each dialect is one module or folder with its types, the parsing of requests
and the form of responses; :mod:`.answering` is shared by all. A dialect is imported at its first request.
"""
