"""A text as one vector of fixed size: what the model's last layer holds after reading it.

The vector is ``ffn_x_prev`` of the last layer in the state after the text and the token that ends a text: the
normalised activation that the last channel-mixing layer got, ``n_embd`` numbers, in every architecture from 4 to 7.
Its mean over the vector's own entries is taken away, then it is scaled to length 1, so that a dot product is a cosine.
The models were not trained to make embeddings: near means alike in wording and topic, no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from webapp.engine.state import RecurrentState

END_OF_TEXT = 0


class StateReader(Protocol):
    def read_state(self, token_ids: Sequence[int], state: str | None = None) -> RecurrentState: ...


def embedding(manager: StateReader, token_ids: Sequence[int]) -> list[float]:
    """``n_embd`` numbers of length 1. Raises what reading raises: PromptTooLong, TokenOutOfRange, a failed load."""
    state = manager.read_state([*token_ids, END_OF_TEXT])
    return normalised(state.arrays["ffn_x_prev"][-1])


def normalised(row: Any) -> list[float]:
    values = [float(value) for value in row]
    mean = math.fsum(values) / len(values)
    centred = [value - mean for value in values]
    length = math.sqrt(math.fsum(value * value for value in centred))
    return [value / length for value in centred] if length else centred
