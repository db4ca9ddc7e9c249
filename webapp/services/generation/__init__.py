"""Answers of the model: from a request to one stream of events, for pages, APIs, terminal and tool bench alike.

request       what a program asks for, and what the engine is asked: prompt, sampling, constraint
generation    one answer: start, read as events, stop; token ids to events, and the ids worth keeping
completions   answers for programs: several prompts, several answers to each; a text as one vector
structure     what an answer is held to: a schema, a grammar, calls of tools
prefixes      the beginning of a conversation as a state: read once, then gone on from
"""
