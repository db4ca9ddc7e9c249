"""How much one client may take, requests a second and connections; and which connection goes when there is no room."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any


class RateLimit:
    """Allows ``burst`` at once and ``per_second`` in the long run; bounded in the number of keys it remembers."""

    def __init__(self, per_second: float, burst: float, most_keys: int = 4096) -> None:
        self.per_second = per_second
        self.burst = burst
        self.most_keys = most_keys
        self._levels: dict[str, tuple[float, float]] = {}  # key -> (level, when), least recently used first
        self._lock = threading.Lock()

    def allows(self, key: str) -> bool:
        """Takes one from ``key``'s bucket; False when it is empty."""
        now = time.monotonic()
        with self._lock:
            level, then = self._levels.pop(key, (self.burst, now))
            level = min(self.burst, level + (now - then) * self.per_second)
            is_allowed = level >= 1
            self._levels[key] = (level - 1 if is_allowed else level, now)
            if len(self._levels) > self.most_keys:
                self._levels.pop(next(iter(self._levels)))
        return is_allowed

    def __len__(self) -> int:
        return len(self._levels)


RECENT_S = 1.0
"""A connection that was used this recently is not idle: its next request may be on the way."""


@dataclass(frozen=True)
class Limits:
    """Deadlines are answered with 408; a connection without a place with 503.

    A body has ``body_grace_s`` and then as long as it takes at ``body_bytes_per_s`` (Apache's mod_reqtimeout gives 20
    seconds and 500 bytes a second). After an answer that ends the connection early, what the client still sends is
    thrown away for ``linger_s`` at most and until it is silent for ``linger_silence_s`` (nginx' lingering_close).
    """

    connections: int = 512
    per_address: int = 128
    header_s: float = 20.0
    body_grace_s: float = 20.0
    body_bytes_per_s: float = 1024.0
    linger_s: float = 10.0
    linger_silence_s: float = 2.0


def address_key(address: str) -> str:
    """What one client is counted by: an IPv4 address, or an IPv6 network of 64 bits, as one host has all of those."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(found) if found.is_loopback else str(IPv6Address(int(found) >> 64 << 64))


class Places:
    """The open HTTP connections by client; upgraded ones have a limit of their own. Used by the loop's thread only.

    ``limit_of`` gives the most connections of one client (by :func:`address_key`).
    """

    def __init__(self, limit: int, limit_of: Callable[[str], int]) -> None:
        self.limit = limit
        self._limit_of = limit_of
        self._channels: defaultdict[str, set[Any]] = defaultdict(set)

    def add(self, channel: Any) -> None:
        self._channels[channel.client].add(channel)

    def discard(self, channel: Any) -> None:
        held = self._channels[channel.client]
        held.discard(channel)
        if not held:
            del self._channels[channel.client]

    def __len__(self) -> int:
        return sum(map(self._count, self._channels))

    def refusal(self, address: str) -> str | None:
        """Why ``address`` gets no further connection. An idle one of its own, or of the client that has most, makes
        room where it can."""
        client = address_key(address)
        if self._count(client) >= self._limit_of(client) and not self._end_idlest(client):
            return "too many connections from this address"
        if len(self) >= self.limit and not self.make_room():
            return "too many connections"
        return None

    def make_room(self) -> bool:
        """Ends an idle connection of the client that has most of those that have one; False when all are in use."""
        return any(map(self._end_idlest, sorted(self._channels, key=self._count, reverse=True)))

    def _count(self, client: str) -> int:
        return sum(not channel.will_close for channel in self._channels.get(client, ()))

    def _end_idlest(self, client: str) -> bool:
        """The channel is closed at the loop's next turn: now, its descriptor's number could be given to another."""
        before = time.time() - RECENT_S  # last_activity is of this clock
        idle = [channel for channel in self._channels.get(client, ()) if channel.is_idle_since(before)]
        if not idle:
            return False
        min(idle, key=lambda channel: channel.last_activity).will_close = True
        return True
