"""The manager: the only owner of the model in the web process, used by all other packages.

It loads nothing and starts no thread before the first request or ``load``. ``create_app`` or a command creates it once
and closes it.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from webapp.engine.options import EngineOptions
from webapp.engine.outputs import GenerationRequest, TokenLogprob
from webapp.engine.sampling_params import MAX_ALTERNATIVES
from webapp.engine.snapshot_store import delete_snapshots
from webapp.engine.state import ModelConfig, RecurrentState, Snapshot
from webapp.errors import FileMissing, ModelError, QueueFull, RequestError, RoostError
from webapp.i18n import Text
from webapp.manager.handles import Quota, RequestHandle
from webapp.manager.library import ModelLibrary
from webapp.manager.memory import AutomaticEngine, FitCheck, Shortfall, has_room_beside, resident_bytes, shortfall
from webapp.manager.supervisor import StallLimits, Supervisor
from webapp.manager.target import (
    Choice,
    ModelStatus,
    Start,
    StateInfo,
    StatusBoard,
    Target,
    TargetResolver,
    described_target,
    tokenizer_of,
)
from webapp.settings import Settings
from webapp.tokenizer import Tokenizer
from webapp.weights.file_format import content_digest, model_identity, stamp_of
from webapp.weights.file_reader import FAILED_FILES, FileReader
from webapp.weights.inspection import Inspection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from webapp.manager.client import EngineStarter
    from webapp.manager.messages import Reply


class ModelManager:
    """Safe to use from any thread. All errors are of the RoostError tree.

    ``start_engine`` decides where the engine runs (None: in its own process), ``has_room(target)`` whether a swap may
    keep two models in memory for a moment. ``stall_limits`` (default: the settings) say when an engine counts as hung.
    ``shortfall(target, reclaimable_bytes)`` returns why a model does not fit, or None.
    """

    def __init__(
        self,
        settings: Settings,
        start_engine: EngineStarter | None = None,
        library: ModelLibrary | None = None,
        has_room: Callable[[Target], bool] = has_room_beside,
        stall_limits: StallLimits | None = None,
        shortfall: Shortfall = shortfall,
    ) -> None:
        self._settings = settings
        self.library = library or _library(settings)
        defaults = EngineOptions(settings.threads, settings.prefill_chunk, settings.idle_unload_s)
        self._board = StatusBoard()
        self._automatic = AutomaticEngine(self._board.set_note, self._renew)
        trusted = (settings.model, settings.state, settings.adapter, settings.adapter_start)
        self._resolver = TargetResolver(self.library, self._resolve_automatic, trusted, defaults)
        adapter = EngineOptions(
            adapter_file=settings.adapter,
            adapter_alpha=settings.adapter_alpha,
            adapter_start=settings.adapter_start,
        )
        self._first_choice = Choice(settings.model, settings.strategy, settings.state, adapter)
        fit = FitCheck((lambda target, reclaimable: None) if settings.load_anyway else shortfall)
        limits = stall_limits or StallLimits.of(settings.stall_limit_s)
        self._supervisor = Supervisor(settings, start_engine, has_room, self._board.publish, limits, fit)
        self._identity: tuple[object, str] = (None, "")
        self._choosing = threading.Lock()
        self._preparing = threading.Lock()
        self._close_at_exit = _closer(weakref.ref(self))
        atexit.register(self._close_at_exit)

    def status(self) -> ModelStatus:
        """Before the first load: the choice in the settings, as far as its file can be found."""
        status = self._board.status
        if status.model or status.phase != "empty":
            return status
        try:
            target = self._chosen()
        except RoostError:
            chosen = self._first_choice.strategy
            return replace(status, strategy=chosen, chosen_strategy=chosen)
        return replace(self._board.status, **described_target(target))  # with the notes of the choice

    def limit_clients(self, quota: Quota) -> None:
        """Applies this quota to requests from now on."""
        self._supervisor.quota = quota

    def wait_change(self, revision: int, timeout_s: float) -> ModelStatus:
        """Returns at once if ``revision`` is not the newest, otherwise after a change or the timeout."""
        self._board.wait_change(revision, timeout_s)
        return self.status()

    def listen(self, listener: Callable[[], object]) -> None:
        """Calls ``listener`` after every change of the status, in the thread that made it. It must return at once and
        not call the manager."""
        self._board.listen(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        """Ends :meth:`listen`."""
        self._board.forget(listener)

    def load(
        self,
        model: str | None = None,
        strategy: str | None = None,
        state: str | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        """Starts to load or swap in the background; None keeps the current choice. Resets a crash loop.

        Errors that are known before the load are raised at once and change nothing: ModelNotFound, WeightsError,
        StrategyError, BackendUnavailable, ``model_does_not_fit`` (see :meth:`load_anyway`). A state given here must
        fit. If the current state does not fit the new model it is dropped, and ``status().notice`` says why. An adapter
        stays with the model for which it was chosen, unless ``options`` contain one."""
        with self._choosing:
            before = self._supervisor.goal
            choice = before.choice if before else self._first_choice
            if options is None and model is not None and model != choice.model:
                options = choice.options.with_adapter("")
            wanted = choice.changed(model=model, strategy=strategy, state=state, options=options)
            self._automatic.ask_again()
            may_drop_state = state is None and (before is not None or model is not None)
            loaded = self._supervisor.loaded_target
            self._supervisor.request_load(self._resolver.resolve(wanted, before, may_drop_state, loaded))

    def _resolve_automatic(self, inspection: Inspection, in_use: str) -> str:
        return self._automatic.strategy(inspection, in_use, self.engine_memory_bytes())

    def _renew(self) -> None:
        """Called when ``auto`` means a better strategy than before: loads a model that ``auto`` loaded again in the
        background, once no other change is running. The old engine finishes its running answers."""
        self._supervisor.wait_settled(None)
        with self._choosing:
            loaded = self._supervisor.loaded_target
            if loaded is not None and loaded.automatic:
                target = self._resolver.resolve(loaded.choice, loaded, may_drop_state=True, loaded=loaded)
                self._supervisor.request_renewal(target)

    def begin_loading(self) -> None:
        """Starts to load the chosen model before a :meth:`submit`, which then reports any error."""
        with contextlib.suppress(RoostError):
            self._supervisor.ensure_loading(self._chosen(for_loading=True))

    def prepare(self) -> None:
        """Prepares for a possible :meth:`submit`, for example when a page opens: starts the engine process in the
        background and reads the vocabulary, but loads no model. Does nothing if a model is loaded or loading."""
        if self._supervisor.is_idle and self._preparing.acquire(blocking=False):
            threading.Thread(target=self._prepare, name="roost-prepare", daemon=True).start()

    def _prepare(self) -> None:
        try:
            with contextlib.suppress(RoostError):
                target = self._chosen(for_loading=True)
                self._supervisor.prepare(target)
                tokenizer_of(target)
        finally:
            self._preparing.release()

    def load_anyway(self) -> None:
        """Loads the model that :meth:`load` or a request last refused because it does not fit. From then on requests
        load it too, until memory runs out. Raises ``no_model`` if nothing was refused."""
        self._supervisor.request_refused()

    def choose(
        self,
        model: str | None = None,
        strategy: str | None = None,
        state: str | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        """Sets what the first request loads instead of the settings' choice; None keeps that. Loads and checks nothing,
        and has no effect once something was chosen."""
        with self._choosing:
            self._first_choice = self._first_choice.changed(
                model=model, strategy=strategy, state=state, options=options
            )

    def choice(self) -> Choice:
        """The choice as it was given, for another :meth:`load`."""
        goal = self._supervisor.goal
        return goal.choice if goal is not None else self._first_choice

    def options(self) -> EngineOptions:
        """The options of the current choice, as they were given."""
        return self.choice().options

    def reload_reasons(
        self, model: str | None = None, strategy: str | None = None, options: EngineOptions | None = None
    ) -> tuple[str, ...]:
        """Which of these (None: the current choice) would require the loaded or loading engine to load again:
        ``model``, ``strategy`` or names of options. () if no reload is needed or nothing is loaded. The strategy that
        ``auto`` chose for the file counts as chosen. Errors as in :meth:`load`."""
        loaded = self._supervisor.loaded_target
        if loaded is None:
            return ()
        wanted = loaded.choice.changed(model=model, strategy=strategy, options=options)
        if self._resolver.is_same(wanted, loaded):
            return ()
        target = self._resolver.resolve(replace(wanted, state=""), loaded=loaded, keeps_automatic=True)
        return target.reload_differences(loaded)

    def wait_ready(self, timeout_s: float | None = None) -> ModelStatus:
        """Waits until the current load is done and raises its error; ``no_model`` if there is nothing to wait for."""
        if not self._supervisor.wait_settled(timeout_s):
            raise ModelError(reason=Text("reason.manager.still_loading"))
        if self._supervisor.is_closing:
            raise ModelError("shutting_down")
        if self._supervisor.error is not None:
            raise self._supervisor.error.with_traceback(None)  # without the frames of earlier callers
        if self._supervisor.session is None:
            raise ModelError("no_model")
        return self.status()

    def cancel_load(self) -> None:
        """Cancels a load. A model that was loaded before stays if it is still there."""
        self._supervisor.cancel_load()

    def unload(self) -> None:
        """Starts unloading in the background, after the grace running answers get; cancels a load."""
        self._supervisor.request_unload()

    def apply_state(self, name_or_path: str) -> StateInfo:
        """Makes a state file the initial state of all later sequences, without a reload. "" returns to the model's own
        initial state; ``-`` means no state.

        Running sequences are not affected. On ``state_mismatch`` or another WeightsError, the state does not change.
        """
        with self._choosing:
            target = self._resolver.with_state(self._chosen(), name_or_path)
            self._supervisor.set_goal(target)
            return target.state_info

    def check_state(self, name: str) -> StateInfo:
        """Checks that state file as the chosen model's initial state; raises ``state_mismatch`` or another
        WeightsError. Changes nothing."""
        return self._resolver.start(self._chosen(), name).info

    def state_named(self, name: str) -> RecurrentState | None:
        """The initial state with that name, as in :meth:`apply_state`; None for the model's own."""
        return self._resolver.start(self._chosen(), name).state

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the chosen model. Reads the model's header, not its weights."""
        return tokenizer_of(self._chosen())

    def model_info(self) -> Inspection:
        """What the chosen model's file contains."""
        return self._chosen().inspection

    def model_identity(self) -> str:
        """32 hex digits for the files of the chosen model and its adapter: equal if states are compatible, except for
        rounding by the strategy."""
        target = self._chosen()
        key = (target.path, target.stamp, target.adapter_stamps, target.options.adapter_alpha)
        known, found = self._identity
        if known != key:
            options = target.options
            adapter = {name: getattr(options, name) for name in ("adapter_file", "adapter_alpha", "adapter_start")}
            found = model_identity(Path(target.path), "", False, adapter)
            self._identity = key, found
        return found

    def check_prompt(self, token_ids: Sequence[int]) -> None:
        """Raises what :meth:`read_state` would raise: ``prompt_empty``, ``prompt_too_long``, ``token_out_of_range``."""
        check_prompt(token_ids, self._config_of(self._chosen()), self._settings)

    def check_length(self, text: str) -> None:
        """Raises ``prompt_too_long``, with an estimate of the tokens, if even the beginning of a very long text is too
        long: to count all tokens takes a second per megabyte. :meth:`check_prompt` counts those of other texts."""
        limit = self._settings.max_prompt_tokens
        beginning = text[: LONG_TOKEN_CHARS * limit]
        if len(beginning) == len(text):
            return
        count = len(self.tokenizer().encode(beginning))
        if count > limit + 1:  # the last token may be only a part of one
            raise RequestError("prompt_too_long", found=count * len(text) // len(beginning), limit=limit)

    def model_digest(self) -> str:
        """Digest of the bytes of the chosen model and its adapter: the same for a renamed copy on another machine.
        Errors as in :meth:`model_info`; FileMissing if the file is gone."""
        target = self._chosen()
        options = target.options
        try:
            digest = content_digest(target.path, target.stamp)
            if options.adapter_file:
                adapter = content_digest(options.adapter_file, stamp_of(options.adapter_file))
                digest += f"+{adapter}*{options.adapter_alpha:g}"
        except OSError as exc:
            raise FileMissing(path=target.path) from exc
        return digest

    def submit(
        self, request: GenerationRequest, made_for: Inspection | None = None, state: str | Start | None = None
    ) -> RequestHandle:
        """Queues the request and loads the chosen model if none is loaded. Returns at once.

        ``state`` applies to this request only: a name as in :meth:`apply_state` or a value; None is the state in use.

        Raises at once any error in the request, its state or the choice of model, QueueFull, ``crash_loop``,
        ``model_does_not_fit`` or ``shutting_down``; and ``model_unloaded`` if the model that its prompt was
        ``made_for`` is not the chosen one any more."""
        quota = self._supervisor.quota_of(request.client)
        request = quota.fitted(request)
        while True:
            target = self._chosen(for_loading=True)
            if made_for is not None and made_for.path != target.path:
                raise ModelError("model_unloaded")
            check_request(request, self._config_of(target), self._settings)
            start = self._start(target, state)
            handle = RequestHandle(request, self._supervisor.abort, start)
            handle.on_end = partial(quota.note, request.client)
            if self._supervisor.admit(handle, target):
                return handle

    # prefill without sampling; these block, load the model if needed, and start from ``state``, as in ``submit``

    def logits(
        self, token_ids: Sequence[int], every_position: bool = False, state: str | None = None
    ) -> NDArray[np.float32]:
        """Float32 ``(vocab_size,)`` after the last token, or ``(len(token_ids), vocab_size)``. Raises RequestError if
        that would need more than a gigabyte."""
        from webapp.manager.messages import ComputeLogits

        ids = tuple(int(token_id) for token_id in token_ids)
        if every_position:
            check_logits_size(len(ids), self._config_of(self._chosen()))
        reply = self._read(ids, state, lambda call_id, digest: ComputeLogits(call_id, ids, every_position, digest))
        assert reply.logits is not None
        return reply.logits.numpy()

    def read_state(self, token_ids: Sequence[int], state: str | None = None) -> RecurrentState:
        """The model's state after the last token, float32."""
        from webapp.manager.messages import ReadState

        ids = tuple(int(token_id) for token_id in token_ids)
        return _state_of(self._ask(ids, state, lambda call_id, digest: ReadState(call_id, ids, digest)))

    def read_states(self, texts: Iterable[Sequence[int]], names: tuple[str, ...] = ()) -> Iterator[RecurrentState]:
        """The state after each text, in order, starting from the state in use; only the arrays in ``names`` if there
        are any. The engine processes several texts in one step."""
        from webapp.manager.messages import ReadState

        asked: deque[Future[Reply]] = deque()
        for text in texts:
            ids = tuple(text)
            while asked and (len(asked) >= TEXTS_AHEAD or self._is_crowded()):
                yield _state_of(asked.popleft())
            asked.append(self._ask(ids, None, lambda call_id, digest, ids=ids: ReadState(call_id, ids, digest, names)))
        while asked:
            yield _state_of(asked.popleft())

    def score_tokens(
        self,
        token_ids: Sequence[int],
        alternatives: int = 0,
        state: str | None = None,
        first: int = 1,
        made_for: Inspection | None = None,
    ) -> tuple[tuple[TokenLogprob, ...], ...]:
        """For each token from ``first`` (1 to the number of tokens - 1) on: the token with its logprob, then the best
        ``alternatives`` (0 to 20), as in ``TokenOutput.logprobs``. If ``first`` is above 1, the tokens before it are
        prefilled from the nearest snapshot. ``made_for`` as in :meth:`submit`."""
        from webapp.manager.messages import ScoreTokens

        ids = tuple(int(token_id) for token_id in token_ids)
        if not 0 <= alternatives <= MAX_ALTERNATIVES:
            raise RequestError(
                "sampling_invalid", name="logprobs", value=alternatives, allowed=f"from 0 to {MAX_ALTERNATIVES}"
            )
        reply = self._read(
            ids, state, lambda call_id, digest: ScoreTokens(call_id, ids, alternatives, digest, first), made_for
        )
        assert reply.scores is not None
        return reply.scores

    # export and import of snapshots; ``state`` and ``origin`` are those of the requests that they belong to

    def snapshot(
        self, token_ids: Sequence[int], state: str | Start | None = None, origin: str = ""
    ) -> tuple[int, Snapshot] | None:
        """The snapshot of the longest prefix of the tokens, and the prefix's length; None if there is none."""
        from webapp.manager.messages import TakeSnapshot

        ids = tuple(token_ids)
        reply = self._read(ids, state, lambda call_id, digest: TakeSnapshot(call_id, ids, digest, origin))
        if reply.state is None:
            return None
        return reply.length, Snapshot(reply.state.value(), reply.logits.numpy() if reply.logits else None)

    def put_snapshot(
        self, token_ids: Sequence[int], snapshot: Snapshot, state: str | Start | None = None, origin: str = ""
    ) -> str:
        """Stores a snapshot as if these tokens had been prefilled, only for requests with this ``origin``. Returns its
        name. Raises ``state_mismatch`` or ``token_out_of_range``."""
        from webapp.manager.messages import Array, PutSnapshot, State

        ids, value = tuple(token_ids), State.of(snapshot.state)
        logits = Array.of(snapshot.logits) if snapshot.logits is not None else None
        return self._read(
            ids, state, lambda call_id, digest: PutSnapshot(call_id, ids, value, logits, digest, origin)
        ).name

    def forget_snapshots(self, names: Sequence[str]) -> None:
        """Removes the snapshots with these names, in memory and on disk, also those of other models. Loads nothing."""
        from webapp.manager.messages import ForgetSnapshots

        session = self._supervisor.session
        if session is not None and names:
            session.tell(ForgetSnapshots(tuple(names)))
        delete_snapshots(self._settings.snapshot_dir, names)

    def clear_snapshots(self) -> None:
        """Drops the engine's snapshots in memory: later prompts are prefilled again."""
        from webapp.manager.messages import ClearSnapshots

        if (session := self._supervisor.session) is not None:
            session.tell(ClearSnapshots())

    def counters(self) -> dict[str, int]:
        """Counters of the serving engine (LLMEngine.counters); {} if there is none or it does not answer in time. A
        call does not keep an idle model loaded."""
        from webapp.manager.messages import ReadCounters

        session = self._supervisor.session
        if session is None:
            return {}
        try:
            future = session.call(lambda call_id, _: ReadCounters(call_id), is_work=False)
            return future.result(COUNTERS_WAIT_S).counters or {}
        except (FutureTimeoutError, RoostError):
            return {}

    def _is_crowded(self) -> bool:
        """Whether so many texts are in progress that callers with many texts must leave room for others."""
        session = self._supervisor.session
        return session is not None and session.call_count * 2 > self._settings.max_queue

    def _read(
        self,
        ids: tuple[int, ...],
        state: str | Start | None,
        make_command: Callable[[int, str | None], Any],
        made_for: Inspection | None = None,
    ) -> Reply:
        return self._ask(ids, state, make_command, made_for).result()

    def _ask(
        self,
        ids: tuple[int, ...],
        state: str | Start | None,
        make_command: Callable[..., Any],
        made_for: Inspection | None = None,
    ) -> Future[Reply]:
        target = self._chosen(for_loading=True)
        if made_for is not None and made_for.path != target.path:
            raise ModelError("model_unloaded")
        check_prompt(ids, self._config_of(target), self._settings)
        start = self._start(target, state)
        self._supervisor.ensure_loading(target)
        self._supervisor.wait_settled(None)
        session = self._supervisor.session
        if session is None:
            raise self._supervisor.error or ModelError("no_model")
        if not session.target.is_same_model(target):
            raise ModelError("model_unloaded")
        if session.call_count >= self._settings.max_queue + 1:
            raise QueueFull(waiting=session.call_count)
        return session.call(make_command, start)

    def engine_pid(self) -> int | None:
        """None if no engine runs, or if it runs in this process."""
        return self._supervisor.pid

    def engine_memory_bytes(self) -> int:
        """Current resident memory of the engine process; 0 if there is none."""
        pid = self.engine_pid()
        return resident_bytes(pid) if pid else 0

    def close(self) -> None:
        """Ends the engine; open requests end with ``shutting_down``. Returns within seconds; may be called again."""
        self._supervisor.close()
        atexit.unregister(self._close_at_exit)

    def _chosen(self, for_loading: bool = False) -> Target:
        """The loaded or loading target; otherwise the choice of the settings or the last load, resolved again before a
        load (the file may have changed)."""
        goal = self._supervisor.goal
        if goal is None:
            return self._resolver.resolve(self._first_choice)
        if for_loading and self._supervisor.is_idle:
            return self._resolver.resolve(goal.choice, goal, may_drop_state=True)
        return goal

    def _start(self, target: Target, state: str | Start | None) -> Start | None:
        """The state to start from; raises errors of a named state (a value was checked before)."""
        return self._resolver.start(target, state) if isinstance(state, str) else state

    def _config_of(self, target: Target) -> ModelConfig:
        """The backend's own configuration once it is loaded."""
        session = self._supervisor.session
        return session.config if session is not None and session.target.is_same_model(target) else target.config


def _library(settings: Settings) -> ModelLibrary:
    reader = FileReader(settings.data_dir / FAILED_FILES)
    return ModelLibrary(settings.models_dir, extra_dirs=settings.extra_models_dirs, reader=reader)


def _closer(manager: weakref.ref[ModelManager]) -> Callable[[], None]:
    """For atexit, which must not keep an unused manager alive."""

    def close() -> None:
        found = manager()
        if found is not None:
            found.close()

    return close


LOGITS_LIMIT_BYTES = 1 << 30
COUNTERS_WAIT_S = 2.0
LONG_TOKEN_CHARS = 6
"""More characters than a token has on average in any language or code."""
TEXTS_AHEAD = 64
"""How many texts of one request wait in the engine, so that it can process them together."""


def _state_of(asked: Future[Reply]) -> RecurrentState:
    reply = asked.result()
    assert reply.state is not None
    return reply.state.value()


def check_request(request: GenerationRequest, config: ModelConfig, settings: Settings) -> None:
    """Raises RequestError, or ``state_mismatch`` if the request's own state does not fit."""
    check_prompt(request.prompt_token_ids, config, settings)
    if request.params.max_tokens > settings.max_tokens_limit:
        allowed = Text("reason.manager.at_most", limit=settings.max_tokens_limit)
        raise RequestError("sampling_invalid", name="max_tokens", value=request.params.max_tokens, allowed=allowed)
    biased = (*request.params.logit_bias, *(token_id for token_id, _, _ in request.params.rising_bias))
    check_token_ids(biased, config, param="logit_bias")
    _check_boundaries(request)
    if request.initial_state is not None:
        request.initial_state.check(config)


def check_prompt(token_ids: Sequence[int], config: ModelConfig, settings: Settings) -> None:
    if not token_ids:
        raise RequestError("prompt_empty")
    if len(token_ids) > settings.max_prompt_tokens:
        raise RequestError("prompt_too_long", found=len(token_ids), limit=settings.max_prompt_tokens)
    check_token_ids(token_ids, config)


def check_logits_size(positions: int, config: ModelConfig) -> None:
    """One row of logits per position passes through memory and pipe at once."""
    most = LOGITS_LIMIT_BYTES // (4 * config.vocab_size)
    if positions > most:
        why = Text("reason.manager.too_many_positions", count=positions, most=most)
        raise RequestError(reason=why)


def check_token_ids(token_ids: Sequence[int], config: ModelConfig, **where: str) -> None:
    if not token_ids:
        return
    for extreme in (min(token_ids), max(token_ids)):
        if not 0 <= extreme < config.vocab_size:
            raise RequestError("token_out_of_range", found=extreme, vocab_size=config.vocab_size, **where)


def _check_boundaries(request: GenerationRequest) -> None:
    limits = (0, *request.boundaries, len(request.prompt_token_ids))
    if any(second < first for first, second in pairwise(limits)):
        raise RequestError(reason=Text("reason.manager.bad_boundaries"))
