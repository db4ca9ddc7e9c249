"""The engine's side: its loop, and the process that runs it. In tests the loop also runs in a thread.

The process is a new interpreter (see :mod:`.client`): it inherits no socket, database handle or lock of the web process
and does not run its main module. It reads commands from standard input and writes messages to the original standard
output. Output of libraries goes to standard error, into the last words.

It ends by itself when the web process is gone, for any reason: a separate thread reads the commands, and the end of
that pipe ends the process at once, even during a load.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from webapp.engine.backend import Backend, LoadProgress
from webapp.engine.llm_engine import LLMEngine
from webapp.engine.outputs import FinishReason, GenerationRequest, SequenceStats, TokenOutput
from webapp.engine.probe import Probe
from webapp.engine.registry import resolve_strategy
from webapp.engine.sampler import ConstraintFactory
from webapp.engine.snapshot_store import SnapshotFolder, SnapshotStore
from webapp.engine.state import RecurrentState, Snapshot
from webapp.errors import EngineCrashed, ModelError, OutOfMemory, RoostError, as_roost_error
from webapp.i18n import Text
from webapp.manager import messages
from webapp.manager.memory import is_out_of_memory
from webapp.structured.grammar_constraint import GrammarConstraints
from webapp.tokenizer import Tokenizer
from webapp.weights.child_process import describe_process, take_over_streams, write_frame
from webapp.weights.file_format import model_identity
from webapp.weights.inspection import tokenizer_of

PROGRESS_EVERY_S = 0.05
BEAT_EVERY_S = 1.0
logger = logging.getLogger(__name__)


class EngineLoop:
    """Expects :class:`LoadModel` first, or a :class:`WarmUp` before it, then serves until :class:`Shutdown`.

    Any thread may call ``put`` at any time; it never blocks, so its caller can always continue reading: an engine that
    is busy, or blocked on a full output pipe, still accepts every command.

    ``send`` is called from two threads: the loop's, and one that sends a Heartbeat every second.
    """

    def __init__(self, send: Callable[[messages.Message], None]) -> None:
        self._send = send
        self._progress = 0
        self._is_idle = False
        self._is_over = threading.Event()
        self._commands: queue.SimpleQueue[messages.Command] = queue.SimpleQueue()
        self._is_cancelled = threading.Event()
        self._progress_at = 0.0
        self._probes: deque[tuple[int, Probe]] = deque()

    def put(self, command: messages.Command) -> None:
        # Both must reach a load that is running in the loop's thread.
        if isinstance(command, (messages.CancelLoad, messages.Shutdown)):
            self._is_cancelled.set()
        self._commands.put(command)

    def run(self) -> None:
        """Returns after Shutdown or a failed load; raises the error that broke the engine itself."""
        command = self._commands.get()
        while isinstance(command, messages.WarmUp):
            self._warm_up(command)
            command = self._commands.get()
        if not isinstance(command, messages.LoadModel):
            return
        heart = threading.Thread(target=self._beat, name="roost-engine-heart", daemon=True)
        heart.start()
        try:
            self._run(command)
        finally:
            self._is_over.set()
            heart.join(BEAT_EVERY_S)

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_EVERY_S):
            try:
                self._send(messages.Heartbeat(self._progress, self._is_idle, time.process_time()))
            except OSError:  # the web process is gone; the thread that reads commands sees it too
                return

    def _warm_up(self, command: messages.WarmUp) -> None:
        """Ignores errors in the strategy; the load reports them."""
        with contextlib.suppress(RoostError):
            backend, _ = resolve_strategy(command.strategy)
            backend.warm_up()

    def _run(self, command: messages.LoadModel) -> None:
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                backend = self._load_backend(command)
                stack.callback(backend.close)
                constraints = GrammarConstraints(lambda: tokenizer_for(command))
                stack.callback(constraints.close)
                engine = make_engine(backend, command, constraints)
                stack.callback(engine.snapshots.close)
            except Exception as exc:
                self._fail_load(exc, command)
                return
            self._send(messages.Loaded(backend.config, engine.max_sequences, time.monotonic() - started))
            self._serve(engine)

    def _fail_load(self, exc: Exception, command: messages.LoadModel) -> None:
        self._send(messages.LoadFailed(messages.printable(load_error(exc, command).to_dict())))

    def _load_backend(self, command: messages.LoadModel) -> Backend:
        given = {"threads": command.threads, "custom_cuda": command.custom_cuda, **command.adapter}
        backend, options = resolve_strategy(command.strategy, **given)
        return backend.load(command.path, command.config, options, self._report)

    def _report(self, progress: LoadProgress) -> None:
        """The backend's progress callback; limits the reports, because a load may have many small tensors."""
        if self._is_cancelled.is_set():
            raise ModelError("load_cancelled")
        self._progress += 1
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_EVERY_S or progress.done_tensors >= progress.total_tensors:
            self._progress_at = now
            self._send(messages.Loading(progress))

    def _serve(self, engine: LLMEngine) -> None:
        """Alternates a step for all running answers with a chunk of the oldest probe."""
        while True:
            self._progress += 1
            for command in self._take(wait=not (engine.has_work() or self._probes)):
                if isinstance(command, messages.Shutdown):
                    return
                self._carry_out(engine, command)
            if engine.has_work():
                outputs = engine.step()
                if outputs:
                    self._send(messages.Outputs.of(outputs))
            if self._probes:
                self._advance(engine)

    def _take(self, wait: bool) -> Iterator[messages.Command]:
        """All queued commands; waits for one if there is nothing else to do."""
        if wait:
            self._is_idle = True
            command = self._commands.get()
            self._is_idle = False
            yield command
        while True:
            try:
                yield self._commands.get_nowait()
            except queue.Empty:
                return

    def _carry_out(self, engine: LLMEngine, command: messages.Command) -> None:
        if isinstance(command, messages.Submit):
            self._add(engine, command.request())
        elif isinstance(command, messages.Abort):
            engine.abort_request(command.request_id)
        elif isinstance(command, messages.SetInitialState):
            state = command.state.value() if command.state is not None else None
            engine.set_initial_state(state, command.digest)
        elif isinstance(command, messages.KeepState):
            engine.keep_state(command.digest, command.state.value())
        elif isinstance(command, messages.ForgetState):
            engine.forget_state(command.digest)
        elif isinstance(command, (messages.TakeSnapshot, messages.PutSnapshot)):
            with self._answering_errors(command.call_id):
                self._send(snapshot_reply(engine, command))
        elif isinstance(command, messages.ForgetSnapshots):
            engine.snapshots.forget(command.names)
        elif isinstance(command, messages.ClearSnapshots):
            engine.snapshots.clear()
        elif isinstance(command, messages.ReadCounters):
            self._send(messages.Reply(command.call_id, counters=engine.counters()))
        elif isinstance(command, (messages.ComputeLogits, messages.ReadState, messages.ScoreTokens)):
            with self._answering_errors(command.call_id):
                self._probes.append((command.call_id, make_probe(engine, command)))

    def _add(self, engine: LLMEngine, request: GenerationRequest) -> None:
        try:
            engine.add_request(request)
        except RoostError as exc:
            stats = SequenceStats(prompt_tokens=len(request.prompt_token_ids))
            output = TokenOutput(request.request_id, finish_reason=FinishReason.ERROR, stats=stats, error=exc.to_dict())
            self._send(messages.Outputs.of([output]))

    def _advance(self, engine: LLMEngine) -> None:
        """Runs a chunk of the oldest probe and those that can run with it; if that fails, only of the oldest."""
        count = len(engine.together(probe for _, probe in self._probes))
        if count > 1:
            try:
                engine.advance(*(probe for _, probe in itertools.islice(self._probes, count)))
            except EngineCrashed:
                raise
            except Exception:
                logger.debug("%d texts could not be read together", count, exc_info=True)
            else:
                batch = [self._probes.popleft() for _ in range(count)]
                unfinished = [(call_id, probe) for call_id, probe in batch if not self._replied(call_id, probe)]
                self._probes.extendleft(reversed(unfinished))
                return
        call_id, probe = self._probes.popleft()
        with self._answering_errors(call_id):
            if not probe.is_done:
                engine.advance(probe)
            if not self._replied(call_id, probe):
                self._probes.appendleft((call_id, probe))

    def _replied(self, call_id: int, probe: Probe) -> bool:
        """Replies to the call if the probe is done."""
        if probe.is_done:
            with self._answering_errors(call_id):
                self._send(reply_of(call_id, probe))
        return probe.is_done

    @contextlib.contextmanager
    def _answering_errors(self, call_id: int) -> Iterator[None]:
        try:
            yield
        except EngineCrashed:
            raise
        except Exception as exc:
            self._send(messages.Reply(call_id, error=messages.printable(as_roost_error(exc).to_dict())))


