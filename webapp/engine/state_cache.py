"""Snapshots of recurrent states, found again by the tokens that made them.

A recurrent state cannot be cut back, so a prompt can only go on from a snapshot taken exactly at one of its prefixes.
The key is (digest of the initial state, the prefix's token ids): everything that made the state besides the model.

A plain dict keyed by the prefix's bytes, tried at each length present from the longest down. Not a trie: a trie saves
the keys' memory, and a key of 4,000 tokens is 16 kB beside a state of megabytes; hashing a few hundred such prefixes
takes about a millisecond, and a dict compares whole keys, so a collision can never hand out another prompt's state.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence

from webapp.engine.state import RecurrentState

_Key = tuple[str, bytes]


class StateCache:
    """Least recently used snapshots leave first once all of them exceed ``limit_bytes``; 0 keeps none.

    States are copied in and out, so no slot ever shares memory with the cache.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self._states: OrderedDict[_Key, RecurrentState] = OrderedDict()
        self._lengths: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def __len__(self) -> int:
        return len(self._states)

    def longest_prefix(self, digest: str, token_ids: Sequence[int], limit: int) -> tuple[int, RecurrentState] | None:
        """The snapshot of the longest prefix of at most ``limit`` tokens, and that prefix's length."""
        prefix = _as_bytes(token_ids)
        width = array("I").itemsize
        for length in sorted(self._lengths.get(digest, ()), reverse=True):
            key = (digest, prefix[: length * width])
            if length <= limit and key in self._states:
                self._states.move_to_end(key)
                self.hits += 1
                return length, self._states[key].copy()
        self.misses += 1
        return None

    def contains(self, digest: str, token_ids: Sequence[int]) -> bool:
        return (digest, _as_bytes(token_ids)) in self._states

    def put(self, digest: str, token_ids: Sequence[int], state: RecurrentState) -> None:
        """Keeps a copy as the newest; one that alone exceeds the limit is not kept."""
        key = (digest, _as_bytes(token_ids))
        if _size(key, state) > self.limit_bytes:
            return
        self._remove(key)
        self._states[key] = state.copy()
        self._lengths[digest][len(token_ids)] += 1
        self.used_bytes += _size(key, state)
        while self.used_bytes > self.limit_bytes:
            self._remove(next(iter(self._states)))

    def clear(self) -> None:
        self._states.clear()
        self._lengths.clear()
        self.used_bytes = 0

    def _remove(self, key: _Key) -> None:
        state = self._states.pop(key, None)
        if state is None:
            return
        self.used_bytes -= _size(key, state)
        digest, prefix = key
        lengths = self._lengths[digest]
        lengths[len(prefix) // array("I").itemsize] -= 1
        self._lengths[digest] = +lengths  # drops lengths that no snapshot has any more
        if not self._lengths[digest]:
            del self._lengths[digest]


def _as_bytes(token_ids: Sequence[int]) -> bytes:
    return array("I", token_ids).tobytes()


def _size(key: _Key, state: RecurrentState) -> int:
    return state.nbytes + len(key[1])
