"""The life of a request in the engine (its sequence, what it has processed and written so far, its draft tokens, when
it stops), and which sequence runs next. Policy only: no model, no arrays.

A sequence waits, then gets a slot: it prefills its prompt and decodes until it ends. Sequences can start and end at any
step. Slots go to the waiting client with the fewest running sequences, then to the client that waited longest; requests
of one client are served in order.

In a step every decoding sequence gets its token, and at most ``prefill_chunk`` prompt tokens are processed with them,
so a long prompt slows running answers by a bounded amount. Prefilling sequences take turns: a short prompt is processed
soon although a long one came before it. Chunks are not split between them, because a backend processes 64 tokens at
once far faster than 8 times 8.
"""

from __future__ import annotations

import collections.abc
import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from enum import Enum
from functools import cached_property

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from webapp.engine.backend import SavedState
from webapp.engine.outputs import GenerationRequest, SequenceStats, TokenLogprob
from webapp.engine.sampler import Adjustments, Constraint, ConstraintFactory, SequenceSampling
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import RequestError
from webapp.i18n import Text

BLOCKS_EVERY = 1024
"""Prompt tokens between two snapshots where no message ends."""
LAST_EACH = 8
"""So many of the last message ends have a snapshot each: a retry or an edit goes back to them."""
MIN_SNAPSHOT_DISTANCE = 128
"""Tokens that may be read again to get to an earlier message end. A pause takes as long as reading 30 tokens, so many
short messages are read about as fast as one long message."""
PART_APART = 16
"""Of a message end far from the prompt's end, this part of the tokens after it may be read again."""


class StopMatcher:
    """Reads sampled tokens one by one and says how many of them are sure to belong to the answer.

    A token that may be the beginning of a stop sequence is held back until that is decided: no part of a stop sequence
    gets out, and no token is lost if it is not completed. The first completed stop ends the generation; if one token
    completes two, the longer one counts, which begins earlier.
    """

    def __init__(self, stop_token_ids: Iterable[int], stop_token_sequences: Iterable[tuple[int, ...]] = ()) -> None:
        self.is_stopped = False
        self._stop_token_ids = frozenset(stop_token_ids)
        self._sequences = sorted(stop_token_sequences, key=len, reverse=True)
        self._held: list[int] = []

    def feed(self, token_id: int) -> int:
        """How many of the oldest held-back tokens, including this one, are released now. A stop discards the rest."""
        self._held.append(token_id)
        stop = self._completed()
        if stop:
            self.is_stopped = True
            return self._release(keep=stop)
        return self._release(keep=self._partial())

    def endings(self) -> set[int]:
        """Each token that would end the answer if it came next."""
        lengths = {sequence: len(sequence) - 1 for sequence in self._sequences}
        begun = (s for s, length in lengths.items() if s[:-1] == tuple(self._held[len(self._held) - length :]))
        return {*self._stop_token_ids, *(sequence[-1] for sequence in begun)}

    def _completed(self) -> int:
        """Length of the stop that ends here; 0 if none does."""
        for sequence in self._sequences:
            if tuple(self._held[-len(sequence) :]) == sequence:
                return len(sequence)
        return int(self._held[-1] in self._stop_token_ids)

    def _partial(self) -> int:
        """Length of the longest tail of the held tokens that begins a stop sequence."""
        if not self._sequences:
            return 0
        for length in range(len(self._held), 0, -1):
            tail = tuple(self._held[-length:])
            if any(sequence[:length] == tail for sequence in self._sequences):
                return length
        return 0

    def _release(self, keep: int) -> int:
        released = len(self._held) - keep
        del self._held[:released]
        return released


TokenIds = collections.abc.Sequence[int]
NGRAM = 3
"""The minimum number of equal tokens for a match,"""
LONGEST_MATCH = 24
"""and the maximum that is compared."""
PLACES = 16
"""How many of the latest occurrences are compared; the one with the longest match is used."""
REMEMBERED = 0.9
"""Decay of the counts of accepted draft tokens, per draft with the same match length."""
FORGIVEN = 0.01
"""Each time a draft is not worth its cost, the counts move by this fraction towards their initial values."""


