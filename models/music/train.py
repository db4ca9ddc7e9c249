"""`python -m models.music.train midi|abc OUT.safetensors`: trains a tiny RWKV-7 on the tunes of :mod:`.tunes`.

Four minutes on two cores give a model that writes bars of the right length in one key; options change time and sizes.
The file is an ordinary checkpoint with 20,096 or 128 tokens, so it is used like the author's models. Git ignores models
for demonstrations in `models/`:

    python -m models.music.train midi models/roost-tiny-midi.safetensors
    python -m models.music.train abc models/roost-tiny-abc.safetensors

A test trains one of these sizes for seconds (`tests/music/models.py`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.music.tunes import abc_tune, midi_tune
from models.starter.vocabulary import CompactVocabulary
from webapp.music.events import write_text
from webapp.tokenizer import load_tokenizer
from webapp.tokenizer.music import ABC_BEGIN, ABC_END, ABC_SIZE, MIDI
from webapp.training.model import Rwkv7
from webapp.training.operations import ChunkedOperations

SIZES = {"midi": MIDI.size, "abc": ABC_SIZE}
WARM_UP = 10


@dataclass(frozen=True)
class Recipe:
    """Ends after ``steps`` or ``seconds``, whichever comes first."""

    kind: str
    tunes: int = 2000
    n_layer: int = 2
    n_embd: int = 128
    window: int = 128
    batch: int = 16
    steps: int = 100_000
    seconds: float = 240.0
    learning_rate: float = 4e-3
    seed: int = 1


def document(kind: str, seed: int) -> list[int]:
    """One tune as in the author's data: between the tokens that separate pieces."""
    if kind == "abc":
        return [ABC_BEGIN, *map(ord, abc_tune(seed)), ABC_END]
    return [0, *load_tokenizer(MIDI.size).encode(write_text(midi_tune(seed), is_marked=False)), 0]


def train(recipe: Recipe, report_every: int = 0) -> tuple[dict[str, Tensor], dict[str, str], float]:
    """The tensors of a whole model, its metadata, and the last loss in nats per token."""
    torch.manual_seed(recipe.seed)
    size = SIZES[recipe.kind]
    data = [token for seed in range(recipe.tunes) for token in document(recipe.kind, recipe.seed * 1_000_000 + seed)]
    vocabulary = CompactVocabulary({0, *data})
    rows = vocabulary.row_of[torch.tensor(data)]
    model = Rwkv7(recipe.n_layer, recipe.n_embd, vocabulary.n_rows, full_vocabulary=size)
    model.ops = ChunkedOperations()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    began, loss, step = time.monotonic(), 0.0, 0
    for step in range(recipe.steps):
        done = max(step / recipe.steps, (time.monotonic() - began) / recipe.seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / WARM_UP, 3.3 * (1 - done) + 0.02)
        starts = torch.randint(0, len(rows) - recipe.window - 1, (recipe.batch,))
        windows = torch.stack([rows[start : start + recipe.window + 1] for start in starts.tolist()])
        found, _ = model.loss(windows[:, :-1], windows[:, 1:])
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        loss = float(found.detach())
        if report_every and step % report_every == 0:
            print(f"step {step}: {loss:.3f} nats a token, {time.monotonic() - began:.0f} s", flush=True)
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    for name in ("emb.weight", "head.weight"):
        weights[name] = vocabulary.expand(weights[name])[:size]
    metadata = {
        "format": "pt",
        "roost.name": f"Roost tiny {recipe.kind.upper()}",
        "roost.data": "seeded tunes of models/music/tunes.py",
        "roost.used_token_bitmap": vocabulary.bitmap(),
        "roost.steps": str(step),
    }
    return {name: value.half().contiguous() for name, value in weights.items()}, metadata, loss


def write(recipe: Recipe, out: Path, report_every: int = 0) -> float:
    weights, metadata, loss = train(recipe, report_every)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(out), metadata)
    return loss


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.music.train", description=__doc__)
    parser.add_argument("kind", choices=list(SIZES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=Recipe.seconds)
    parser.add_argument("--layers", type=int, default=Recipe.n_layer)
    parser.add_argument("--width", type=int, default=Recipe.n_embd)
    options = parser.parse_args(arguments)
    recipe = Recipe(options.kind, n_layer=options.layers, n_embd=options.width, seconds=options.seconds)
    loss = write(recipe, options.out, report_every=20)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, {loss:.3f} nats a token")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
