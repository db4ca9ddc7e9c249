"""Where a generation ends by itself: at a stop token, or once a stop sequence is complete."""

from __future__ import annotations

from collections.abc import Iterable


class StopMatcher:
    """Reads sampled tokens one by one and says how many of them are sure to belong to the answer.

    A token that may be the beginning of a stop sequence is held back until that is decided: no part of a stop leaks,
    and nothing is lost when the rest does not come. The stop completed first ends the generation; of two completed by
    the same token, the longer, which begins earlier.
    """

    def __init__(self, stop_token_ids: Iterable[int], stop_token_sequences: Iterable[tuple[int, ...]] = ()) -> None:
        self.is_stopped = False
        self._stop_token_ids = frozenset(stop_token_ids)
        self._sequences = sorted(stop_token_sequences, key=len, reverse=True)
        self._held: list[int] = []

    def feed(self, token_id: int) -> int:
        """How many of the oldest tokens held back, this one included, are now released. A stop voids the rest."""
        self._held.append(token_id)
        stop = self._completed()
        if stop:
            self.is_stopped = True
            return self._release(keep=stop)
        return self._release(keep=self._partial())

    def _completed(self) -> int:
        """Length of the stop that ends here; 0 when none does."""
        for sequence in self._sequences:
            if tuple(self._held[-len(sequence) :]) == sequence:
                return len(sequence)
        return int(self._held[-1] in self._stop_token_ids)

    def _partial(self) -> int:
        """Length of the longest end of what is held that begins a stop sequence."""
        for length in range(len(self._held), 0, -1):
            tail = tuple(self._held[-length:])
            if any(sequence[:length] == tail for sequence in self._sequences):
                return length
        return 0

    def _release(self, keep: int) -> int:
        released = len(self._held) - keep
        del self._held[:released]
        return released
