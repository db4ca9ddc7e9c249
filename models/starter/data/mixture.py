"""The share of each part, and the stream: document n of a seed is a pure function of (seed, n) and the mixture."""

from __future__ import annotations

import random
from pathlib import Path

from models.starter.data.arithmetic import arithmetic_document
from models.starter.data.copying import copying_document
from models.starter.data.corpora import read_corpora
from models.starter.data.document import Document
from models.starter.data.memory import memory_document
from models.starter.data.natural_tools import natural_document
from models.starter.data.personas import persona_document, think_document
from models.starter.data.smalltalk import smalltalk_document
from models.starter.data.tool_dialogues import tool_document
from models.starter.data.tool_sessions import session_document

CORPUS = "corpus"
MAKERS = {
    "tools": tool_document,
    "sessions": session_document,
    "natural": natural_document,
    "copying": copying_document,
    "smalltalk": smalltalk_document,
    "arithmetic": arithmetic_document,
    "memory": memory_document,
    "persona": persona_document,
    "think": think_document,
}
DEFAULT_MIXTURE = {
    "sessions": 24,
    "natural": 20,
    "tools": 4,
    "copying": 26,
    "smalltalk": 34,
    "arithmetic": 3,
    "memory": 6,
    "persona": 4,
    "think": 3,
    CORPUS: 0.3,
}
CHINESE_SHARE = 0.42


class Mixture:
    """weights: parts by name, in documents; an unknown name raises KeyError. corpus_folder may be None."""

    def __init__(self, seed: int, weights: dict[str, float] | None = None, corpus_folder: Path | None = None) -> None:
        self.seed = seed
        self.weights = dict(weights or DEFAULT_MIXTURE)
        self.corpus = read_corpora(corpus_folder) if self.weights.get(CORPUS) else []
        if not self.corpus:
            self.weights.pop(CORPUS, None)
        for name in self.weights:
            if name != CORPUS and name not in MAKERS:
                raise KeyError(f"no part {name!r} in the mixture; known: {', '.join([*MAKERS, CORPUS])}")

    def part(self, number: int) -> str:
        return self.generator(number).choices(list(self.weights), list(self.weights.values()))[0]

    def generator(self, number: int) -> random.Random:
        return random.Random(f"{self.seed}:{number}")

    def document(self, number: int) -> Document:
        rng = self.generator(number)
        part = rng.choices(list(self.weights), list(self.weights.values()))[0]
        if part == CORPUS:
            return rng.choice(self.corpus)
        return MAKERS[part](rng, rng.random() < CHINESE_SHARE)