def make_engine(backend: Backend, command: messages.LoadModel, constraints: ConstraintFactory) -> LLMEngine:
    limit_bytes = command.snapshot_limit_bytes
    folder = command.snapshot_folder if limit_bytes else None
    snapshots = SnapshotStore(
        command.state_cache_bytes,
        SnapshotFolder(folder, limit_bytes, backend.config) if folder else None,
        model_identity(Path(command.path), command.strategy, command.custom_cuda, command.adapter) if folder else "",
    )
    engine = LLMEngine(
        backend,
        max_sequences=command.max_sequences,
        prefill_chunk=command.prefill_chunk,
        snapshots=snapshots,
        banned_token_ids=command.banned_token_ids,
        penalty_exempt_token_ids=command.penalty_exempt_token_ids,
        constraint_factory=constraints,
        checks_states=command.checks_states,
    )
    if command.initial_state is not None:
        engine.set_initial_state(command.initial_state.value(), command.initial_state_digest)
    return engine


def tokenizer_for(command: messages.LoadModel) -> Tokenizer:
    return tokenizer_of(command.config.vocab_size, command.path, command.tokenizer or None)


def make_probe(engine: LLMEngine, command: messages.ComputeLogits | messages.ReadState | messages.ScoreTokens) -> Probe:
    if isinstance(command, messages.ComputeLogits):
        return engine.logits_probe(command.token_ids, command.every_position, command.digest)
    if isinstance(command, messages.ScoreTokens):
        return engine.score_probe(command.token_ids, command.alternatives, command.digest, command.first)
    return engine.state_probe(command.token_ids, command.digest, command.names)