class Drafter:
    """Draft tokens for speculative decoding of one sequence without a draft model: the continuation of an earlier
    occurrence of the same tokens in the prompt or answer (prompt lookup).

    The engine feeds the draft together with the pending token and samples after each. Each draft token that equals the
    sampled token saves a step. Drafts change neither the sampled tokens nor the text.

    A drafter counts, by match length, how likely a draft token is to be accepted if those before it were. A draft grows
    while the chance that its next token is reached and accepted exceeds the token's cost (as a fraction of a step).
    """

    def __init__(self, token_ids: TokenIds, most: int) -> None:
        self._most = most
        self._ids = list(token_ids)
        self._latest: dict[tuple[int, ...], int] = {}
        """Tokens -> position after their latest occurrence but the current one. ``_earlier``: by that position, the
        position after the occurrence before it, or 0."""
        self._earlier = [0] * NGRAM
        self._match = 0
        self._counts: dict[int, tuple[float, float]] = {}
        """By match length: accepted tokens, and drafts that ended with a rejected token."""

    def feed(self, token_ids: TokenIds) -> None:
        self._ids += token_ids

    def draft(self, room: int, least_chance: float) -> tuple[int, ...]:
        """At most ``room`` tokens, each correct with more than ``least_chance``; () without a match or such tokens."""
        start = self._find()
        if not self._match:
            return ()
        held, ended = self._counts.get(self._match) or self._expected()
        chance = reached = held / (held + ended)
        length = 0
        while length < min(room, self._most) and reached > least_chance:
            length += 1
            reached *= chance
        if not length:
            expected = self._expected()
            held += FORGIVEN * (expected[0] - held)
            self._counts[self._match] = held, ended + FORGIVEN * (expected[1] - ended)
        return tuple(self._ids[start : start + length])

    def judge(self, drafted: int, held: int) -> None:
        """Records that ``held`` of ``drafted`` draft tokens were accepted."""
        before = self._counts.get(self._match) or self._expected()
        self._counts[self._match] = REMEMBERED * before[0] + held, REMEMBERED * before[1] + (held < drafted)

    def _expected(self) -> tuple[float, float]:
        """Initial counts: half the match length accepted for each rejection."""
        return self._match / 2, 1.0

    def _find(self) -> int:
        """The position after the longest match, whose length is stored (0: no match)."""
        ids, self._match = self._ids, 0
        for end in range(len(self._earlier), len(ids)):  # all but the end itself
            key = tuple(ids[end - NGRAM : end])
            self._earlier.append(self._latest.get(key, 0))
            self._latest[key] = end
        best, place = 0, self._latest.get(tuple(ids[-NGRAM:]), 0) if len(ids) >= NGRAM else 0
        for _ in range(PLACES):
            if not place or self._match == LONGEST_MATCH:
                break
            match = NGRAM
            while match < min(LONGEST_MATCH, place) and ids[place - 1 - match] == ids[-1 - match]:
                match += 1
            if match > self._match:
                best, self._match = place, match
            place = self._earlier[place]
        return best


class SequenceStatus(Enum):
    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    FINISHED = "finished"


