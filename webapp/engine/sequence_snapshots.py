"""When the state of a running sequence is saved as a snapshot, and for how long: where its prompt pauses, during a long
answer, before each part of an answer, and at its end."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from webapp.engine.backend import Backend, Row
from webapp.engine.scheduler import Sequence, SequenceStatus
from webapp.engine.snapshot_store import Snapshot, SnapshotStore
from webapp.errors import OutOfMemory

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
SNAPSHOT_EVERY = 256
"""Tokens of a long answer between two snapshots."""
PARTS_SHARE = 4
"""The snapshots before parts of one answer use at most 1 / this of the memory for all snapshots."""
WORTH_LASTING = 512
"""A prefill of this many tokens is worth a file, for any request."""


class SequenceSnapshots:
    """A failure costs the snapshot, not the answer."""

    def __init__(self, backend: Backend, store: SnapshotStore) -> None:
        self._backend, self._store = backend, store
        self._config = backend.config

    def at_end(self, sequence: Sequence) -> None:
        """Saves the state at an answer's end, after all but its last token. An answer that ends inside a draft needs
        one more step for that."""
        try:
            put_back(self._backend, sequence)
            late = tuple(sequence.pending_token_ids[:-1]) if sequence.status is SequenceStatus.DECODING else ()
            if late and self._store.limit_bytes:
                self._backend.step([Row(slot_of(sequence), late, "nothing")])
                sequence.position += len(late)
        except Exception:
            log.warning("the state at an answer's end could not be kept", exc_info=True)
        else:
            self.keep(sequence)

    def on_the_way(self, sequence: Sequence, logits: FloatArray | None) -> None:
        """Saves snapshots of a long answer, so that little is processed again if the engine stops before it ends; and
        one where a part begins, with the state's ``logits``."""
        written = sequence.position - sequence.prompt_length
        is_due = sequence.request.is_kept and written >= sequence.snapshot_after + SNAPSHOT_EVERY
        if is_due and sequence.status is SequenceStatus.DECODING and sequence.before_draft is None:
            sequence.snapshot_after = written
            self.keep(sequence)
        parts = sequence.sampling.parts
        if parts is not None and parts.begins_part and sequence.status is SequenceStatus.DECODING:
            self._keep_part(sequence, logits)

    def _keep_part(self, sequence: Sequence, logits: FloatArray | None) -> None:
        """In memory only. If there are more than :data:`PARTS_SHARE` allows, every second one is removed again."""
        sequence.parts_begun += 1
        token_ids, digest = sequence.consumed_token_ids, sequence.snapshot_digest
        if sequence.parts_begun % sequence.part_stride or self._store.contains(digest, token_ids, True):
            return
        self.keep(sequence, logits, lasts=False)
        sequence.parts.append(self._store.name(digest, token_ids))
        size = self._config.state_bytes() + 4 * self._config.vocab_size
        if len(sequence.parts) > max(1, self._store.limit_bytes // PARTS_SHARE // size):
            self._store.forget(sequence.parts[::2], in_memory=True)
            sequence.parts = sequence.parts[1::2]
            sequence.part_stride *= 2

    def keep(self, sequence: Sequence, logits: FloatArray | None = None, lasts: bool = True) -> None:
        """Saves the slot's state under the tokens that made it, and the ``logits (vocab_size,)`` after them if given. A
        failure costs the snapshot, not the answer; if memory is the reason, all snapshots in memory are dropped. A
        snapshot that ``lasts`` is also written to disk, for a kept request or a long prefill."""
        token_ids, digest = sequence.consumed_token_ids, sequence.snapshot_digest
        is_useless = self._store.limit_bytes < self._config.state_bytes()
        if is_useless:
            return
        if sequence.request.is_kept and lasts:
            sequence.snapshots.append(self._store.name(digest, token_ids))
        if self._store.contains(digest, token_ids, logits is not None):
            return
        is_long = len(token_ids) - sequence.cached_tokens >= WORTH_LASTING
        is_lasting = lasts and (sequence.request.is_kept or is_long)
        try:
            snapshot = Snapshot(self._backend.read_state(slot_of(sequence)), logits)
            self._store.put(digest, token_ids, snapshot, is_lasting)
        except (MemoryError, OutOfMemory):
            self._store.clear()
        except Exception:
            log.warning("a snapshot after %d tokens could not be kept", len(token_ids), exc_info=True)


def put_back(backend: Backend, sequence: Sequence) -> None:
    """Restores the state without draft tokens."""
    if sequence.before_draft is not None:
        sequence.position, saved = sequence.before_draft
        sequence.before_draft = None
        backend.restore(slot_of(sequence), saved)


def slot_of(sequence: Sequence) -> int:
    assert sequence.slot is not None, "a running sequence holds a slot"
    return sequence.slot
