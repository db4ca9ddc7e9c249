"""Two spellings of one model: the official tensor names, and those of web-rwkv's ``.st`` files.

web-rwkv (as RWKV-Runner's convert_safetensors.py writes for it) renames ``time_faaaa`` to ``time_first`` and v6's
``time_maa`` to ``time_mix``, turns the last two dimensions of the small low-rank matrices and of ``time_state``, and
gives v5.1's decay and bonus one number a channel instead of one a head. :class:`OfficialNames` reads such a file as if
it had never been converted; :func:`open_official` does so where it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.architecture import describe
from webapp.weights.checkpoint import Checkpoint, open_checkpoint
from webapp.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch

LAYOUT_KEY = "roost.layout"
"""In a safetensors header: ``web-rwkv`` where Roost wrote it so, for the models whose tensors do not tell."""
ARCHITECTURE_KEY = "roost.architecture"
WEB_RWKV = "web-rwkv"
TURNED = re.compile(r"\.(time_mix_w[12]|time_decay_w[12]|[wagv][12]|time_state)$")
PER_HEAD = re.compile(r"\.att\.(time_decay|time_faaaa)$")


@dataclass(frozen=True)
class Spelling:
    """How a tensor is stored. ``is_turned``: last two dimensions exchanged; ``is_repeated``: v5.1's (H,) as (H, N)."""

    stored_name: str
    is_turned: bool = False
    is_repeated: bool = False


def web_rwkv_spelling(name: str, architecture: str) -> Spelling:
    """How web-rwkv wants the tensor with this official name."""
    stored = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix").lower()
    is_repeated = architecture == "5.1" and PER_HEAD.search(name) is not None
    return Spelling(stored, TURNED.search(stored) is not None, is_repeated)


def is_web_rwkv(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bool:
    if "_strategy" in metadata:  # written by the rwkv package, whose loader renames time_faaaa too
        return False
    return metadata.get(LAYOUT_KEY) == WEB_RWKV or describe(infos).naming == WEB_RWKV


def open_official(path: str | Path, any_name: bool = False) -> Checkpoint | OfficialNames:
    """The file's tensors under their official names, whichever it has; errors as of :func:`open_checkpoint`."""
    checkpoint = open_checkpoint(path, any_name)
    infos = {name: checkpoint.info(name) for name in checkpoint.names()}
    return OfficialNames(checkpoint) if is_web_rwkv(infos, checkpoint.metadata) else checkpoint


class OfficialNames:
    """A checkpoint in web-rwkv's spelling, read in the official one. Turned tensors are copies."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.path = checkpoint.path
        self.format = checkpoint.format
        self.metadata = checkpoint.metadata
        self._spellings = self._read_spellings()

    def names(self) -> list[str]:
        return list(self._spellings)

    def spelling(self, name: str) -> Spelling:
        try:
            return self._spellings[name]
        except KeyError:
            raise WeightsError(path=str(self.path), reason=Text("reason.weights.no_tensor_in_it", name=name)) from None

    def info(self, name: str) -> TensorInfo:
        spelling = self.spelling(name)
        stored = self._checkpoint.info(spelling.stored_name)
        shape = stored.shape
        if spelling.is_turned:
            shape = (*shape[:-2], shape[-1], shape[-2])
        if spelling.is_repeated:
            shape = shape[:1]
        return TensorInfo(name, shape, stored.dtype)

    def tensor(self, name: str) -> torch.Tensor:
        spelling = self.spelling(name)
        tensor = self._checkpoint.tensor(spelling.stored_name)
        if spelling.is_turned:
            # Row after row, as in the official file: other strides take other kernels, whose sums round differently.
            tensor = tensor.transpose(-1, -2).contiguous()
        return tensor[:, 0].contiguous() if spelling.is_repeated else tensor

    def array(self, name: str) -> np.ndarray:
        return self._official(name, self._checkpoint.array)

    def bits(self, name: str) -> np.ndarray:
        return self._official(name, self._checkpoint.bits)

    def _official(self, name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        spelling = self.spelling(name)
        array = read(spelling.stored_name)
        if spelling.is_turned:
            array = array.swapaxes(-1, -2)
        return array[:, 0] if spelling.is_repeated else array

    def release(self) -> bool:
        """As of the checkpoint below."""
        return self._checkpoint.release()

    def close(self) -> None:
        self._checkpoint.close()

    def __enter__(self) -> OfficialNames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_spellings(self) -> dict[str, Spelling]:
        names = self._checkpoint.names()
        architecture = self._architecture(names)
        official = {_official_name(name, architecture): name for name in names}
        spellings = {name: web_rwkv_spelling(name, architecture) for name in official}
        for name, spelling in spellings.items():
            if spelling.is_turned and len(self._checkpoint.info(official[name]).shape) < 2:
                raise WeightsError(
                    path=str(self.path), reason=Text("reason.common.is_not_a_matrix", name=official[name])
                )
        return {
            name: Spelling(official[name], spelling.is_turned, spelling.is_repeated)
            for name, spelling in spellings.items()
        }

    def _architecture(self, names: list[str]) -> str:
        marked = self.metadata.get(ARCHITECTURE_KEY, "")
        if marked:
            return marked
        config = describe({name: self._checkpoint.info(name) for name in names}).config
        return config.architecture if config else ""


def _official_name(stored_name: str, architecture: str) -> str:
    """v6 calls its shifts ``time_maa``, v5 ``time_mix``; the bonus is ``time_first`` up to v5.0 only."""
    name = stored_name
    if architecture == "6":
        name = name.replace("time_mix_", "time_maa_")
    if architecture in ("5.1", "5.2", "6"):
        name = name.replace("time_first", "time_faaaa")
    return name
