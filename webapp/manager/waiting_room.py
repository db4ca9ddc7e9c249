"""Requests that wait for a model to be loaded, each with the target it was checked for. Not thread-safe by itself."""

from __future__ import annotations

from webapp.engine.outputs import FinishReason
from webapp.errors import RoostError
from webapp.manager.handles import EngineSilent, LoadingEvent, RequestHandle
from webapp.manager.target import Target


class WaitingRoom:
    """In order of arrival."""

    def __init__(self) -> None:
        self._pairs: list[tuple[RequestHandle, Target]] = []

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, handle: RequestHandle, target: Target) -> None:
        self._pairs.append((handle, target))

    def has_request(self, request_id: str) -> bool:
        return any(handle.request_id == request_id for handle, _ in self._pairs)

    def remove(self, handle: RequestHandle) -> bool:
        """False when it does not wait here."""
        rest = [pair for pair in self._pairs if pair[0] is not handle]
        is_found, self._pairs = len(rest) < len(self._pairs), rest
        return is_found

    def tell(self, event: LoadingEvent | EngineSilent) -> None:
        for handle, _ in self._pairs:
            handle.put(event)

    def take(self, later: Target | None) -> list[tuple[RequestHandle, Target]]:
        """All but those for ``later``, which is still to be loaded."""
        taken: list[tuple[RequestHandle, Target]] = []
        kept: list[tuple[RequestHandle, Target]] = []
        for handle, target in self._pairs:
            stays = later is not None and target.is_same_model(later)
            (kept if stays else taken).append((handle, target))
        self._pairs = kept
        return taken

    def fail(self, error: RoostError, later: Target | None = None) -> None:
        """Ends all but those for ``later``."""
        for handle, _ in self.take(later):
            handle.finish(FinishReason.ERROR, error)
