"""Who runs next: policy only, no model, no arrays.

A sequence waits, then holds a slot: it prefills its prompt and decodes until it ends. Sequences join and leave at any
step. Slots go to the waiting client with the fewest running sequences, then to the one served longest ago; within a
client, first come first served.

In a step every decoding sequence gets its token, and at most ``prefill_chunk`` prompt tokens are read beside them, so a
long prompt slows an answer in progress by a bounded amount. Prefilling sequences take turns: a short prompt is read
soon although a long one came before it, and chunks stay whole because a backend reads 64 tokens at once far
faster than 8 times 8.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass

from webapp.engine.sequence import Sequence, SequenceStatus


@dataclass(frozen=True)
class PrefillPiece:
    """Prompt tokens ``start`` up to ``end`` of one sequence."""

    sequence: Sequence
    start: int
    end: int


@dataclass(frozen=True)
class StepPlan:
    """One step's work. A sequence may have several pieces, in order: a chunk is split where a snapshot is due."""

    decoding: list[Sequence]
    prefill: list[PrefillPiece]


class Scheduler:
    def __init__(self, max_sequences: int, prefill_chunk: int) -> None:
        self.max_sequences = max_sequences
        self.prefill_chunk = prefill_chunk
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._prefilling: deque[Sequence] = deque()  # whose turn it is stands first
        self._last_turn: dict[str, int] = {}
        self._turns = 0
        self._order: list[Sequence] | None = None  # of the waiting ones; None after a change

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        # A newcomer stands just before the client served last: ahead of whom holds the floor, behind all who waited.
        self._last_turn.setdefault(sequence.request.client, self._turns - 1)
        self._order = None

    def find(self, request_id: str) -> Sequence | None:
        both = (*self.running, *self.waiting)
        return next((sequence for sequence in both if sequence.request.request_id == request_id), None)

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence wherever it stands."""
        for queue in (self.waiting, self.running, self._prefilling):
            if sequence in queue:
                queue.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        self._order = None

    def admit(self) -> list[Sequence]:
        """Moves as many as there is room for from waiting to running; they need a slot now."""
        admitted = self.waiting_order()[: max(0, self.max_sequences - len(self.running))]
        for sequence in admitted:
            self.waiting.remove(sequence)
            self.running.append(sequence)
            self._prefilling.append(sequence)
            self._turns += 1
            self._last_turn[sequence.request.client] = self._turns
            sequence.status = SequenceStatus.PREFILLING
            self._order = None
        return admitted

    def waiting_order(self) -> list[Sequence]:
        """The waiting ones in the order they would get slots if none running ended before."""
        if self._order is None:
            self._forget_idle_clients()
            self._order = self._fair_order()
        return self._order

    def _fair_order(self) -> list[Sequence]:
        queues: defaultdict[str, deque[Sequence]] = defaultdict(deque)
        for sequence in self.waiting:
            queues[sequence.request.client].append(sequence)
        held = Counter(sequence.request.client for sequence in self.running)
        last_turn, turn = dict(self._last_turn), self._turns
        order = []
        while queues:
            client = min(queues, key=lambda name: (held[name], last_turn[name]))
            order.append(queues[client].popleft())
            held[client] += 1
            turn += 1
            last_turn[client] = turn
            if not queues[client]:
                del queues[client]
        return order

    def plan(self) -> StepPlan:
        decoding = [sequence for sequence in self.running if sequence.status is SequenceStatus.DECODING]
        return StepPlan(decoding, self._plan_prefill())

    def start_decoding(self, sequence: Sequence) -> None:
        """Its prompt is read and its first token sampled."""
        self._prefilling.remove(sequence)
        sequence.status = SequenceStatus.DECODING

    def _plan_prefill(self) -> list[PrefillPiece]:
        pieces: list[PrefillPiece] = []
        budget = self.prefill_chunk
        for sequence in list(self._prefilling):
            position = sequence.position
            while budget and position < sequence.prompt_length:
                end = min(sequence.next_pause(position), position + budget)
                pieces.append(PrefillPiece(sequence, position, end))
                budget -= end - position
                position = end
            if not budget:
                self._end_turn_of(sequence)
                break
        return pieces

    def _end_turn_of(self, sequence: Sequence) -> None:
        """It and those before it, who got all they needed, go to the back."""
        self._prefilling.rotate(-1 - self._prefilling.index(sequence))

    def _forget_idle_clients(self) -> None:
        here = {sequence.request.client for sequence in (*self.running, *self.waiting)}
        self._last_turn = {client: turn for client, turn in self._last_turn.items() if client in here}
