"""Answers of the model: from a request to a stream of events, for pages, APIs, terminal and tool bench.

request       the request of a program, and the resulting request to the engine: prompt, sampling, constraint
generation    one answer: start, read as events, stop; token ids to events, and the ids to store
completions   answers for programs: several prompts, several answers to each; a text as one vector
structure     constraints of an answer: a schema, a grammar, tool calls
"""
