"""Documents -> windows of token rows. Whole documents are packed into a window; each is followed by token 0.

A window begins with a document, half of the time after a token 0, because prompts have both forms. The position in the
stream consists of the next document's number and the numbers of the documents in the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.starter.data.mixture import Mixture
from models.starter.vocabulary import CompactVocabulary

END_OF_DOCUMENT = 0
POOL_SIZE = 64
FIRST_TOKENS, FIRST_WEIGHT = 2, 3.0  # the first tokens of an answer decide its kind: a call, a question, a topic
Encode = Callable[[str], list[int]]


class WindowStream:
    """Windows of `context` + 1 tokens: `batch(n)` returns rows (n, context + 1) and loss weights of the same shape."""

    def __init__(self, mixture: Mixture, encode: Encode, vocabulary: CompactVocabulary, context: int) -> None:
        self.mixture, self.encode, self.vocabulary, self.context = mixture, encode, vocabulary, context
        self.next_document = 0
        self.pool: list[tuple[int, list[int], list[float]]] = []

    def state(self) -> dict[str, Any]:
        return {"next_document": self.next_document, "pool": [number for number, _, _ in self.pool]}

    def restore(self, state: dict[str, Any]) -> None:
        self.next_document = state["next_document"]
        self.pool = [self.read(number) for number in state["pool"]]

    def read(self, number: int) -> tuple[int, list[int], list[float]]:
        """(number, token ids with the final 0, weights), cut to the window."""
        ids: list[int] = []
        weights: list[float] = []
        for segment in self.mixture.document(number).segments:
            encoded = self.encode(segment.text)
            first = min(FIRST_TOKENS, len(encoded))
            ids += encoded
            weights += [segment.weight * FIRST_WEIGHT] * first + [segment.weight] * (len(encoded) - first)
        return number, [*ids, END_OF_DOCUMENT][: self.context], [*weights, 1.0][: self.context]

    def window(self) -> tuple[list[int], list[float]]:
        while len(self.pool) < POOL_SIZE:
            self.pool.append(self.read(self.next_document))
            self.next_document += 1
        leading_end = self.pool[0][0] % 2 == 0
        ids, weights = ([END_OF_DOCUMENT], [0.0]) if leading_end else ([], [])
        position = 0
        while position < len(self.pool):
            _, document_ids, document_weights = self.pool[position]
            if len(ids) + len(document_ids) <= self.context + 1:
                del self.pool[position]
                ids += document_ids
                weights += document_weights
            else:
                position += 1
        padding = self.context + 1 - len(ids)
        return ids + [END_OF_DOCUMENT] * padding, weights + [0.0] * padding

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        windows = [self.window() for _ in range(size)]
        rows = self.vocabulary.row_of[torch.tensor([ids for ids, _ in windows])]
        weights = torch.tensor([weight for _, weight in windows])
        return rows, weights * (rows != self.vocabulary.shared_row)  # the shared row is only an input, never a target


def count_tokens(mixture: Mixture, encode: Encode, documents: int) -> dict[int, int]:
    """Occurrences of each token id in the first documents of a mixture."""
    counts: dict[int, int] = {}
    for number in range(documents):
        for segment in mixture.document(number).segments:
            for token in encode(segment.text):
                counts[token] = counts.get(token, 0) + 1
    return counts


def compact_vocabulary(counts: dict[int, int], at_least: int) -> CompactVocabulary:
    """Tokens that occur at least ``at_least`` times, token 0 and the 256 single bytes (World ids 1 to 256)."""
    return CompactVocabulary([token for token, count in counts.items() if count >= at_least] + list(range(257)))
