"""From the messages a page shows to those it should show, in as few steps as there are differences.

A branch differs from another of the same chat from some message on: versions, edits, deletions and undo all are this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """A message as some page shows it."""

    id: str
    fingerprint: str


@dataclass(frozen=True)
class Difference:
    """``replaced`` and ``appended`` are indices into the new list, ``removed`` are ids."""

    removed: tuple[str, ...] = ()
    replaced: tuple[int, ...] = ()
    appended: tuple[int, ...] = ()


def difference(shown: Sequence[Shown], wanted: Sequence[Shown]) -> Difference:
    """A page may show only the end of a long branch: then what lies above its first message is left alone.

    When that first message is not in ``wanted`` at all, everything is replaced.
    """
    start = first_common(shown, wanted)
    same = 0
    while same < min(len(shown), len(wanted) - start) and shown[same].id == wanted[start + same].id:
        same += 1
    changed = (i for i in range(same) if shown[i].fingerprint != wanted[start + i].fingerprint)
    return Difference(
        removed=tuple(message.id for message in shown[same:]),
        replaced=tuple(start + i for i in changed),
        appended=tuple(range(start + same, len(wanted))),
    )


def first_common(shown: Sequence[Shown], wanted: Sequence[Shown]) -> int:
    """Where in ``wanted`` the page's first message is; 0 if it shows none or that one is gone."""
    ids = [message.id for message in wanted]
    return ids.index(shown[0].id) if shown and shown[0].id in ids else 0
