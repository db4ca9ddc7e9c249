"""`python -m models.starter.export RUN_FOLDER OUT.safetensors`: the averaged weights as an ordinary World model.

float16, official names, 65,536 rows: all tokens that training never saw share one row. The metadata lists the ids in
use (`roost.used_token_bitmap`, see `vocabulary.CompactVocabulary.bitmap`), so a sampler can ban the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.starter.checkpoint import load_checkpoint
from models.starter.vocabulary import CompactVocabulary

NAME = "Roost starter model"
LICENSE = "Apache-2.0"
SOURCES = (
    "seeded dialogues of models/starter/data; Taskmaster-4 (CC BY 4.0, Byrne and Ganesh, Google LLC);"
    " glaive function-calling demos (Apache-2.0)"
)


def full_weights(rows: dict[str, Tensor], vocabulary: CompactVocabulary, dtype: torch.dtype) -> dict[str, Tensor]:
    """Compact weights -> the tensors of a World checkpoint."""
    return {
        name: (vocabulary.expand(t) if name in ("emb.weight", "head.weight") else t).detach().to(dtype).contiguous()
        for name, t in rows.items()
    }


def export(run: Path, out: Path, which: str = "average", dtype: torch.dtype = torch.float16) -> dict[str, str]:
    """Writes the model file and returns its metadata. which: "average" or "model" (the last step's weights)."""
    config, content = load_checkpoint(run)
    vocabulary = CompactVocabulary(content["vocabulary"].tolist())
    weights = full_weights(content[which], vocabulary, dtype)
    counters = content["counters"]
    metadata = {
        "format": "pt",
        "roost.name": NAME,
        "roost.license": LICENSE,
        "roost.data": SOURCES,
        "roost.architecture": f"RWKV-7, {config.n_layer} x {config.n_embd}",
        "roost.used_token_bitmap": vocabulary.bitmap(),
        "roost.used_tokens": str(len(vocabulary.ids)),
        "roost.trained_parameters": str(sum(t.numel() for t in content[which].values())),
        "roost.trained_tokens": str(counters["tokens"]),
        "roost.steps": str(counters["step"]),
        "roost.seed": str(config.seed),
        "roost.hours": f"{counters['seconds'] / 3600:.2f}",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(out), metadata)
    return metadata


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.starter.export", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or checkpoint")
    parser.add_argument("out", type=Path, help="file to write, *.safetensors")
    parser.add_argument("--last", action="store_true", help="the last weights instead of their running mean")
    options = parser.parse_args(arguments)
    metadata = export(options.run, options.out, "model" if options.last else "average")
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.1f} MB, {metadata['roost.steps']} steps, {metadata['roost.trained_tokens']} tokens")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
