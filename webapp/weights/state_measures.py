"""The strength of a state in each layer and head, and the distance between two states.

A row is a layer; a column is a head's flattened matrix. RWKV-4 has no heads: its columns are groups of 64 channels of
its attention's memory, the weighted mean of the values (``att_aa / att_bb``). The last token's activations for the next
shift are not memory and not counted. Works on one layer at a time, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUP = 64


@dataclass(frozen=True)
class StateMeasures:
    """``norms[layer][column]``: Euclidean norms. With a second state: ``differences``, the norms of first minus second,
    and ``cosines`` of the angle between them, None if one is zero; otherwise both are empty. ``norm``, ``difference``
    and ``cosine`` are for all layers together; ``layer_cosines`` for each layer."""

    norms: tuple[tuple[float, ...], ...]
    norm: float
    differences: tuple[tuple[float, ...], ...] = ()
    difference: float = 0.0
    cosines: tuple[tuple[float | None, ...], ...] = ()
    layer_cosines: tuple[float | None, ...] = ()
    cosine: float | None = None


def rows_of(arrays: Mapping[str, NDArray[np.float32]]) -> Iterator[NDArray[np.float64]]:
    """``(columns, values)`` of each layer of a state; ``arrays`` as in :class:`webapp.engine.state.RecurrentState`."""
    if "att_kv" in arrays:
        for layer in arrays["att_kv"]:
            yield layer.reshape(len(layer), -1).astype(np.float64)
        return
    for values, weights in zip(arrays["att_aa"], arrays["att_bb"], strict=True):
        mean = np.divide(values, weights, out=np.zeros(len(values)), where=weights > 0)
        yield mean.reshape(len(mean) // GROUP if len(mean) % GROUP == 0 else 1, -1)


def measure(
    first: Mapping[str, NDArray[np.float32]], second: Mapping[str, NDArray[np.float32]] | None = None
) -> StateMeasures:
    """Raises ValueError for states of different shapes."""
    if second is None:
        lengths = [np.linalg.norm(row, axis=1) for row in rows_of(first)]
        return StateMeasures(_plain(lengths), _length(lengths))
    lengths, others, differences, products = [], [], [], []
    for mine, theirs in zip(rows_of(first), rows_of(second), strict=True):
        if mine.shape != theirs.shape:
            raise ValueError("states of different shapes")
        lengths.append(np.linalg.norm(mine, axis=1))
        others.append(np.linalg.norm(theirs, axis=1))
        differences.append(np.linalg.norm(mine - theirs, axis=1))
        products.append((mine * theirs).sum(axis=1))
    each = list(zip(products, lengths, others, strict=True))
    return StateMeasures(
        _plain(lengths),
        _length(lengths),
        _plain(differences),
        _length(differences),
        tuple(tuple(map(_cosine, *map(np.ndarray.tolist, row))) for row in each),
        tuple(_cosine(float(row[0].sum()), _length([row[1]]), _length([row[2]])) for row in each),
        _cosine(float(sum(product.sum() for product in products)), _length(lengths), _length(others)),
    )


def _cosine(product: float, mine: float, theirs: float) -> float | None:
    return max(-1.0, min(1.0, product / (mine * theirs))) if mine * theirs > 0 else None


def _length(rows: list[NDArray[np.float64]]) -> float:
    return math.sqrt(sum(float((row * row).sum()) for row in rows))


def _plain(rows: list[NDArray[np.float64]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row.tolist()) for row in rows)
