"""Random RWKV-7 models of the released sizes, for measuring speed if there is no trained one.

    python -m tests.weights.large_models OUT.safetensors 0.19b [--zeros 0.9]

bfloat16, official names; the low-rank matrices are narrower than the released ones. A trained model's squared ReLU
leaves most hidden units of the feed-forward at zero, a random one's half of them: ``--zeros`` gives every unit a
threshold that leaves about that share at zero. Needs up to 8 bytes of memory per parameter.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np

from tests.weights.make_checkpoints import make_tensors, write_tensors

SIZES = {"0.19b": (12, 768), "0.45b": (24, 1024), "1.5b": (24, 2048)}
VOCAB_SIZE = 65_536
THRESHOLD_INPUT = 4.0
"""The value of a constant input of the feed-forward; its weights are the thresholds."""


def write_large_model(path: Path, layers: int, width: int, vocab_size: int = VOCAB_SIZE, zeros: float = 0.5) -> None:
    arrays = make_tensors("7", layers, width, 64, vocab_size)
    for layer in range(layers):
        impose_zeros(arrays, f"blocks.{layer}.", zeros)
    write_tensors(path, arrays, "bfloat16")


def impose_zeros(arrays: dict[str, np.ndarray], block: str, zeros: float) -> None:
    """The first input of the feed-forward becomes a constant (its layer norm has only a bias there), from which every
    hidden unit gets a threshold, so that it is positive in ``1 - zeros`` of the cases."""
    arrays[f"{block}ln2.weight"][0], arrays[f"{block}ln2.bias"][0] = 0.0, THRESHOLD_INPUT
    arrays[f"{block}ffn.x_k"][...] = 0.0  # only of the token itself: mixing two would make the inputs smaller
    key = arrays[f"{block}ffn.key.weight"]
    weight, bias = arrays[f"{block}ln2.weight"][1:], arrays[f"{block}ln2.bias"][1:]
    spread = np.sqrt((key[:, 1:] ** 2) @ weight**2)
    key[:, 0] = -(key[:, 1:] @ bias + statistics.NormalDist().inv_cdf(zeros) * spread) / THRESHOLD_INPUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--zeros", type=float, default=0.5)
    args = parser.parse_args()
    write_large_model(args.path, *SIZES[args.size], zeros=args.zeros)


if __name__ == "__main__":
    main()
