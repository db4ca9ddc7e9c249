"""A state written to a file of its own: as state tuning names and turns it, in float32, all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

import numpy as np

from webapp.weights.state_sheet import ARCHITECTURE_KEY, tensor_name


def write_state_file(path: Path, layers: np.ndarray, architecture: str = "", note: str = "") -> None:
    """``layers (n_layer, n_head, head_size, head_size)``. FileExistsError when ``path`` is there already; OSError.

    ``note`` says how it was made, for who looks into the file.
    """
    from safetensors.numpy import save

    tensors = {tensor_name(n): np.ascontiguousarray(layer, np.float32) for n, layer in enumerate(layers)}
    known = {ARCHITECTURE_KEY: architecture, "roost.note": note}
    data = save(tensors, {key: value for key, value in known.items() if value})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        _move_to_free_name(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _move_to_free_name(part: Path, path: Path) -> None:
    """A link fails where the name is taken, and a rename would not; some systems have no links."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(part, path)
