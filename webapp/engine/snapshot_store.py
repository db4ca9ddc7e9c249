"""Snapshots: states found by the tokens that made them, in memory up to a budget and in a folder up to a quota; and
when the state of a running sequence becomes one.

A recurrent state cannot be truncated, so a prompt can only start from a snapshot taken exactly at one of its prefixes.
A snapshot's key covers everything that made it: the model and the options that change its numbers (``identity``), the
digest of the initial state, and the tokens, as a chain of hashes with a link every :data:`BLOCK` tokens. Keys are
BLAKE2b hashes, so no prompt can find the state of another.

What sampling needs besides the state is either stored with it (the logits, if an answer begins at the snapshot's end)
or follows from the request: seed, position, penalties and grammar depend only on the tokens written before.

A thread writes files in the background, newest first: to a ``.part`` file, synced unless many wait, then renamed, so
that no name ever refers to half a snapshot. The file is safetensors; its header has its key and the digest of all its
bytes. Every array uses the narrowest of F32, F16 and BF16 that represents it exactly. A file is checked against the
sizes of the model before its data is used. If a file is missing or damaged, its tokens are prefilled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from webapp.engine.backend import Backend, Row
from webapp.engine.state import LOGITS, PART_ENDING, DamagedFile, ModelConfig, Snapshot, read_snapshot, write_snapshot
from webapp.errors import OutOfMemory

if TYPE_CHECKING:  # the web process asks for the folder's size and must start without numpy
    import numpy as np
    from numpy.typing import NDArray

    from webapp.engine.scheduler import Sequence as RunningSequence

    FloatArray = NDArray[np.float32]

BLOCK = 64
ENDING = ".snapshot"
HEADER_BYTES = 1 << 10
"""The largest header of a valid snapshot."""
MAX_UNWRITTEN_BYTES = 128 << 20
"""If more than this waits to be written, the oldest are dropped: a slow disk costs snapshots."""
MAX_SYNCED = 4
"""If more wait, none is synced: the sync takes 14 of the 17 ms in which a file of 668 kB is written."""
SPARE_BYTES = 1 << 30
"""No snapshots are written to a disk with less free space."""
FULL = 0.95
"""How full the folder is after a clean-up: scanning it takes a moment."""
STALE_PART_S = 600.0
MAX_PREFIXES = 64
RETIRED_S = 30 * 86_400.0
CLOSE_S = 2.0
_KEY_BYTES = 200

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """Key of a prefix of ``length`` tokens: the hash chain over its whole blocks, and the hash of the rest."""

    block: bytes
    length: int
    tail: bytes


class SnapshotStore:
    """Called only by the engine's thread. If all snapshots together exceed ``limit_bytes``, the least recently used
    leave memory; 0 disables snapshots, on disk too. ``folder`` None keeps them in memory only."""

    def __init__(self, limit_bytes: int, folder: SnapshotFolder | None = None, identity: str = "") -> None:
        self.limit_bytes = limit_bytes
        self.folder = folder if limit_bytes else None
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.folder_hits = 0
        self._identity = identity
        self._kept: OrderedDict[Key, Snapshot] = OrderedDict()
        self._by_block: defaultdict[bytes, set[Key]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._kept)

    def longest_prefix(
        self, digest: str, token_ids: Sequence[int], is_for_answer: bool = True
    ) -> tuple[int, Snapshot] | None:
        """The snapshot of the longest prefix from which an answer can continue, and the prefix's length. The prefix can
        be all tokens if the snapshot has logits or ``is_for_answer`` is False; otherwise it is shorter. ``digest`` is
        that of the initial state."""
        ids = array("I", token_ids)
        chain = list(self._chain(digest, ids))
        for number in range(len(chain) - 1, -1, -1):
            block = chain[number]
            for key in sorted(self._keys_of(block), key=lambda key: key.length, reverse=True):
                if key.length > len(ids) or key.tail != _tail(block, ids[number * BLOCK : key.length]):
                    continue
                snapshot = self._get(key, needs_logits=is_for_answer and key.length == len(ids))
                if snapshot is not None:
                    self.hits += 1
                    return key.length, snapshot
        self.misses += 1
        return None

    def prefixes(self, digest: str, token_ids: Sequence[int]) -> list[str]:
        """Names of the :data:`MAX_PREFIXES` longest snapshots of prefixes of these tokens."""
        ids, found = array("I", token_ids), list[str]()
        for number, block in enumerate(self._chain(digest, ids)):
            keys = sorted(self._keys_of(block), key=lambda key: key.length)
            found += [name_of(key, False) for key in keys if key.tail == _tail(block, ids[number * BLOCK : key.length])]
        return found[-MAX_PREFIXES:]

    def contains(self, digest: str, token_ids: Sequence[int], with_logits: bool = False) -> bool:
        """Whether it is in memory. A snapshot without logits does not count if logits are required."""
        found = self._kept.get(self._key(digest, token_ids))
        return found is not None and (found.logits is not None or not with_logits)

    def name(self, digest: str, token_ids: Sequence[int]) -> str:
        """The name of a snapshot of these tokens: its file name without ``-logits`` and the extension."""
        return name_of(self._key(digest, token_ids), False)

    def put(self, digest: str, token_ids: Sequence[int], snapshot: Snapshot, is_lasting: bool = False) -> None:
        """Stores a snapshot as the newest, and on disk if ``is_lasting``. A snapshot larger than the limit is not
        stored. The store owns the snapshot from now on."""
        size = snapshot.nbytes + _KEY_BYTES
        if size > self.limit_bytes:
            return
        key = self._key(digest, token_ids)
        self._forget(key)
        self._kept[key] = snapshot
        self._by_block[key.block].add(key)
        self.used_bytes += size
        if is_lasting and self.folder is not None:
            self.folder.put(key, snapshot)
        while self.used_bytes > self.limit_bytes:
            self._forget(next(iter(self._kept)))

    def retire(self, digest: str, token_ids: Sequence[int], keep: Collection[int]) -> None:
        """Snapshots of prefixes of these tokens leave the folder before others, except those with a length in ``keep``:
        a chat continues from its end more often than from its middle."""
        if self.folder is None:
            return
        ids = array("I", token_ids)
        for number, block in enumerate(self._chain(digest, ids)):
            for key in self.folder.keys_of(block):
                if key.length not in keep and key.tail == _tail(block, ids[number * BLOCK : key.length]):
                    self.folder.retire(key)

    def forget(self, names: Collection[str], in_memory: bool = False) -> None:
        """Removes the snapshots with these names (:meth:`name`), from memory and folder or from memory only."""
        for name in names:
            if (named := key_of(name + ENDING)) is not None:
                self._forget(named[0])
                if self.folder is not None and not in_memory:
                    self.folder.remove(named[0])

    def clear(self) -> None:
        """Clears memory, not the folder."""
        self._kept.clear()
        self._by_block.clear()
        self.used_bytes = 0

    def close(self) -> None:
        """Writes what is still unwritten, for at most :data:`CLOSE_S` seconds."""
        if self.folder is not None:
            self.folder.close()

    def _get(self, key: Key, needs_logits: bool) -> Snapshot | None:
        found = self._kept.get(key)
        if found is not None and (found.logits is not None or not needs_logits):
            self._kept.move_to_end(key)
            if self.folder is not None:
                self.folder.touch(key)
            return found
        found = self.folder.read(key, needs_logits) if self.folder is not None else None
        if found is not None:
            self.folder_hits += 1
            self._forget(key)
            self._kept[key] = found
            self._by_block[key.block].add(key)
            self.used_bytes += found.nbytes + _KEY_BYTES
            while self.used_bytes > self.limit_bytes and len(self._kept) > 1:
                self._forget(next(iter(self._kept)))
        return found

    def _keys_of(self, block: bytes) -> set[Key]:
        in_memory = self._by_block.get(block, set())
        return in_memory if self.folder is None else in_memory | self.folder.keys_of(block)

    def _forget(self, key: Key) -> None:
        snapshot = self._kept.pop(key, None)
        if snapshot is None:
            return
        self.used_bytes -= snapshot.nbytes + _KEY_BYTES
        self._by_block[key.block].discard(key)
        if not self._by_block[key.block]:
            del self._by_block[key.block]

    def _chain(self, digest: str, ids: array[int]) -> Iterator[bytes]:
        """The hash after no block, after one block, and so on."""
        block = hashlib.blake2b(f"{self._identity}\0{digest}".encode(), digest_size=16).digest()
        yield block
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            block = hashlib.blake2b(block + ids[start : start + BLOCK].tobytes(), digest_size=16).digest()
            yield block

    def _key(self, digest: str, token_ids: Sequence[int]) -> Key:
        ids = array("I", token_ids)
        block = list(self._chain(digest, ids))[-1]
        return Key(block, len(ids), _tail(block, ids[len(ids) - len(ids) % BLOCK :]))


def _tail(block: bytes, ids: array[int]) -> bytes:
    return hashlib.blake2b(ids.tobytes(), digest_size=16, key=block).digest()


SNAPSHOT_EVERY = 256
"""Tokens of a long answer between two snapshots."""
PARTS_SHARE = 4
"""The snapshots before parts of one answer use at most 1 / this of the memory for all snapshots."""
WORTH_LASTING = 512
"""A prefill of this many tokens is worth a file, for any request."""


class SequenceSnapshots:
    """When the state of a running sequence is saved as a snapshot, and for how long: where its prompt pauses, during a
    long answer, before each part of an answer, and at its end. A failure costs the snapshot, not the answer."""

    def __init__(self, backend: Backend, store: SnapshotStore) -> None:
        self._backend, self._store = backend, store
        self._config = backend.config

    def at_end(self, sequence: RunningSequence) -> None:
        """Saves the state at an answer's end, after all but its last token. An answer that ends inside a draft needs
        one more step for that."""
        try:
            put_back(self._backend, sequence)
            late = tuple(sequence.pending_token_ids[:-1]) if sequence.is_decoding else ()
            if late and self._store.limit_bytes:
                self._backend.step([Row(slot_of(sequence), late, "nothing")])
                sequence.position += len(late)
        except Exception:
            log.warning("the state at an answer's end could not be kept", exc_info=True)
        else:
            self.keep(sequence)

    def on_the_way(self, sequence: RunningSequence, logits: FloatArray | None) -> None:
        """Saves snapshots of a long answer, so that little is processed again if the engine stops before it ends; and
        one where a part begins, with the state's ``logits``."""
        written = sequence.position - sequence.prompt_length
        is_due = sequence.request.is_kept and written >= sequence.snapshot_after + SNAPSHOT_EVERY
        if is_due and sequence.is_decoding and sequence.before_draft is None:
            sequence.snapshot_after = written
            self.keep(sequence)
        parts = sequence.sampling.parts
        if parts is not None and parts.begins_part and sequence.is_decoding:
            self._keep_part(sequence, logits)

    def _keep_part(self, sequence: RunningSequence, logits: FloatArray | None) -> None:
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

    def keep(self, sequence: RunningSequence, logits: FloatArray | None = None, lasts: bool = True) -> None:
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