class Sequence(Struct, eq=False, dict=True):
    """All values that decide how the sequence continues: the tokens that the slot's state has consumed, the pending
    token and the sampling. With the state itself, they allow an exact replay.

    Times are the engine clock's seconds.
    """

    request: GenerationRequest
    initial_state: RecurrentState
    initial_state_digest: str
    seed: int
    sampling: SequenceSampling
    arrived_at: float
    snapshot_lengths: list[int] = field(default_factory=list)
    """Prompt prefix lengths, ascending, where prefill pauses for a snapshot."""
    status: SequenceStatus = SequenceStatus.WAITING
    slot: int | None = None
    position: int = 0
    """How many tokens the slot's state has consumed: prompt first, then sampled ones."""
    cached_tokens: int = 0
    completion_token_ids: list[int] = field(default_factory=list)
    """Every sampled token, including stops. While decoding, the last one is pending: not yet in the state."""
    logprobs: list[tuple[TokenLogprob, ...]] = field(default_factory=list)
    admitted_at: float | None = None
    first_token_at: float | None = None
    drafter: Drafter | None = None
    """Created at the first request for a draft."""
    before_draft: tuple[int, SavedState] | None = None
    """While the state has consumed unconfirmed draft tokens: position and state without them."""
    first_logits: NDArray[np.float32] | None = None
    """From admission to the first sample: the logits after the whole prompt, if they were stored with its state."""
    snapshots: list[str] = field(default_factory=list)
    """Names of the snapshots that it started from or created, in this order."""
    snapshot_after: int = 0
    """How many written tokens the answer's last snapshot has consumed."""
    parts: list[str] = field(default_factory=list)
    """Names of the in-memory snapshots before parts of the answer, in order."""
    part_stride: int = 1
    """A snapshot for every this many parts; it grows if there are too many."""
    parts_begun: int = 0
    start_digest: str = ""
    end_digest: str = ""
    """Digests of the slot's state after admission and at the end, if the engine checks states."""
    _drafter_fed: int = 0
    _sure: int = 0
    _taken: int = 0

    @cached_property
    def stop_matcher(self) -> StopMatcher:
        return StopMatcher(self.params.stop_token_ids, self.params.stop_token_sequences)

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        return self.request.prompt_token_ids

    @property
    def snapshot_digest(self) -> str:
        """The key of its snapshots, together with their tokens."""
        return keyed_digest(self.initial_state_digest, self.request.origin)

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def pending_token_ids(self) -> list[int]:
        """The next tokens for the state: while decoding the last token; several after a rejected draft."""
        return self.completion_token_ids[self.position - self.prompt_length :]

    @property
    def is_decoding(self) -> bool:
        return self.status is SequenceStatus.DECODING

    @property
    def must_go_on(self) -> bool:
        return len(self.completion_token_ids) < self.params.least_tokens

    def draft(self, most: int, least_chance: float) -> tuple[int, ...]:
        """Draft tokens; none if a token depends on more than the tokens before it."""
        params = self.params
        room = min(most, params.max_tokens - len(self.completion_token_ids) - 1)
        if room < 1 or params.logprobs is not None or self.sampling.constraint is not None:
            return ()
        if self.drafter is None:
            self.drafter = Drafter(self.prompt_token_ids, most)
        self.drafter.feed(self.completion_token_ids[self._drafter_fed :])
        self._drafter_fed = len(self.completion_token_ids)
        return self.drafter.draft(room, least_chance)

    @property
    def consumed_token_ids(self) -> tuple[int, ...]:
        """Exactly the tokens that made the slot's state from the initial state."""
        sampled = self.completion_token_ids[: max(0, self.position - self.prompt_length)]
        return (*self.prompt_token_ids[: self.position], *sampled)

    def next_pause(self, position: int) -> int:
        """The position at which a prefill chunk from ``position`` must end at the latest."""
        return next((length for length in self.snapshot_lengths if length > position), self.prompt_length)

    @property
    def releasable(self) -> int:
        """How many sampled tokens are sure to belong to the answer and have not been sent."""
        return self._sure - self._taken

    def accept(self, token_id: int) -> None:
        """Takes a sampled token. Penalties and the constraint do not see a token that stops the sequence."""
        self.completion_token_ids.append(token_id)
        self.sampling.position += 1
        self._sure += self.stop_matcher.feed(token_id)
        if not self.stop_matcher.is_stopped:
            self.sampling.accept(token_id)

    def release_held_back(self) -> None:
        """For an end without a stop: the held-back tokens belong to the answer."""
        if not self.stop_matcher.is_stopped:
            self._sure = len(self.completion_token_ids)

    def take(self) -> tuple[tuple[int, ...], tuple[tuple[TokenLogprob, ...], ...]]:
        """The releasable tokens, once, with their logprobs if requested."""
        new = slice(self._taken, self._sure)
        self._taken = self._sure
        return tuple(self.completion_token_ids[new]), tuple(self.logprobs[new])

    def stats(self, now: float) -> SequenceStats:
        admitted_at = now if self.admitted_at is None else self.admitted_at
        first_token_at = now if self.first_token_at is None else self.first_token_at
        return SequenceStats(
            prompt_tokens=self.prompt_length,
            cached_tokens=self.cached_tokens,
            prefilled_tokens=max(0, min(self.position, self.prompt_length) - self.cached_tokens),
            decoded_tokens=len(self.completion_token_ids),
            queued_s=admitted_at - self.arrived_at,
            prefill_s=first_token_at - admitted_at,
            decode_s=now - first_token_at,
            initial_state_digest=self.initial_state_digest,
            seed=self.seed,
            start_digest=self.start_digest,
            end_digest=self.end_digest,
            snapshots=tuple(self.snapshots),
        )


