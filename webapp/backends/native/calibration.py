"""The text that scales of 4 and 6 bits are fitted on (``Engine::calibrate`` in src/engine.h).

``calibration.json`` has a few pieces of English, Chinese, code, tables and function calls, written for this purpose,
with their ids in the World vocabulary: a backend has no tokenizer. Models of another vocabulary get plain scales.
"""

from __future__ import annotations

import json
from pathlib import Path

from webapp.engine.state import ModelConfig

PIECES = Path(__file__).with_name("calibration.json")
WORLD_VOCABULARY = range(65_525, 65_537)
"""Sizes that models of the World vocabulary have."""
MOST_TOKENS = 72
"""Of a piece."""


def token_ids(config: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """Ids of each piece; none for a vocabulary that is not World's."""
    if config.vocab_size not in WORLD_VOCABULARY:
        return ()
    return tuple(tuple(piece["ids"]) for piece in json.loads(PIECES.read_text(encoding="utf-8")))