def put_back(backend: Backend, sequence: RunningSequence) -> None:
    """Restores the state without draft tokens."""
    if sequence.before_draft is not None:
        sequence.position, saved = sequence.before_draft
        sequence.before_draft = None
        backend.restore(slot_of(sequence), saved)


def slot_of(sequence: RunningSequence) -> int:
    assert sequence.slot is not None, "a running sequence holds a slot"
    return sequence.slot


class SnapshotFolder:
    """Snapshots of all models, as files in one folder that several engines may share. If they exceed ``limit_bytes``,
    the least recently used are deleted; the file's modification time is the time of last use.

    ``config`` belongs to the model whose snapshots are read. Reading and writing never raise; they log failures.
    """

    def __init__(self, path: Path, limit_bytes: int, config: ModelConfig) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self.damaged = 0
        self.used_bytes = 0
        self._config = config
        self._sizes: dict[Key, int] = {}
        self._retired: set[Key] = set()
        self._with_logits: set[Key] = set()
        self._by_block: defaultdict[bytes, set[Key]] = defaultdict(set)
        self._changed = threading.Condition()
        self._unwritten: list[tuple[Key, Snapshot]] = []
        self._unwritten_bytes = 0
        self._thread: threading.Thread | None = None
        self._writing: Key | None = None
        self._is_closed = False
        try:
            self._find()
        except OSError as exc:
            log.warning("the folder of snapshots cannot be read: %s", exc)

    def __len__(self) -> int:
        return len(self._sizes)

    def keys_of(self, block: bytes) -> set[Key]:
        with self._changed:
            return set(self._by_block.get(block, ()))

    def touch(self, key: Key) -> None:
        """Marks it as used, although it was read from memory."""
        with self._changed:
            if key not in self._sizes:
                return
            self._retired.discard(key)
        with contextlib.suppress(OSError):
            os.utime(self._file(key))

    def retire(self, key: Key) -> None:
        """Makes it :data:`RETIRED_S` older."""
        with self._changed:
            if key in self._retired or key not in self._sizes:
                return
            self._retired.add(key)
        with contextlib.suppress(OSError):
            then = self._file(key).stat().st_mtime
            if then > time.time() - RETIRED_S:
                os.utime(self._file(key), (then - RETIRED_S, then - RETIRED_S))

    def put(self, key: Key, snapshot: Snapshot) -> None:
        """Queues it for writing."""
        with self._changed:
            if self._is_closed or (key in self._sizes and (snapshot.logits is None or key in self._with_logits)):
                return
            self._unwritten.append((key, snapshot))
            self._unwritten_bytes += snapshot.nbytes
            while self._unwritten_bytes > MAX_UNWRITTEN_BYTES and len(self._unwritten) > 1:
                self._unwritten_bytes -= self._unwritten.pop(0)[1].nbytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="roost-snapshots", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def remove(self, key: Key) -> None:
        """Removes it, even if it still waits to be written."""
        with self._changed:
            self._unwritten_bytes -= sum(snapshot.nbytes for waiting, snapshot in self._unwritten if waiting == key)
            self._unwritten = [pair for pair in self._unwritten if pair[0] != key]
            self._changed.wait_for(lambda: self._writing != key, CLOSE_S)
            self._forget(key)
        delete_snapshots(self.path, [name_of(key, False)])

    def read(self, key: Key, needs_logits: bool) -> Snapshot | None:
        """None if the file is missing, is damaged (it is then deleted), or lacks logits that are required."""
        with self._changed:
            if key not in self._sizes or (needs_logits and key not in self._with_logits):
                return None
        path = self._file(key)
        try:
            found = read_snapshot(path, self._config)
        except FileNotFoundError:  # cleared, or deleted to make room for another model's
            self._drop(key)
            return None
        except (OSError, DamagedFile) as exc:
            log.warning("%s is damaged and goes; its %d tokens are read again: %s", path.name, key.length, exc)
            self.damaged += 1
            self._drop(key)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self.touch(key)
        return found

    def wait_written(self, timeout_s: float) -> bool:
        """Waits until everything is written; returns False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._unwritten or self._writing), timeout_s)

    def close(self) -> None:
        self.wait_written(CLOSE_S)
        with self._changed:
            self._is_closed = True
            self._unwritten.clear()
            self._changed.notify_all()

    def _name(self, key: Key) -> str:
        return name_of(key, key in self._with_logits)

    def _file(self, key: Key) -> Path:
        return self.path / (self._name(key) + ENDING)

    def _find(self) -> None:
        """Finds the existing files, in the order of their last use."""
        found: list[tuple[int, Key, bool, int]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                named = key_of(entry.name)
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    if named is not None:
                        found.append((stat.st_mtime_ns, *named, stat.st_size))
                    elif entry.name.endswith(PART_ENDING) and stat.st_mtime < time.time() - STALE_PART_S:
                        os.unlink(entry.path)
        with self._changed:
            for _, key, has_logits, size in sorted(found):
                if not (key in self._with_logits and not has_logits):
                    self._add(key, size, has_logits)

    def _add(self, key: Key, size: int, has_logits: bool) -> None:
        self._forget(key)
        self._sizes[key] = size
        self.used_bytes += size
        self._by_block[key.block].add(key)
        if has_logits:
            self._with_logits.add(key)

    def _forget(self, key: Key) -> None:
        self.used_bytes -= self._sizes.pop(key, 0)
        self._with_logits.discard(key)
        self._retired.discard(key)
        if key in self._by_block.get(key.block, ()):
            self._by_block[key.block].discard(key)
            if not self._by_block[key.block]:
                del self._by_block[key.block]

    def _drop(self, key: Key) -> None:
        with self._changed:
            self._forget(key)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._unwritten) or self._is_closed)
                if self._is_closed:
                    return
                key, snapshot = self._unwritten.pop()
                self._unwritten_bytes -= snapshot.nbytes
                self._writing = key
                is_synced = len(self._unwritten) < MAX_SYNCED
            try:
                self._write(key, snapshot, is_synced)
            except Exception as exc:  # a full disk, a missing folder: the answer does not need it
                log.warning("a snapshot of %d tokens could not be written: %s", key.length, exc)
            finally:
                del snapshot
                with self._changed:
                    self._writing = None
                    self._changed.notify_all()

    def _write(self, key: Key, snapshot: Snapshot, is_synced: bool) -> None:
        if snapshot.nbytes + HEADER_BYTES > self.limit_bytes:
            return
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(snapshot.nbytes + HEADER_BYTES)
        if shutil.disk_usage(self.path).free < SPARE_BYTES + snapshot.nbytes:
            raise OSError(f"the disk has less than {SPARE_BYTES >> 20} MiB left")
        has_logits = snapshot.logits is not None
        size = write_snapshot(self.path / (name_of(key, has_logits) + ENDING), snapshot, is_synced)
        with self._changed:
            self._add(key, size, has_logits)
        if has_logits:  # replaces the file without logits
            (self.path / (name_of(key, False) + ENDING)).unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Scans the folder again: another engine may have written to it, and a user may have cleared it."""
        with self._changed:
            if self.used_bytes + size <= self.limit_bytes:
                return
        for name in _oldest_beyond(self.path, int(FULL * self.limit_bytes) - size):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / name)
            if named := key_of(name):
                self._drop(named[0])
        used = folder_use(self.path)[1]
        with self._changed:
            self.used_bytes = used


