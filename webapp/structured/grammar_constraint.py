"""The constraint that makes an answer follow a grammar.

Compilation and, after each token, the mask for the next one run in a separate thread (llguidance releases the GIL). So
they run in parallel with the backend's forward pass, and the engine's loop waits only for what is not finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from msgspec import Struct

from webapp.engine.sampler import Constraint, Words
from webapp.errors import GrammarInvalid
from webapp.structured.grammar import first_line, lark_source, parser_limits
from webapp.structured.music_rules import is_music, music_constraint
from webapp.tokenizer import Tokenizer

END_OF_TEXT = 0
CLOSE_TAG = "</think>"


class TokenTable:
    """The interface that `llguidance.TokenizerWrapper` needs. Ids without text are special tokens, which no grammar
    allows; token 0 ends the text."""

    eos_token_id = END_OF_TEXT
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        found = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = [token_id for token_id, text in enumerate(found) if not text]
        # 0xff never occurs in UTF-8, so a placeholder is not the prefix of a text
        self.tokens = [text or b"\xff<%d>" % token_id for token_id, text in enumerate(found)]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def llguidance_tokenizer(tokenizer: Tokenizer) -> Any:
    """Takes about 0.2 s for 65,536 tokens."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(TokenTable(tokenizer)))


THREADS = 2
MAX_TOKEN_BYTES = 128


class Vocabulary(Struct, frozen=True, dict=True):
    tokenizer: Tokenizer
    compiled: Any
    """The same vocabulary as an `llguidance.LLTokenizer`."""

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Ids by the token's bytes."""
        found = ((self.tokenizer.token_bytes(token_id), token_id) for token_id in range(self.tokenizer.vocab_size))
        return {text: token_id for text, token_id in found if text}


class GrammarConstraints:
    """Makes constraints; it is the engine's :data:`ConstraintFactory`. ``load_tokenizer`` is called at the first
    request with a constraint, because most engines never need the texts of tokens."""

    def __init__(self, load_tokenizer: Callable[[], Tokenizer]) -> None:
        self._load_tokenizer = load_tokenizer
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="roost-grammar")
        self._vocabulary: Future[Vocabulary] | None = None

    def __call__(self, description: Mapping[str, Any]) -> Constraint:
        """An invalid description raises GrammarInvalid immediately; a grammar that does not compile raises it at the
        first token. ``{"kind": "thought", "tokens": n, "then": description or None}`` limits thinking to n tokens."""
        if is_music(description):
            return music_constraint(description, self._load_tokenizer())
        is_thought = description.get("kind") == "thought"
        source = "" if is_thought else lark_source(description)
        # submitted first, so that no grammar blocks a thread while it waits for the vocabulary
        if self._vocabulary is None:
            self._vocabulary = self._threads.submit(self._load_vocabulary)
        if is_thought:
            then = description.get("then")
            return ThoughtBudget(int(description["tokens"]), self._vocabulary, self(then) if then else None)
        return GrammarConstraint(source, self._vocabulary, self._threads, str(description.get("consumed", "")))

    def close(self) -> None:
        """Waits for a running compilation."""
        self._threads.shutdown(cancel_futures=True)

    def _load_vocabulary(self) -> Vocabulary:
        tokenizer = self._load_tokenizer()
        return Vocabulary(tokenizer, llguidance_tokenizer(tokenizer))


class ThoughtBudget:
    """For a sequence that begins inside thinking: after ``tokens`` tokens, only the end of the thinking is allowed.
    ``then`` constrains the whole answer, including the thinking; None does not."""

    def __init__(self, tokens: int, vocabulary: Future[Vocabulary], then: Constraint | None) -> None:
        self._left = tokens
        self._vocabulary = vocabulary
        self._then = then
        self._is_over = False
        self._tail = b""
        self._closing: list[int] = []

    def mask(self, usable: Words) -> Words:
        allowed = usable if self._then is None else self._then.mask(usable)
        if self._is_over or self._left > 0:
            return allowed
        if not self._closing:
            self._closing = self._vocabulary.result().tokenizer.encode(f"\n{CLOSE_TAG}\n")
        only = np.zeros_like(usable)
        only[self._closing[0] // 32] = 1 << self._closing[0] % 32
        return only

    def accept(self, token_id: int) -> None:
        if self._then is not None:
            self._then.accept(token_id)
        if self._is_over:
            return
        if self._closing:
            self._closing.pop(0)
            self._is_over = not self._closing
            return
        self._left -= 1
        written = self._vocabulary.result().tokenizer.token_bytes(token_id) or b""
        self._tail = (self._tail + written)[-2 * MAX_TOKEN_BYTES :]
        self._is_over = CLOSE_TAG.encode() in self._tail


class GrammarConstraint:
    """For one sequence. ``consumed`` is the text that the answer already has."""

    def __init__(
        self, source: str, vocabulary: Future[Vocabulary], threads: ThreadPoolExecutor, consumed: str = ""
    ) -> None:
        self._threads = threads
        self._vocabulary = vocabulary
        self._matcher: Any = None
        self._allowed: Future[Words] = threads.submit(self._begin, source, consumed)

    def mask(self, usable: Words) -> Words:
        allowed = np.zeros_like(usable)
        found = self._allowed.result()[: len(usable)]
        allowed[: len(found)] = found
        return allowed if (allowed & usable).any() else self._with_shorter_tokens(allowed)

    def accept(self, token_id: int) -> None:
        self._allowed = self._threads.submit(self._step, token_id)

    def _begin(self, source: str, consumed: str) -> Words:
        from llguidance import LLMatcher

        vocabulary = self._vocabulary.result()
        self._matcher = LLMatcher(
            vocabulary.compiled, LLMatcher.grammar_from_lark(source), log_level=0, limits=parser_limits()
        )
        self._raise_error()
        if consumed:
            self._matcher.consume_tokens(vocabulary.tokenizer.encode(consumed))
            self._raise_error()
        return self._mask()

    def _step(self, token_id: int) -> Words:
        self._matcher.consume_token(token_id)
        self._raise_error()
        return self._mask()

    def _mask(self) -> Words:
        """One bit for each token that may come next. After a complete grammar, only the end is allowed."""
        words: Words = np.frombuffer(self._matcher.compute_bitmask(), "<u4").astype(np.uint32)
        self._raise_error()
        return words

    def _with_shorter_tokens(self, allowed: Words) -> Words:
        """If only one text can follow, llguidance allows only its longest token. A model with a smaller vocabulary may
        not have that token, or it may be banned; so shorter tokens that begin this text are allowed too."""
        vocabulary, text = self._vocabulary.result(), self._matcher.compute_ff_bytes()
        ids = (vocabulary.ids.get(text[:length]) for length in range(1, min(len(text), MAX_TOKEN_BYTES) + 1))
        more: Words = allowed.copy()
        for token_id in ids:
            if token_id is not None and token_id < 32 * len(more):
                more[token_id // 32] |= np.uint32(1 << token_id % 32)
        return more

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise GrammarInvalid(reason=first_line(self._matcher.get_error()))
