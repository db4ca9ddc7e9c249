"""A training document: pieces of text with loss weights, in the G1x dialogue format.

`System: …`, `User: …`, `Assistant: …`, each ended by a blank line; no blank line inside a message. A prompt has no
space after `Assistant:`, so every answer begins with one. Token 0 ends a document (added by `batches`).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

PROMPT_WEIGHT = 0.0  # of system and user text, which is mostly random; its loss would cost a third of the time


@dataclass(frozen=True)
class Segment:
    """Text that is tokenised on its own; weight scales the loss of its tokens."""

    text: str
    weight: float


@dataclass
class Document:
    segments: list[Segment] = field(default_factory=list)


def clean(text: str) -> str:
    """The official G1x cleaning: at most one line feed, no outer whitespace."""
    return re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n")).strip()


class Dialogue:
    """Collects turns. `closed`: the last answer ends with a blank line before token 0. Half of the dialogues do, so
    that generation ends either with token 0 or with the stop string."""

    def __init__(self, rng: random.Random, system: str | None = None) -> None:
        self.rng = rng
        self.segments: list[Segment] = []
        if system:
            self.segments.append(Segment(f"System: {clean(system)}\n\n", PROMPT_WEIGHT))

    def user(self, text: str) -> Dialogue:
        self.segments.append(Segment(f"User: {clean(text)}\n\n", PROMPT_WEIGHT))
        return self

    def observation(self, text: str) -> Dialogue:
        """The tool result in Runner's legacy format."""
        self.segments.append(Segment(f"Observation: {clean(text)}\n\n", PROMPT_WEIGHT))
        return self

    def assistant(self, text: str, prefix: str = "", weight: float = 1.0) -> Dialogue:
        """text follows `Assistant:`; prefix is its beginning if the prompt contains it (` <think`, ` ```json`)."""
        body = " " + clean(text)
        if prefix and not body.startswith(prefix):
            raise ValueError(f"the answer must begin with {prefix!r}")
        self.segments.append(Segment("Assistant:" + prefix, PROMPT_WEIGHT))
        self.segments.append(Segment(body[len(prefix) :] + "\n\n", weight))
        return self

    def document(self) -> Document:
        segments = list(self.segments)
        if self.rng.random() < 0.5:
            last = segments[-1]
            segments[-1] = Segment(last.text.removesuffix("\n\n"), last.weight)
        return Document(segments)
