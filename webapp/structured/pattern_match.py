"""Does a pattern occur in a text? In time linear in the text, whatever the pattern: people and models choose both.

Python's `re` takes exponential time for patterns such as ``(a+)+$``; llguidance's automata never look back.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from webapp.structured.grammar import parser_limits

END_OF_TEXT = 256


class _Bytes:
    """A vocabulary of the 256 bytes, for `llguidance.TokenizerWrapper`."""

    eos_token_id = END_OF_TEXT
    bos_token_id = None
    special_token_ids = (END_OF_TEXT,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def matches(pattern: str, text: str) -> bool:
    """As JSON Schema's ``pattern``: anywhere in the text. True for a pattern that cannot be compiled (look-around):
    what cannot be judged is not held against a value."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "pattern": pattern}))
    matcher = LLMatcher(_vocabulary(), grammar, log_level=0, limits=parser_limits())
    if matcher.is_error():
        return True
    written = list(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return int(matcher.try_consume_tokens(written)) == len(written) and bool(matcher.is_accepting())


@lru_cache(1024)
def is_pattern(pattern: str) -> bool:
    """Whether an answer can be held to it: no look-around, no back-references, nothing too large."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "pattern": pattern}))
    is_error, _ = LLMatcher.validate_grammar_with_warnings(grammar, limits=parser_limits())
    return not is_error


@lru_cache(maxsize=1)
def _vocabulary() -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))
