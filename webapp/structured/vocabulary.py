"""A tokenizer's vocabulary in the form llguidance wants it: the bytes of every id."""

from __future__ import annotations

from typing import Any

from webapp.tokenizer import Tokenizer

END_OF_TEXT = 0


class TokenTable:
    """The duck type `llguidance.TokenizerWrapper` takes. Ids that stand for no text are special: no grammar asks for
    them, and token 0 ends the text."""

    eos_token_id = END_OF_TEXT
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        found = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = [token_id for token_id, text in enumerate(found) if not text]
        # 0xff occurs in no UTF-8 text, so a placeholder is no text's prefix
        self.tokens = [text or b"\xff<%d>" % token_id for token_id, text in enumerate(found)]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def llguidance_tokenizer(tokenizer: Tokenizer) -> Any:
    """Takes about 0.2 s for 65,536 tokens."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(TokenTable(tokenizer)))
