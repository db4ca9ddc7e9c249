"""Which tokens may come next: JSON Schema, regular expressions and Lark grammars on the model's vocabulary.

A constraint is plain data (:mod:`.grammar`), which crosses the engine pipe inside a request. The engine process
compiles it with llguidance (:mod:`.grammar_constraint`), except the rules of music models (:mod:`.music_rules`); the
web process only checks that it can be compiled (:func:`webapp.structured.grammar.check`). llguidance is imported at
first use.
"""
