"""What a model is, as far as running it goes; read from its tensors, never from a file name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ARCHITECTURES = ("4", "5.0", "5.1", "5.2", "6", "7")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one RWKV model.

    ``architecture`` is one of :data:`ARCHITECTURES`. ``n_head`` and ``head_size`` are 0 for RWKV-4, which has no heads.
    ``n_att`` is the width of the attention (``n_embd`` in every released model).
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_att: int
    n_ffn: int
    n_head: int
    head_size: int
    vocab_size: int

    @property
    def major(self) -> int:
        """4, 5, 6 or 7."""
        return int(self.architecture[0])

    def state_bytes(self) -> int:
        """Bytes of one sequence's recurrent state in float32."""
        per_layer = 2 * self.n_embd + self.n_att * (3 if self.major == 4 else self.head_size)
        return 4 * self.n_layer * per_layer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
