"""A compact vocabulary: the World token ids that occur in the data, and one row shared by all others."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

FULL_VOCABULARY = 65536


class CompactVocabulary:
    """ids: used World token ids, ascending; row i is ids[i], the last row represents all unused ids."""

    def __init__(self, ids: Iterable[int], full: int = FULL_VOCABULARY) -> None:
        self.ids = torch.as_tensor(sorted(set(ids)), dtype=torch.long)
        self.n_rows = len(self.ids) + 1
        self.row_of = torch.full((full,), self.n_rows - 1, dtype=torch.long)
        self.row_of[self.ids] = torch.arange(self.n_rows - 1)

    @property
    def shared_row(self) -> int:
        return self.n_rows - 1

    def expand(self, rows: Tensor) -> Tensor:
        """(n_rows, C) -> (65536, C): the content of an exported emb or head."""
        return rows[self.row_of]

    def bitmap(self) -> str:
        """Base64 of 8,192 bytes: bit i (least significant first in each byte) is 1 if token id i is in use."""
        used = np.zeros(len(self.row_of), dtype=np.uint8)
        used[self.ids.numpy()] = 1
        return base64.b64encode(np.packbits(used, bitorder="little").tobytes()).decode("ascii")


def grown(content: dict[str, Any], ids: Iterable[int]) -> dict[str, Any]:
    """A checkpoint's content with more token ids in use; each starts as a copy of the shared row."""
    old = CompactVocabulary(content["vocabulary"].tolist())
    new = CompactVocabulary([*old.ids.tolist(), *ids])
    source = torch.cat([old.row_of[new.ids], torch.tensor([old.shared_row])])

    def regrown(value: Any) -> Any:
        is_table = isinstance(value, Tensor) and value.dim() == 2 and value.shape[0] == old.n_rows
        return value[source].clone() if is_table else value

    states = {n: {k: regrown(v) for k, v in s.items()} for n, s in content["optimizer"]["state"].items()}
    return {
        **content,
        "vocabulary": new.ids,
        "model": {name: regrown(value) for name, value in content["model"].items()},
        "average": {name: regrown(value) for name, value in content["average"].items()},
        "optimizer": {**content["optimizer"], "state": states},
    }


def ids_from_bitmap(bitmap: str) -> list[int]:
    """Inverse of `CompactVocabulary.bitmap`."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(bitmap), dtype=np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()