def keyed_digest(digest: str, origin: str) -> str:
    return f"{digest}\0{origin}" if origin else digest


class Start(Struct, frozen=True):
    """The initial state of a sequence, and the digest that is the key of snapshots made from it. Read-only."""

    state: RecurrentState
    digest: str

    @classmethod
    def of(cls, state: RecurrentState, digest: str = "") -> Start:
        return cls(state, digest or state.digest())


class SequenceFactory:
    """``max_snapshots`` limits the snapshots of a prompt: more than the cache can hold would evict each other."""

    def __init__(
        self,
        config: ModelConfig,
        penalty_exempt_token_ids: Iterable[int],
        constraint_factory: ConstraintFactory | None,
        max_snapshots: int,
    ) -> None:
        self._config = config
        self._penalty_exempt = frozenset(penalty_exempt_token_ids)
        self._constraint_factory = constraint_factory
        self._max_snapshots = max_snapshots

    def make(self, request: GenerationRequest, start: Start, arrived_at: float) -> Sequence:
        """``start`` is used unless the request has its own state.

        Raises RequestError for an empty prompt, a token outside the vocabulary or an unusable constraint, and
        ``state_mismatch`` for an initial state of another model.
        """
        self.check_token_ids(request.prompt_token_ids)
        for token_id in request.params.logit_bias:
            self._check_token_id(token_id)
        if request.initial_state is not None:
            request.initial_state.check(self._config)
            start = Start.of(request.initial_state.copy())
        seed = secrets.randbits(32) if request.params.seed is None else request.params.seed
        sampling = self._sampling(request, seed)
        return Sequence(
            request=request,
            initial_state=start.state,
            initial_state_digest=start.digest,
            seed=seed,
            sampling=sampling,
            arrived_at=arrived_at,
            snapshot_lengths=self._snapshot_lengths(request, sampling.parts is not None),
        )

    def check_token_ids(self, token_ids: Iterable[int]) -> None:
        """Raises ``prompt_empty`` or ``token_out_of_range``."""
        if not token_ids:
            raise RequestError("prompt_empty")
        for token_id in token_ids:
            self._check_token_id(token_id)

    def _check_token_id(self, token_id: int) -> None:
        if not 0 <= token_id < self._config.vocab_size:
            raise RequestError("token_out_of_range", found=token_id, vocab_size=self._config.vocab_size)

    def _sampling(self, request: GenerationRequest, seed: int) -> SequenceSampling:
        start = len(request.prompt_token_ids) - request.begun
        before, begun = request.prompt_token_ids[:start], request.prompt_token_ids[start:]
        adjustments = Adjustments(request.params, self._penalty_exempt, before)
        for token_id in begun:
            adjustments.accept(token_id)
        constraint = None if request.constraint is None else self._constraint(request.constraint)
        sampling = SequenceSampling(request.params, seed, adjustments, constraint)
        sampling.position = len(begun)
        return sampling

    def _constraint(self, description: dict[str, object]) -> Constraint:
        if self._constraint_factory is None:
            raise RequestError(reason=Text("reason.engine.no_constrained_decoding"))
        return self._constraint_factory(description)

    def _snapshot_lengths(self, request: GenerationRequest, is_parted: bool) -> list[int]:
        """Where prefill pauses for snapshots: the first boundary inside the prompt, which other prompts share; the last
        :data:`LAST_EACH`; all boundaries of a text in parts; and enough others that the way back from each boundary to
        a snapshot is at most :data:`MIN_SNAPSHOT_DISTANCE` tokens or 1 / :data:`PART_APART` of the tokens after it.
        Also regular positions in a long prompt, which prompts that differ later share. If there are too many, the last
        ones, which are used most."""
        length = len(request.prompt_token_ids)
        asked = (*request.boundaries, length) if request.is_kept else request.boundaries
        boundaries = sorted({boundary for boundary in asked if 0 < boundary <= length})
        each = boundaries if is_parted else (*boundaries[:1], *boundaries[-LAST_EACH:])
        sure = {*each, *range(BLOCKS_EVERY, length, BLOCKS_EVERY)}
        kept = [0]
        for place in sorted(sure.union(boundaries)):
            if place in sure or place - kept[-1] > max(MIN_SNAPSHOT_DISTANCE, (length - place) // PART_APART):
                kept.append(place)
        return kept[max(1, len(kept) - self._max_snapshots) :]


# which sequence runs next


class PrefillPiece(Struct, frozen=True):
    """Prompt tokens from ``start`` up to ``end`` of one sequence."""

    sequence: Sequence
    start: int
    end: int


class StepPlan(Struct, frozen=True):
    """The work of one step. A sequence may have several pieces, in order: a chunk is split at a snapshot."""

    decoding: list[Sequence]
    prefill: list[PrefillPiece]


class Scheduler:
    def __init__(self, max_sequences: int, prefill_chunk: int) -> None:
        self.max_sequences = max_sequences
        self.prefill_chunk = prefill_chunk
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._prefilling: deque[Sequence] = deque()  # the first one has the next turn
        self._last_turn: dict[str, int] = {}
        self._turns = 0
        self._order: list[Sequence] | None = None  # of the waiting sequences; None after a change

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        # A new client comes just before the client served last and after all clients that waited longer.
        self._last_turn.setdefault(sequence.request.client, self._turns - 1)
        self._order = None

    def find(self, request_id: str) -> Sequence | None:
        both = (*self.running, *self.waiting)
        return next((sequence for sequence in both if sequence.request.request_id == request_id), None)

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence from every queue and marks it as finished."""
        for queue in (self.waiting, self.running, self._prefilling):
            if sequence in queue:
                queue.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        self._order = None

    def admit(self) -> list[Sequence]:
        """Moves as many sequences as there is room for from waiting to running; the caller gives them slots."""
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
        """The waiting sequences in the order in which they would get slots if no running one ended before."""
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
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        return StepPlan(decoding, self._plan_prefill())

    def start_decoding(self, sequence: Sequence) -> None:
        """Its prompt is processed; its first token can be sampled."""
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
        """Moves it and the sequences before it, which got all they needed, to the end."""
        self._prefilling.rotate(-1 - self._prefilling.index(sequence))

    def _forget_idle_clients(self) -> None:
        here = {sequence.request.client for sequence in (*self.running, *self.waiting)}
        self._last_turn = {client: turn for client, turn in self._last_turn.items() if client in here}
