"""The journal of running answers: one writer; everything that arrives meanwhile is written in one transaction."""

import threading
from contextlib import contextmanager

import pytest

from tests.waiting import PATIENCE_S
from webapp.chat.messages import ContentDelta, ReasoningDelta
from webapp.services.chat import turn_writer
from webapp.services.chat.turn_writer import JOURNAL_TOKENS, Journal


class SlowStore:
    """Its first transaction stays open until ``gate``; ``is_inside`` is set meanwhile."""

    def __init__(self):
        self.database = self
        self.gate, self.is_inside = threading.Event(), threading.Event()
        self.transactions = []

    @contextmanager
    def transaction(self):
        self.transactions.append([])
        yield

    def append_tokens(self, *written):
        self.transactions[-1].append(written)
        self.is_inside.set()
        assert self.gate.wait(PATIENCE_S)


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(turn_writer, "JOURNAL_S", 600.0)
    return SlowStore()


@pytest.fixture
def journal(store):
    journal = Journal(store)
    journal.add("first", [ContentDelta("a")], [1] * JOURNAL_TOKENS)
    assert store.is_inside.wait(PATIENCE_S)
    yield journal
    store.gate.set()
    journal.close()


def test_what_came_while_one_transaction_lasted_is_the_next(store, journal):
    journal.add("first", [ContentDelta("b")], [2])
    journal.add("second", [ReasoningDelta("so"), ContentDelta("x")], [3])
    journal.add("first", [ContentDelta("c")], [4, 5])
    store.gate.set()
    journal.close()
    assert store.transactions == [
        [("first", "a", "", [1] * JOURNAL_TOKENS)],
        [("first", "bc", "", [2, 4, 5]), ("second", "x", "so", [3])],
    ]


def test_an_ended_answer_waits_for_its_pending_writes_and_leaves_nothing(store, journal):
    journal.add("first", [ContentDelta("b")], [2])
    ended = threading.Event()
    threading.Thread(target=lambda: (journal.end("first"), ended.set()), daemon=True).start()
    assert not ended.wait(0.05)  # the transaction is open
    store.gate.set()
    assert ended.wait(PATIENCE_S)
    journal.close()
    assert len(store.transactions) == 1


def test_every_answer_of_a_transaction_that_failed_is_told_why(store, journal, monkeypatch):
    def full_disk(*written):
        raise OSError("no room")

    journal.add("first", [], [2])
    journal.add("second", [], [3])
    monkeypatch.setattr(store, "append_tokens", full_disk)
    store.gate.set()
    journal.close()
    for message_id in ("first", "second"):
        with pytest.raises(OSError, match="no room"):
            journal.add(message_id, [], [])
    journal.add("third", [], [])
