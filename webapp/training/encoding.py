"""The World tokenizer for training."""

from __future__ import annotations

from webapp.tokenizer.world import world_tokenizer
from webapp.training.batches import Encode


def world_encode() -> Encode:
    """text -> token ids, no token added."""
    return world_tokenizer().encode
