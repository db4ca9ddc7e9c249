"""Seeded training dialogues for the starter model, in the exact G1x text format.

Document number n of a seed is a pure function of (seed, n, mixture): there is no corpus file and no epoch, and a run
resumes from an integer. Held-out words, names, tools and phrasings (a hash decides, `words.is_held_out`) never occur in
training; `heldout` builds evaluation cases from exactly these.

document     segments with loss weights; the G1x turns
words        word lists in English and Chinese, ids, made-up words, the held-out split
intents, roost_guide    hand-written questions and answers: small talk, identity, facts, refusals; how to use Roost
smalltalk, copying, arithmetic, memory, personas       documents from them
tool_schemas, tool_requests, tool_formats, tool_dialogues    random tools, what a user asks, how it is written, turns
corpora      converters for text given on the command line
mixture, heldout        the share of each part; evaluation cases
"""
