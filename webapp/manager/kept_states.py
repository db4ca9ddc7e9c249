"""The states one engine was given by name, so that each crosses the pipe once and not with every request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from webapp.manager.messages import ForgetState, KeepState, State
from webapp.manager.starts import Start

LIMIT_BYTES = 256 << 20
"""A 7B model's state has 33 MB."""


class KeptStates:
    """The least recently used are taken back beyond ``limit_bytes``: commands arrive in order, so whoever named one
    before has begun with it. Not thread-safe."""

    def __init__(self, send: Callable[[KeepState | ForgetState], None], limit_bytes: int = LIMIT_BYTES) -> None:
        self._send = send
        self._limit_bytes = limit_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def give(self, start: Start) -> str:
        """The digest by which the engine now knows it; "" for the model's own beginning."""
        if start.state is None:
            return ""
        digest = start.info.digest
        if digest not in self._sizes:
            self._send(KeepState(digest, State.of(start.state)))
            self._sizes[digest] = start.state.nbytes
        self._sizes.move_to_end(digest)
        while len(self._sizes) > 1 and sum(self._sizes.values()) > self._limit_bytes:
            self._send(ForgetState(self._sizes.popitem(last=False)[0]))
        return digest
