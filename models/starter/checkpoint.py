"""A training run on disk, with everything needed to resume it exactly."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

LATEST = "latest.pt"


@dataclass(frozen=True)
class RunConfig:
    """The options of a run, stored in its checkpoints. Token counts are those of windows, including padding."""

    n_layer: int = 6
    n_embd: int = 192
    context: int = 512
    batch: int = 4
    learning_rate: float = 2.5e-3
    weight_decay: float = 0.1
    warmup_steps: int = 60
    seed: int = 1
    at_least: int = 3
    vocabulary_documents: int = 40000


def save_checkpoint(folder: Path, config: RunConfig, content: dict[str, Any]) -> Path:
    """Writes a new file, then replaces the old one, so that an interrupted write loses nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (LATEST + ".partial")
    torch.save({"config": asdict(config), **content}, partial)
    os.replace(partial, folder / LATEST)
    return folder / LATEST


def load_checkpoint(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """path: a checkpoint or its run's folder. Raises FileNotFoundError if there is none."""
    content = torch.load(path / LATEST if path.is_dir() else path, map_location="cpu", weights_only=True)
    return RunConfig(**content.pop("config")), content
