"""CUDA graphs for decoding: a step of single tokens is recorded once per number of rows and then replayed, which starts
hundreds of kernels in one call. Tested on a CPU only; not yet run on a GPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from webapp.backends.pytorch.model import Step, TorchModel

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Recorded numbers of rows; other steps are padded with rows for an unused slot."""
WARM_UPS = 2
VARIABLE = "ROOST_TORCH_GRAPHS"
"""``0`` in the environment: every step runs kernel by kernel."""

Record = Callable[[Callable[[], Tensor], str], tuple[Callable[[], object], Tensor]]
"""From the work and its device: a function that repeats it, and the tensor with its result."""


def are_wanted(devices: list[str]) -> bool:
    """All layers must be on one GPU: transfers between devices cannot be recorded."""
    return len(set(devices)) == 1 and devices[0].startswith("cuda") and os.environ.get(VARIABLE) != "0"


class FixedStep:
    """A :class:`Step` of single tokens whose values can be replaced."""

    is_plain = True
    run = None
    lengths: tuple[int, ...] = ()

    def __init__(self, size: int, device: str, slot: int) -> None:
        self.singles = size
        self.token_ids = torch.zeros(size, dtype=torch.long, device=device)
        self.slots = torch.full((size,), slot, dtype=torch.long, device=device)
        self._wanted = torch.arange(size, device=device)

    def index(self, name: str, device: str) -> Tensor:
        return {"slots": self.slots, "wanted": self._wanted}[name]


class DecodeGraphs:
    """``spare_slot`` belongs to the graphs. Only for models for which :func:`are_wanted` is True."""

    def __init__(self, model: TorchModel, spare_slot: int, record: Record | None = None) -> None:
        self._model, self._spare_slot, self._record = model, spare_slot, record or record_on_card
        self._device = model.head_device
        self._capacity = 0
        self._graphs: dict[int, tuple[FixedStep, Callable[[], object], Tensor]] = {}
        self._is_usable = True

    def run(self, step: Step) -> Tensor | None:
        """As :meth:`TorchModel.run`; None for a step that cannot use a graph."""
        count = len(step.rows)
        size = next((size for size in SIZES if size >= count), 0)
        if not (self._is_usable and step.is_plain and size):
            return None
        if self._capacity != self._model.states.capacity:  # the recorded tensors do not exist any more
            self._graphs.clear()
            self._capacity = self._model.states.capacity
        if size not in self._graphs:
            try:
                self._graphs[size] = self._recorded(size)
            except RuntimeError as exc:
                log.warning("decoding runs without CUDA graphs: %s", exc)
                self._graphs.clear()
                self._is_usable = False
                return None
        fixed, replay, hidden = self._graphs[size]
        fixed.slots.fill_(self._spare_slot)
        fixed.slots[:count] = step.index("slots", self._device)
        fixed.token_ids[:count] = step.token_ids.to(self._device)
        replay()
        return hidden[step.index("wanted", self._device)]

    def _recorded(self, size: int) -> tuple[FixedStep, Callable[[], object], Tensor]:
        fixed: Any = FixedStep(size, self._device, self._spare_slot)  # it is run several times meanwhile
        replay, hidden = self._record(lambda: self._model.run(fixed), self._device)
        return fixed, replay, hidden


def record_on_card(work: Callable[[], Tensor], device: str) -> tuple[Callable[[], object], Tensor]:
    """As in torch's manual: a few warm-up runs on a separate stream first."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = work()
    return graph.replay, found
