"""The engine: requests in, tokens out, one :meth:`LLMEngine.step` at a time, on one thread.

It ties the parts together and owns the backend's slots. Every slot is written at admission, with a cached snapshot or
an initial state, so nothing of the sequence before can be left in it. A sequence that cannot go on ends alone, with
its error; after a failed ``forward`` no state of that batch can be trusted, so the batch ends and the others go on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from webapp.engine.backend import Backend
from webapp.engine.logits_processors import ConstraintFactory
from webapp.engine.outputs import (
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    QueueReport,
    SequenceStats,
    TokenOutput,
)
from webapp.engine.probe import LogitsProbe, Probe, ScoreProbe, StateProbe
from webapp.engine.sampler import Sampler
from webapp.engine.scheduler import PrefillPiece, Scheduler
from webapp.engine.sequence import Sequence, SequenceStatus, TokenIds
from webapp.engine.sequence_factory import SequenceFactory, Start
from webapp.engine.state import RecurrentState
from webapp.engine.state_cache import StateCache
from webapp.errors import EngineCrashed, NonFiniteLogits, OutOfMemory, RequestError, as_roost_error

FloatArray = NDArray[np.float32]
EngineEvent = TokenOutput | PrefillProgress | QueueReport

DEFAULT_STATE_CACHE_BYTES = 512 << 20
TOTALS = ("steps", "finished", "failed", "prompt_tokens", "cached_tokens", "prefilled_tokens", "decoded_tokens")
FAILURES_IN_A_ROW = 5
"""So many forward calls failing with none succeeding between them mean a broken backend, not a bad request."""


class LLMEngine:
    """``banned_token_ids`` are never sampled (ids the tokenizer does not assign); ``penalty_exempt_token_ids`` are
    never counted by penalties. ``max_sequences`` is bounded by the backend's slots. Not thread-safe."""

    def __init__(
        self,
        backend: Backend,
        *,
        max_sequences: int = 32,
        prefill_chunk: int = 64,
        state_cache_bytes: int = DEFAULT_STATE_CACHE_BYTES,
        banned_token_ids: Iterable[int] = (),
        penalty_exempt_token_ids: Iterable[int] = (),
        constraint_factory: ConstraintFactory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.config = backend.config
        self.max_sequences = min(max_sequences, backend.max_slots)
        self.scheduler = Scheduler(self.max_sequences, prefill_chunk)
        self.state_cache = StateCache(state_cache_bytes)
        self._sampler = Sampler(self.config.vocab_size)
        max_snapshots = state_cache_bytes // self.config.state_bytes()
        self._factory = SequenceFactory(
            self.config, banned_token_ids, penalty_exempt_token_ids, constraint_factory, max_snapshots
        )
        self._clock = clock
        self._fresh = self._read_fresh_start()
        self._initial = self._fresh
        self._kept_starts: dict[str, Start] = {}
        self._events: list[EngineEvent] = []
        self._last_report = QueueReport(0)
        self._failures_in_a_row = 0
        self._totals: Counter[str] = Counter()

    # requests

    def add_request(self, request: GenerationRequest) -> None:
        """Queues it. Raises a RequestError for an id in use, an empty prompt, a token outside the vocabulary or a
        constraint that cannot be used, and StateMismatch for an initial state of another model."""
        if self.scheduler.find(request.request_id):
            raise RequestError(reason=f"the request id {request.request_id!r} is in use")
        start = self._start_of(request.initial_state_digest)
        self.scheduler.add(self._factory.make(request, start, arrived_at=self._clock()))

    def abort_request(self, request_id: str) -> None:
        """Frees its slot at once; the next step reports it with what it had written. An unknown id is ignored: it may
        have ended while the abort was on its way."""
        sequence = self.scheduler.find(request_id)
        if sequence is not None:
            self._finish(sequence, FinishReason.ABORT)

    def set_initial_state(self, state: RecurrentState | None, digest: str = "") -> None:
        """What requests added from now on start from; None is the backend's own fresh state. StateMismatch changes
        nothing. ``digest`` is what it is known by, made here when not given."""
        self._initial = self._fresh if state is None else self._checked_start(state, digest)

    def keep_state(self, digest: str, state: RecurrentState) -> None:
        """Lets later requests start from it by naming its digest. StateMismatch keeps nothing."""
        self._kept_starts[digest] = self._checked_start(state, digest)

    def forget_state(self, digest: str) -> None:
        """Sequences that started from it are untouched."""
        self._kept_starts.pop(digest, None)

    def has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting or self._events)

    def step(self) -> list[EngineEvent]:
        """One token for every decoding sequence and at most one prefill chunk; what came of it, in order.

        An exception out of here means the backend cannot be used any more.
        """
        self._totals["steps"] += 1
        for sequence in self.scheduler.admit():
            self._start(sequence)
        self._report_queue()
        plan = self.scheduler.plan()
        self._decode(plan.decoding)
        for piece in plan.prefill:
            self._prefill(piece)
        if not (self.scheduler.running or self.scheduler.waiting):  # else the next step says so, after admission
            self._report_queue()
        events, self._events = self._events, []
        return events

    # reading outside any sequence; ``digest`` names where from, as in a request

    def logits_probe(self, token_ids: TokenIds, every_position: bool = False, digest: str | None = None) -> Probe:
        """Raw logits, as the backend gives them: after the last token, or after each."""
        self._factory.check_token_ids(token_ids)
        return LogitsProbe(self._start_of(digest).state, token_ids, self.scheduler.prefill_chunk, every_position)

    def state_probe(self, token_ids: TokenIds, digest: str | None = None) -> Probe:
        """The state after the last token."""
        self._factory.check_token_ids(token_ids)
        return StateProbe(self._start_of(digest).state, token_ids, self.scheduler.prefill_chunk)

    def score_probe(self, token_ids: TokenIds, alternatives: int = 0, digest: str | None = None) -> Probe:
        """How likely each token but the first was, and the best ``alternatives`` in its place."""
        self._factory.check_token_ids(token_ids)
        return ScoreProbe(self._start_of(digest).state, token_ids, self._sampler, alternatives)

    def advance(self, probe: Probe) -> None:
        """One chunk; no running sequence notices."""
        running = self.scheduler.running
        probe.advance(self.backend, _slot(running[0]) if len(running) == self.backend.max_slots else None)

    def logits(self, token_ids: TokenIds, every_position: bool = False) -> FloatArray:
        """A :meth:`logits_probe` from the initial state, at one go."""
        probe = self.logits_probe(token_ids, every_position)
        while not probe.is_done:
            self.advance(probe)
        found: FloatArray = probe.result()
        return found

    def counters(self) -> dict[str, int]:
        """Totals since the engine began, and what it holds now."""
        cache = self.state_cache
        now = {
            "running": len(self.scheduler.running),
            "waiting": len(self.scheduler.waiting),
            "max_sequences": self.max_sequences,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_bytes": cache.used_bytes,
            "cache_limit_bytes": cache.limit_bytes,
            "cache_snapshots": len(cache),
        }
        return now | {f"{name}_total": self._totals[name] for name in TOTALS}

    # a sequence's way

    def _start(self, sequence: Sequence) -> None:
        sequence.admitted_at = self._clock()
        try:
            sequence.slot = self.backend.new_slot()
            found = self.state_cache.longest_prefix(
                sequence.initial_state_digest, sequence.prompt_token_ids, limit=sequence.prompt_length - 1
            )
            length, state = found or (0, sequence.initial_state.copy())
            self.backend.write_state(sequence.slot, state)
        except Exception as exc:
            self._fail(sequence, exc)
        else:
            sequence.position = sequence.cached_tokens = length

    def _decode(self, sequences: list[Sequence]) -> None:
        logits = self._forward(sequences, [[sequence.pending_token_id] for sequence in sequences])
        if logits is None:
            return
        for sequence, row in zip(sequences, logits, strict=True):
            sequence.position += 1
            self._sample(sequence, row)

    def _prefill(self, piece: PrefillPiece) -> None:
        sequence = piece.sequence
        if sequence.status is SequenceStatus.FINISHED:  # an earlier piece of this step failed
            return
        logits = self._forward([sequence], [sequence.prompt_token_ids[piece.start : piece.end]])
        if logits is None:
            return
        sequence.position = piece.end
        if not np.isfinite(logits).all():
            self._fail(sequence, NonFiniteLogits(tokens=sequence.position))
            return
        if piece.end in sequence.snapshot_lengths:
            self._snapshot(sequence)
        if sequence.prompt_length - sequence.cached_tokens > self.scheduler.prefill_chunk:
            request_id = sequence.request.request_id
            self._events.append(PrefillProgress(request_id, sequence.position, sequence.prompt_length))
        if sequence.position == sequence.prompt_length:
            self.scheduler.start_decoding(sequence)
            self._sample(sequence, logits[0])

    def _forward(self, sequences: list[Sequence], token_ids: list[TokenIds]) -> FloatArray | None:
        """None after a failure: the sequences are ended then."""
        if not sequences:
            return None
        try:
            logits = self.backend.forward([_slot(sequence) for sequence in sequences], token_ids)
        except EngineCrashed:
            raise
        except Exception as exc:
            self._failures_in_a_row += 1
            for sequence in sequences:
                self._fail(sequence, exc)
            if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                raise EngineCrashed(reason=str(as_roost_error(exc))) from exc
            return None
        self._failures_in_a_row = 0
        return logits

    def _sample(self, sequence: Sequence, logits: FloatArray) -> None:
        params = sequence.params
        try:
            if not np.isfinite(logits).all():
                raise NonFiniteLogits(tokens=sequence.position)
            token_id = self._sampler.sample(
                logits, params, sequence.processors, sequence.completion_token_ids, sequence.rng
            )
            if params.logprobs is not None:
                sequence.logprobs.append(self._sampler.token_logprobs(logits, token_id, params.logprobs))
            sequence.accept(token_id)
        except Exception as exc:  # a processor's fault is its own sequence's alone
            self._fail(sequence, exc)
            return
        if sequence.first_token_at is None:
            sequence.first_token_at = self._clock()
        if sequence.stop_matcher.is_stopped:
            self._finish(sequence, FinishReason.STOP)
        elif len(sequence.completion_token_ids) >= params.max_tokens:
            self._finish(sequence, FinishReason.LENGTH)
        elif sequence.releasable:
            token_ids, logprobs = sequence.take()
            self._events.append(TokenOutput(sequence.request.request_id, token_ids, logprobs=logprobs))

    def _finish(self, sequence: Sequence, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends it, keeps its state unless that broke, gives the slot back and sends what was held back."""
        if error is None and sequence.position:
            self._snapshot(sequence)
        self.scheduler.remove(sequence)
        if sequence.slot is not None:
            self.backend.free_slot(sequence.slot)
            sequence.slot = None
        sequence.release_held_back()
        token_ids, logprobs = sequence.take()
        stats = sequence.stats(self._clock())
        self._count(stats, "failed" if error else "finished")
        described = as_roost_error(error).to_dict() if error else None
        self._events.append(
            TokenOutput(sequence.request.request_id, token_ids, reason, stats, error=described, logprobs=logprobs)
        )

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._finish(sequence, FinishReason.ERROR, error=error)

    def _snapshot(self, sequence: Sequence) -> None:
        """Keeps the slot's state under the tokens that made it. Without memory for it, all snapshots go instead."""
        token_ids, digest = sequence.consumed_token_ids, sequence.initial_state_digest
        if self.state_cache.limit_bytes < self.config.state_bytes() or self.state_cache.contains(digest, token_ids):
            return
        try:
            self.state_cache.put(digest, token_ids, self.backend.read_state(_slot(sequence)))
        except (MemoryError, OutOfMemory):
            self.state_cache.clear()

    # smaller parts

    def _count(self, stats: SequenceStats, outcome: str) -> None:
        self._totals[outcome] += 1
        for name in ("prompt", "cached", "prefilled", "decoded"):
            self._totals[f"{name}_tokens"] += getattr(stats, f"{name}_tokens")

    def _read_fresh_start(self) -> Start:
        slot = self.backend.new_slot()
        try:
            return Start.of(self.backend.read_state(slot))
        finally:
            self.backend.free_slot(slot)

    def _checked_start(self, state: RecurrentState, digest: str) -> Start:
        state.check(self.config)
        return Start.of(state.copy(), digest)

    def _start_of(self, digest: str | None) -> Start:
        if not digest:
            return self._initial if digest is None else self._fresh
        if digest not in self._kept_starts:
            raise RequestError(reason=f"the engine was given no state {digest}")
        return self._kept_starts[digest]

    def _report_queue(self) -> None:
        order = self.scheduler.waiting_order()
        waiting = {sequence.request.request_id: ahead for ahead, sequence in enumerate(order)}
        report = QueueReport(len(self.scheduler.running), waiting)
        if report != self._last_report:
            self._last_report = report
            self._events.append(report)


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None, "a running sequence holds a slot"
    return sequence.slot