def reply_of(call_id: int, probe: Probe) -> messages.Reply:
    found = probe.result()
    if isinstance(found, RecurrentState):
        return messages.Reply(call_id, state=messages.State.of(found))
    return (
        messages.Reply(call_id, scores=found)
        if isinstance(found, tuple)
        else messages.Reply(call_id, logits=messages.Array.of(found))
    )


def snapshot_reply(engine: LLMEngine, command: messages.TakeSnapshot | messages.PutSnapshot) -> messages.Reply:
    if isinstance(command, messages.PutSnapshot):
        logits = command.logits.numpy() if command.logits is not None else None
        snapshot = Snapshot(command.state.value(), logits)
        return messages.Reply(
            command.call_id, name=engine.put_snapshot(command.token_ids, snapshot, command.digest, command.origin)
        )
    found = engine.snapshot(command.token_ids, command.digest, command.origin)
    if found is None:
        return messages.Reply(command.call_id)
    length, snapshot = found
    kept = messages.Array.of(snapshot.logits) if snapshot.logits is not None else None
    return messages.Reply(command.call_id, logits=kept, state=messages.State.of(snapshot.state), length=length)


def load_error(exc: Exception, command: messages.LoadModel) -> RoostError:
    """The error for the user; the traceback of an unexpected one goes to the engine's last words."""
    if isinstance(exc, RoostError):
        return exc
    traceback.print_exc()
    if isinstance(exc, MemoryError) or is_out_of_memory(f"{type(exc).__name__}: {exc}"):
        return OutOfMemory(reason=str(exc) or Text("reason.common.out_of_memory"))
    return ModelError("load_failed", name=os.path.basename(command.path), reason=as_roost_error(exc).params["reason"])


NAME = "roost-engine"


def main() -> None:
    """Never returns: ends the process without unloading native libraries, which may hang or crash."""
    ignore_interrupts()
    commands, replies = take_over_streams()
    faulthandler.enable()
    describe_process(NAME)
    writing = threading.Lock()

    def send(message: messages.Message) -> None:
        frame = messages.pack(message)
        with writing:
            write_frame(replies, frame)

    loop = EngineLoop(send)
    threading.Thread(target=read_commands, args=(commands, loop), name="roost-engine-commands", daemon=True).start()
    exit_code = 0
    try:
        loop.run()
    except BaseException:
        traceback.print_exc()
        exit_code = 1
    sys.stderr.flush()
    os._exit(exit_code)


def read_commands(commands: io.FileIO, loop: EngineLoop) -> None:
    try:
        while True:
            loop.put(messages.read_command(commands))
    except (EOFError, OSError):
        os._exit(0)  # the web process closed the pipe or is gone
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of the terminal; the web process decides and sends Shutdown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
