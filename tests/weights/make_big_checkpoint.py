"""Random RWKV models of real size, written tensor by tensor: a 1.6 B one needs 3.2 GB of disk and 0.3 GB of memory.

    python -m tests.weights.make_big_checkpoint 6 v6-1b6.pth
    python -m tests.weights.make_big_checkpoint 7 v7-1b6.pth

Shapes are those of the released World models (RWKV-6 1B6, RWKV-7 1.5B: 24 layers, 2048 wide, 65,536 tokens), values
those of :mod:`tests.weights.make_checkpoints`, so that logits stay finite. For measuring memory and conversions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.weights import make_checkpoints
from webapp.weights.file_format import read_contents

CHUNK = 2**22
"""Elements drawn at a time: 16 MB as float32."""
V7_RANKS = {"w": 96, "a": 96, "v": 64, "g": 256}  # RWKV-7 World 1.5B


@dataclass(frozen=True)
class Drawn:
    """A tensor that is not generated yet: normal around 0 (with deviation ``spread``) or uniform from ``low``."""

    shape: tuple[int, ...]
    spread: float
    low: float | None = None

    def chunks(self, seed: int) -> Iterator[Any]:
        """Flat bfloat16 torch tensors, in order."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        left = torch.Size(self.shape).numel()
        while left:
            chunk = torch.empty(min(CHUNK, left))
            if self.low is None:
                chunk.normal_(0, self.spread, generator=generator)
            else:
                chunk.uniform_(self.low, self.low + self.spread, generator=generator)
            yield chunk.bfloat16()
            left -= chunk.numel()


class _DrawingMaker(make_checkpoints.Maker):
    """Returns what would be generated, instead of arrays; only the dict uses its results."""

    def normal(self, name: str, shape: tuple[int, ...], scale: float) -> Any:
        return Drawn(shape, scale)

    def uniform(self, name: str, shape: tuple[int, ...], low: float, high: float) -> Any:
        return Drawn(shape, high - low, low)


def drawn_tensors(architecture: str, n_layer: int, n_embd: int, vocab_size: int) -> dict[str, Drawn]:
    """Every tensor of a model by its official name."""
    drawn: Any = make_checkpoints.make_tensors(
        architecture, n_layer, n_embd, vocab_size=vocab_size, maker=_DrawingMaker(0)
    )
    return {name: _with_real_rank(architecture, name, one) for name, one in drawn.items()}


def _with_real_rank(architecture: str, name: str, drawn: Drawn) -> Drawn:
    last = name.rpartition(".")[2]
    if architecture != "7" or last[:-1] not in V7_RANKS or last[-1] not in "12":
        return drawn
    rank = V7_RANKS[last[:-1]]
    shape = (drawn.shape[0], rank) if last[-1] == "1" else (rank, drawn.shape[1])
    return replace(drawn, shape=shape, spread=1 / shape[0] ** 0.5)


def write_big_checkpoint(
    path: Path, architecture: str, *, n_layer: int = 24, n_embd: int = 2048, vocab_size: int = 65536
) -> None:
    """torch writes the file without data (the tensors' memory is never touched), then each tensor is generated into it.
    The zip's checksums remain those of the empty file; torch does not read them."""
    import torch

    drawn = drawn_tensors(architecture, n_layer, n_embd, vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(one.shape, dtype=torch.bfloat16) for name, one in drawn.items()}, part)
    stored = read_contents(part, any_name=True).tensors
    with part.open("r+b") as file:
        for seed, (name, one) in enumerate(drawn.items()):
            file.seek(stored[name].offset)
            for chunk in one.chunks(seed):
                file.write(memoryview(chunk.view(torch.int16).numpy()).cast("B"))
    part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=make_checkpoints.ARCHITECTURES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=2048)
    options = parser.parse_args()
    write_big_checkpoint(options.path, options.architecture, n_layer=options.layers, n_embd=options.width)


if __name__ == "__main__":
    main()
