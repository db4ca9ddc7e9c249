"""The engine: requests in, tokens out, one :meth:`LLMEngine.step` at a time, on one thread.

It connects the parts and owns the backend's slots. Every slot is written at admission, with a cached snapshot or an
initial state, so nothing of the previous sequence can remain in it. A sequence that fails ends alone with its error: a
failed step is tried again row by row, and only the rows that fail again end.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from webapp.engine.backend import Backend, Logits, NumpyLogits, Row, line_starts
from webapp.engine.outputs import (
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    QueueReport,
    SequenceStats,
    TokenLogprob,
    TokenOutput,
)
from webapp.engine.probe import LogitsProbe, Probe, ScoreProbe, StateProbe, advance
from webapp.engine.sampler import NO_TOKEN, NOT_FINITE, BatchMaker, ConstraintFactory, Sampled, Words, without
from webapp.engine.scheduler import (
    PrefillPiece,
    Scheduler,
    Sequence,
    SequenceFactory,
    SequenceStatus,
    Start,
    TokenIds,
    keyed_digest,
)
from webapp.engine.snapshot_store import SequenceSnapshots, SnapshotStore, put_back, slot_of
from webapp.engine.state import RecurrentState, Snapshot
from webapp.errors import EngineCrashed, ModelError, RequestError, as_roost_error
from webapp.i18n import Text

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
EngineEvent = TokenOutput | PrefillProgress | QueueReport

DEFAULT_STATE_CACHE_BYTES = 512 << 20
TOTALS = ("steps", "finished", "failed", "prompt_tokens", "cached_tokens", "prefilled_tokens", "decoded_tokens")
DRAFT_TOTALS = ("drafted_tokens", "draft_hits")
"""Draft tokens, and how many of them were accepted."""
MAX_DRAFTING = 4
"""With more answers in a step, the CPU is busy enough without draft tokens."""
ROUNDED = 0.01
"""Tolerance for a state that is read back, relative to its largest value: bfloat16 rounds by 0.004 of it."""
FAILURES_IN_A_ROW = 5
"""This many failed steps without a successful one in between mean a broken backend, not a bad request."""


class Piece(NamedTuple):
    """One row of a step and its sequence. ``end``: how many tokens the state has consumed after the step. ``draft``:
    the draft tokens, which are the last tokens of the row."""

    sequence: Sequence
    row: Row
    end: int
    draft: tuple[int, ...] = ()


class LLMEngine:
    """``banned_token_ids`` are never sampled (the tokenizer does not assign them); penalties never count
    ``penalty_exempt_token_ids``. The backend's slots limit ``max_sequences``; ``prefill_chunk`` 0 means the backend's
    preferred size. ``snapshots`` replaces the default store, which is in memory only. Not thread-safe.

    **Leak guard.** Two sequences cannot write one state: a slot belongs to one sequence from admission to its end.
    After each end, the used slots are compared with those of the running sequences. With ``checks_states`` the engine
    also reads back the state a slot begins with, and the statistics contain digests of the states at the beginning and
    the end. ``state_leaks`` in :meth:`counters` counts the mismatches."""

    def __init__(
        self,
        backend: Backend,
        *,
        max_sequences: int = 32,
        prefill_chunk: int = 0,
        state_cache_bytes: int = DEFAULT_STATE_CACHE_BYTES,
        snapshots: SnapshotStore | None = None,
        banned_token_ids: Iterable[int] = (),
        penalty_exempt_token_ids: Iterable[int] = (),
        constraint_factory: ConstraintFactory | None = None,
        checks_states: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.config = backend.config
        self.max_sequences = min(max_sequences, backend.max_slots)
        self.scheduler = Scheduler(self.max_sequences, prefill_chunk or backend.prefill_tokens)
        self.snapshots = SnapshotStore(state_cache_bytes) if snapshots is None else snapshots
        self._keeping = SequenceSnapshots(backend, self.snapshots)
        self._batches = BatchMaker(self.config.vocab_size, banned_token_ids)
        max_snapshots = self.snapshots.limit_bytes // self.config.state_bytes()
        self._factory = SequenceFactory(self.config, penalty_exempt_token_ids, constraint_factory, max_snapshots)
        self._clock = clock
        self._fresh = self._read_fresh_start()
        self._initial = self._fresh
        self._kept_starts: dict[str, Start] = {}
        self._events: list[EngineEvent] = []
        self._last_report = QueueReport(0)
        self._failures_in_a_row = 0
        self._totals: Counter[str] = Counter()
        self._checks_states = checks_states
        self._slots: set[int] = set()
        self._state_leaks = 0

    # requests

    def add_request(self, request: GenerationRequest) -> None:
        """Queues a request. Raises RequestError for an id in use, an empty prompt, a token outside the vocabulary or an
        unusable constraint, and ``state_mismatch`` for an initial state of another model."""
        if self.scheduler.find(request.request_id):
            raise RequestError(reason=f"the request id {request.request_id!r} is in use")
        start = self._start_of(request.initial_state_digest)
        self.scheduler.add(self._factory.make(request, start, arrived_at=self._clock()))

    def abort_request(self, request_id: str) -> None:
        """Frees the request's slot at once; the next step reports the tokens written so far. Ignores an unknown id: the
        sequence may have ended while the abort was on its way."""
        sequence = self.scheduler.find(request_id)
        if sequence is not None:
            self._finish(sequence, FinishReason.ABORT)

    def set_initial_state(self, state: RecurrentState | None, digest: str = "") -> None:
        """Sets the initial state for later requests; None is the backend's own zero state. ``state_mismatch`` changes
        nothing. ``digest`` identifies the state; it is computed if not given."""
        self._initial = self._fresh if state is None else self._checked_start(state, digest)

    def keep_state(self, digest: str, state: RecurrentState) -> None:
        """Stores a state that later requests can start from by its digest. ``state_mismatch`` stores nothing."""
        self._kept_starts[digest] = self._checked_start(state, digest)

    def forget_state(self, digest: str) -> None:
        """Removes the state; sequences that started from it are not affected."""
        self._kept_starts.pop(digest, None)

    # export and import of snapshots; ``digest`` and ``origin`` are those of the requests that they belong to

    def snapshot(self, token_ids: TokenIds, digest: str | None = None, origin: str = "") -> tuple[int, Snapshot] | None:
        """The snapshot of the longest prefix of these tokens, and the prefix's length. Read-only."""
        key = keyed_digest(self._start_of(digest).digest, origin)
        return self.snapshots.longest_prefix(key, token_ids, is_for_answer=False)

    def put_snapshot(self, token_ids: TokenIds, snapshot: Snapshot, digest: str | None, origin: str) -> str:
        """Stores the snapshot as if the engine had prefilled these tokens, only for requests with this ``origin``.
        Returns its name. ``state_mismatch`` or ``token_out_of_range`` stores nothing."""
        self._factory.check_token_ids(token_ids)
        snapshot.state.check(self.config)
        logits = snapshot.logits
        if logits is not None and (logits.shape != (self.config.vocab_size,) or not np.isfinite(logits).all()):
            snapshot = Snapshot(snapshot.state)
        key = keyed_digest(self._start_of(digest).digest, origin)
        self.snapshots.put(key, token_ids, snapshot, is_lasting=True)
        return self.snapshots.name(key, token_ids)

    def has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting or self._events)

    def step(self) -> list[EngineEvent]:
        """One token for every decoding sequence and at most one prefill chunk. Returns the events in order.

        If it raises, the backend cannot be used any more.
        """
        self._totals["steps"] += 1
        for sequence in self.scheduler.admit():
            self._start(sequence)
            if sequence.first_logits is not None:
                self._draw_first(sequence)
        self._report_queue()
        plan = self.scheduler.plan()
        decoding = [self._decoding_piece(sequence, len(plan.decoding)) for sequence in plan.decoding]
        for pieces in _rounds(decoding, plan.prefill):
            self._run([piece for piece in pieces if piece.sequence.status is not SequenceStatus.FINISHED])
        if not (self.scheduler.running or self.scheduler.waiting):  # else the next step reports it, after admission
            self._report_queue()
        events, self._events = self._events, []
        return events

    # probes: tokens processed outside any sequence; ``digest`` names the initial state, as in a request

    def logits_probe(self, token_ids: TokenIds, every_position: bool = False, digest: str | None = None) -> Probe:
        """Raw logits, as the backend gives them: after the last token, or after each."""
        self._factory.check_token_ids(token_ids)
        return LogitsProbe(self._start_of(digest).state, token_ids, self.scheduler.prefill_chunk, every_position)

    def state_probe(self, token_ids: TokenIds, digest: str | None = None, names: tuple[str, ...] = ()) -> Probe:
        """The state after the last token; only the arrays in ``names`` if there are any."""
        self._factory.check_token_ids(token_ids)
        return StateProbe(self._start_of(digest).state, token_ids, self.scheduler.prefill_chunk, names)

    def score_probe(
        self, token_ids: TokenIds, alternatives: int = 0, digest: str | None = None, first: int = 1
    ) -> Probe:
        """The probability of each token from ``first`` on, and the best ``alternatives`` to it. If ``first`` is above
        1, it starts from the nearest snapshot and keeps the snapshot that an answer needs to continue from
        ``first``."""
        self._factory.check_token_ids(token_ids)
        start, chunk = self._start_of(digest), self.scheduler.prefill_chunk
        if first == 1:
            return ScoreProbe(Snapshot(start.state), token_ids, chunk, alternatives)
        before = tuple(token_ids[:first])
        read, snapshot = self.snapshots.longest_prefix(start.digest, before) or (0, Snapshot(start.state))
        keep = partial(self.snapshots.put, start.digest, before) if read < first else None
        return ScoreProbe(snapshot, token_ids, chunk, alternatives, first, read, keep)

    def together(self, probes: Iterable[Probe]) -> list[Probe]:
        """The first probe, and the following ones that can run in the same step: states of short texts, as many as
        there are free slots and room for tokens in a chunk."""
        waiting = iter(probes)
        found, tokens = [next(waiting)], 0
        if not isinstance(found[0], StateProbe):
            return found
        for probe in itertools.islice(waiting, max(0, self.max_sequences - len(self.scheduler.running) - 1)):
            tokens += len(probe.chunk)
            if not isinstance(probe, StateProbe) or len(found[0].chunk) + tokens > self.scheduler.prefill_chunk:
                break
            found.append(probe)
        return found

    def advance(self, *probes: Probe) -> None:
        """Runs one chunk of each probe in one step, in slots that no sequence uses. If the backend has a single slot
        and a sequence runs in it, that state is saved and restored. If the restore fails, the sequence ends with the
        error, and the probe still gets its chunk."""
        if self.backend.max_slots > 1 or not self.scheduler.running:
            slots: list[int] = []
            try:
                slots.extend(self.backend.new_slot() for _ in probes)
                advance(self.backend, probes, slots)
            finally:
                for slot in slots:
                    self.backend.free_slot(slot)
            return
        [probe] = probes
        sequence = self.scheduler.running[0]
        slot = slot_of(sequence)
        saved = self.backend.save(slot)
        try:
            advance(self.backend, [probe], [slot])
        finally:
            try:
                self.backend.restore(slot, saved)
            except Exception as exc:
                self._fail(sequence, exc)

    def logits(self, token_ids: TokenIds, every_position: bool = False) -> FloatArray:
        """A :meth:`logits_probe` from the initial state, run to its end."""
        probe = self.logits_probe(token_ids, every_position)
        while not probe.is_done:
            self.advance(probe)
        found: FloatArray = probe.result()
        return found

    def counters(self) -> dict[str, int]:
        """Totals since the engine started (written tokens include running answers), and current values."""
        cache, folder = self.snapshots, self.snapshots.folder
        now = {
            "running": len(self.scheduler.running),
            "waiting": len(self.scheduler.waiting),
            "max_sequences": self.max_sequences,
            "slots_used": len(self._slots),
            "states_alive": len(self._slots) + len(self._kept_starts) + len(cache),
            "state_leaks": self._state_leaks,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_bytes": cache.used_bytes,
            "cache_limit_bytes": cache.limit_bytes,
            "cache_snapshots": len(cache),
            "snapshot_files": len(folder) if folder else 0,
            "snapshot_file_bytes": folder.used_bytes if folder else 0,
            "snapshot_file_hits": cache.folder_hits,
            "snapshot_files_damaged": folder.damaged if folder else 0,
        }
        totals = {f"{name}_total": self._totals[name] for name in (*TOTALS, *DRAFT_TOTALS)}
        totals["decoded_tokens_total"] += sum(len(each.completion_token_ids) for each in self.scheduler.running)
        return now | totals

    # the life of a sequence

    def _start(self, sequence: Sequence) -> None:
        sequence.admitted_at = self._clock()
        try:
            sequence.slot = self._take_slot()
            found = self.snapshots.longest_prefix(sequence.snapshot_digest, sequence.prompt_token_ids)
            length, snapshot = found or (0, Snapshot(sequence.initial_state))
            if length and sequence.request.is_kept:
                sequence.snapshots += self.snapshots.prefixes(
                    sequence.snapshot_digest, sequence.prompt_token_ids[:length]
                )
            self.backend.write_state(sequence.slot, snapshot.state.copy())
            if self._checks_states:
                self._check_start(sequence, snapshot.state)
        except Exception as exc:
            self._fail(sequence, exc)
        else:
            sequence.position = sequence.cached_tokens = length
            if length == sequence.prompt_length:
                sequence.first_logits = snapshot.logits

    def _draw_first(self, sequence: Sequence) -> None:
        """Samples the first token of a prompt that was processed before, from the logits stored with its state."""
        assert sequence.first_logits is not None
        logits, sequence.first_logits = NumpyLogits(sequence.first_logits[None].copy()), None
        self.scheduler.start_decoding(sequence)
        self._sample([sequence], logits, [0])
        if sequence.releasable and sequence.is_decoding:
            self._send_tokens(sequence)

    def _decoding_piece(self, sequence: Sequence, beside: int) -> Piece:
        """Adds draft tokens if they pay: an accepted one saves one of ``beside`` sequences its part of a step."""
        pending, most = tuple(sequence.pending_token_ids), self.backend.draft_tokens
        draft: tuple[int, ...] = ()
        if most and beside <= MAX_DRAFTING:
            cost = self.backend.draft_cost
            draft = sequence.draft(most, cost / ((1 - cost) / beside + cost))
        if draft:
            try:
                sequence.before_draft = sequence.position, self.backend.save(slot_of(sequence))
            except Exception:  # no memory for the state: no draft
                draft = ()
        end = sequence.position + len(pending) + len(draft)
        return Piece(sequence, Row(slot_of(sequence), pending + draft, "all" if draft else "last"), end, draft)

    def _run(self, pieces: list[Piece]) -> None:
        """One step of the backend. If it fails, each row is tried alone: only the sequences that fail again end."""
        if not pieces:
            return
        try:
            logits = self.backend.step([piece.row for piece in pieces])
        except EngineCrashed:
            raise
        except Exception as exc:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                raise EngineCrashed(reason=str(as_roost_error(exc))) from exc
            if len(pieces) > 1:
                for piece in pieces:
                    self._run([piece])
            else:
                self._fail(pieces[0].sequence, exc)
            return
        self._failures_in_a_row = 0
        self._take_logits(pieces, logits)

    def _take_logits(self, pieces: list[Piece], logits: Logits) -> None:
        drawing: list[tuple[Piece, int]] = []
        for piece, line in zip(pieces, line_starts([piece.row for piece in pieces]), strict=False):
            sequence = piece.sequence
            sequence.position = piece.end
            if sequence.status is SequenceStatus.PREFILLING and not self._took_prompt(sequence, logits, line):
                continue
            due = len(piece.row.token_ids) - len(piece.draft) - 1 if piece.draft else 0
            drawing.append((piece, line + due))
        before = {  # sampling may overwrite them, and the sampled token decides whether they are needed
            id(piece.sequence): logits.to_numpy([line])[0].copy()
            for piece, line in drawing
            if piece.sequence.sampling.parts is not None
        }
        held = 0
        while drawing:  # once, and once more for each accepted draft token
            for piece, _ in drawing:
                if held == len(piece.draft):
                    piece.sequence.before_draft = None
            self._sample([piece.sequence for piece, _ in drawing], logits, [line for _, line in drawing])
            drawing = [(piece, line + 1) for piece, line in drawing if self._holds(piece, held)]
            held += 1
        for piece in pieces:
            if piece.sequence.releasable and piece.sequence.is_decoding:
                self._send_tokens(piece.sequence)
            self._keeping.on_the_way(piece.sequence, before.get(id(piece.sequence)))

    def _holds(self, piece: Piece, held: int) -> bool:
        """Called after a token was sampled: whether it equals the next draft token. At the end of a draft, restores the
        state from before it unless all of it was accepted; the next step feeds the correct tokens again."""
        sequence, draft = piece.sequence, piece.draft
        if not draft:
            return False
        is_over = sequence.status is SequenceStatus.FINISHED
        if not is_over and held < len(draft) and sequence.completion_token_ids[-1] == draft[held]:
            return True
        self._totals["drafted_tokens"] += len(draft)
        self._totals["draft_hits"] += held
        if sequence.drafter is not None:
            sequence.drafter.judge(len(draft), held)
        if not is_over:
            try:
                put_back(self.backend, sequence)
            except Exception as exc:
                self._fail(sequence, exc)
        return False

    def _took_prompt(self, sequence: Sequence, logits: Logits, line: int) -> bool:
        """Called after a chunk of the prompt; True if it was the last and the first token can be sampled."""
        if sequence.position in sequence.snapshot_lengths:
            if not logits.is_finite(line):
                self._fail(sequence, ModelError("non_finite_logits", tokens=sequence.position))
                return False
            is_whole, is_parted = sequence.position == sequence.prompt_length, sequence.sampling.parts is not None
            begun = logits.to_numpy([line])[0].copy() if is_whole or is_parted else None
            self._keeping.keep(sequence, begun, lasts=is_whole or not is_parted)
        if sequence.prompt_length - sequence.cached_tokens > self.scheduler.prefill_chunk:
            request_id = sequence.request.request_id
            self._events.append(PrefillProgress(request_id, sequence.position, sequence.prompt_length))
        if sequence.position < sequence.prompt_length:
            return False
        self.scheduler.start_decoding(sequence)
        return True

    def _sample(self, sequences: list[Sequence], logits: Logits, lines: list[int]) -> None:
        """Samples the next token of each sequence and adds it to the answer."""
        ready: list[Sequence] = []
        masks: dict[int, Words] = {}
        ready_lines: list[int] = []
        for sequence, line in zip(sequences, lines, strict=True):
            constraint, usable = sequence.sampling.constraint, self._batches.usable
            if constraint is not None:
                try:
                    masks[len(ready)] = constraint.mask(usable)
                except Exception as exc:  # an error of this sequence only
                    self._fail(sequence, exc)
                    continue
            if sequence.must_go_on:
                masks[len(ready)] = without(masks.get(len(ready), usable), sequence.stop_matcher.endings(), usable)
            ready.append(sequence)
            ready_lines.append(line)
        if not ready:
            return
        try:
            batch = self._batches.make([sequence.sampling for sequence in ready], masks)
            sampled = logits.sample(ready_lines, batch)
        except Exception as exc:  # such as a full device: these cannot continue, others may
            for sequence in ready:
                self._fail(sequence, exc)
            return
        for number, (sequence, token_id) in enumerate(zip(ready, sampled.token_ids.tolist(), strict=True)):
            self._accept(sequence, token_id, sampled, number)

    def _accept(self, sequence: Sequence, token_id: int, sampled: Sampled, line: int) -> None:
        params = sequence.params
        try:
            if token_id == NOT_FINITE:
                raise ModelError("non_finite_logits", tokens=sequence.position)
            if token_id == NO_TOKEN:
                raise RequestError(reason=Text("reason.engine.no_token_is_left"))
            if params.logprobs is not None:
                sequence.logprobs.append(_token_logprobs(sampled, line, params.logprobs))
            sequence.accept(token_id)
        except Exception as exc:
            self._fail(sequence, exc)
            return
        if sequence.first_token_at is None:
            sequence.first_token_at = self._clock()
        if sequence.stop_matcher.is_stopped:
            self._finish(sequence, FinishReason.STOP)
        elif len(sequence.completion_token_ids) >= params.max_tokens:
            self._finish(sequence, FinishReason.LENGTH)

    def _send_tokens(self, sequence: Sequence) -> None:
        """Sends the tokens that are sure to belong to the answer."""
        token_ids, logprobs = sequence.take()
        self._events.append(TokenOutput(sequence.request.request_id, token_ids, logprobs=logprobs))

    def _finish(self, sequence: Sequence, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends a sequence, keeps its state unless it failed, frees the slot and sends the held-back tokens."""
        if error is None and sequence.position:
            self._keeping.at_end(sequence)
            if sequence.request.is_kept:
                keep = (sequence.prompt_length, sequence.position)
                self.snapshots.retire(sequence.snapshot_digest, sequence.consumed_token_ids, keep)
        if self._checks_states and error is None and sequence.slot is not None:
            with contextlib.suppress(Exception):  # if the backend is broken, the next step reports it
                sequence.end_digest = self.backend.read_state(sequence.slot).digest()
        self.scheduler.remove(sequence)
        if sequence.slot is not None:
            self._give_back(sequence.slot)
            sequence.slot = None
        self._check_slots()
        sequence.release_held_back()
        token_ids, logprobs = sequence.take()
        stats = sequence.stats(self._clock())
        self._count(stats, "failed" if error else "finished")
        described = as_roost_error(error).to_dict() if error else None
        self._events.append(
            TokenOutput(sequence.request.request_id, token_ids, reason, stats, error=described, logprobs=logprobs)
        )

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """Ends a sequence with an error. If the backend itself is broken, raises: no sequence can continue or start."""
        if isinstance(error, EngineCrashed):
            raise error
        self._finish(sequence, FinishReason.ERROR, error=error)

    # the leak guard

    def _take_slot(self) -> int:
        slot = self.backend.new_slot()
        if slot in self._slots:
            self._leaked(f"slot {slot} was given out twice")
            raise EngineCrashed(reason=f"slot {slot} was given out twice")
        self._slots.add(slot)
        return slot

    def _give_back(self, slot: int) -> None:
        self._slots.discard(slot)
        self.backend.free_slot(slot)

    def _check_slots(self) -> None:
        """Frees and counts slots that belong to no running sequence."""
        for slot in self._slots - {sequence.slot for sequence in self.scheduler.running}:
            self._leaked(f"slot {slot} belonged to no sequence")
            self._give_back(slot)

    def _check_start(self, sequence: Sequence, wanted: RecurrentState) -> None:
        """Compares the slot's state with the state that was written to it; a backend with half-precision states may
        round. Raises ModelError if they differ: an answer must not continue from another sequence's state."""
        found = self.backend.read_state(slot_of(sequence))
        sequence.start_digest = found.digest()
        for name, values in wanted.arrays.items():
            most = float(np.abs(values).max(initial=0.0))
            if not float(np.abs(found.arrays[name] - values).max(initial=0.0)) <= ROUNDED * most:
                self._leaked(f"slot {sequence.slot} does not hold the state that was written to it")
                raise ModelError(reason=Text("reason.engine.state_leaked"))

    def _leaked(self, what: str) -> None:
        self._state_leaks += 1
        log.error("state leak: %s", what)

    # smaller parts

    def _count(self, stats: SequenceStats, result: str) -> None:
        self._totals[result] += 1
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
        last, is_waiting = self._last_report, bool(self.scheduler.waiting)
        if not (is_waiting or last.waiting) and last.running == len(self.scheduler.running):
            return
        order = self.scheduler.waiting_order()
        waiting = {sequence.request.request_id: ahead for ahead, sequence in enumerate(order)}
        report = QueueReport(len(self.scheduler.running), waiting)
        if report != self._last_report:
            self._last_report = report
            self._events.append(report)


def _rounds(decoding: list[Piece], prefill: list[PrefillPiece]) -> list[list[Piece]]:
    """The backend steps, with each sequence at most once in each. Usually one; more if a prompt pauses for a snapshot
    inside its chunk."""
    rounds = [decoding]
    depth: Counter[int] = Counter()
    for part in prefill:
        sequence, end = part.sequence, part.end
        is_looked_at = end == sequence.prompt_length or end in sequence.snapshot_lengths
        row = Row(slot_of(sequence), sequence.prompt_token_ids[part.start : end], "last" if is_looked_at else "nothing")
        if depth[id(sequence)] == len(rounds):
            rounds.append([])
        rounds[depth[id(sequence)]].append(Piece(sequence, row, end))
        depth[id(sequence)] += 1
    return rounds


def _token_logprobs(sampled: Sampled, line: int, alternatives: int) -> tuple[TokenLogprob, ...]:
    assert sampled.logprobs is not None and sampled.best_ids is not None and sampled.best_logprobs is not None
    best = zip(
        sampled.best_ids[line, :alternatives].tolist(), sampled.best_logprobs[line, :alternatives].tolist(), strict=True
    )
    own = TokenLogprob(int(sampled.token_ids[line]), float(sampled.logprobs[line]))
    return (own, *(TokenLogprob(*each) for each in best))
