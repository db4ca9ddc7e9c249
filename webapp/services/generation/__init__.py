"""Answers of the model: from a request to one stream of events, for pages, APIs, terminal and tool bench alike.

generation    one answer: start, read as events, stop
text          token ids to events, and the ids worth keeping
prompt        a rendered prompt to what the engine is asked
completions   answers for programs: several prompts, several answers to each
request       what a program asks for, in no dialect
structure     tools and forms as the engine's constraint
embedding     a text as one vector
"""