def _oldest_beyond(path: Path, limit_bytes: int) -> list[str]:
    """Names of the files to delete so that the others stay within the limit."""
    files = []
    with os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(ENDING):
                    stat = entry.stat(follow_symlinks=False)
                    files.append((stat.st_mtime_ns, entry.name, stat.st_size))
    beyond = sum(size for _, _, size in files) - limit_bytes
    names = []
    for _, name, size in sorted(files):
        if beyond <= 0:
            break
        names.append(name)
        beyond -= size
    return names


def folder_use(path: Path) -> tuple[int, int]:
    """The number of snapshots in the folder, and their bytes."""
    count = size = 0
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(ENDING):
                with contextlib.suppress(FileNotFoundError):
                    size += entry.stat(follow_symlinks=False).st_size
                    count += 1
    return count, size


def clear_folder(path: Path) -> int:
    """Deletes every snapshot, even if an engine is using them. Returns their number."""
    count = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith((ENDING, PART_ENDING)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
                    count += entry.name.endswith(ENDING)
    return count


def delete_snapshots(path: Path, names: Collection[str]) -> None:
    """Deletes the snapshots with these names (:meth:`SnapshotStore.name`), even if an engine is using them."""
    for name in names:
        if (named := key_of(name + ENDING)) is not None:
            for has_logits in (False, True):
                with contextlib.suppress(OSError):
                    os.unlink(path / (name_of(named[0], has_logits) + ENDING))


def name_of(key: Key, has_logits: bool) -> str:
    return f"{key.block.hex()}-{key.length}-{key.tail.hex()}" + (f"-{LOGITS}" if has_logits else "")


def key_of(file_name: str) -> tuple[Key, bool] | None:
    """The key in a file name, and whether the file has logits; None for any other file."""
    match = re.fullmatch(
        rf"([0-9a-f]{{32}})-([0-9]{{1,12}})-([0-9a-f]{{32}})(-{LOGITS})?{re.escape(ENDING)}", file_name
    )
    if match is None:
        return None
    return Key(bytes.fromhex(match[1]), int(match[2]), bytes.fromhex(match[3])), match[4] is not None
