"""A run of the tool bench: asks the loaded model every case, a few at a time, and scores each answer at once; and the
report of its answers: the figures of each mode, and which tool was called instead of which.

One run at a time, as a job with stored answers. Its requests use the same queue as all others, as one client, so chats
continue during a run. All answers must come from the same model, strategy and state; if these change, the run ends.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from webapp import __version__
from webapp.chat.messages import Finished, Message, Role
from webapp.chat.prompts import RenderedPrompt, render
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools
from webapp.engine.outputs import FinishReason
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import BenchRefused, ModelError, QueueFull, RequestError, RoostError, as_roost_error
from webapp.i18n import Text
from webapp.manager.handles import Service
from webapp.manager.manager import ModelManager
from webapp.services.generation.generation import AnswerText, Generation
from webapp.services.generation.request import PromptModel, format_of, prepare
from webapp.services.generation.structure import call_constraint
from webapp.services.jobs import Jobs, Running
from webapp.storage.bench import DONE, FAILED, STOPPED, BenchStore, StoredRun
from webapp.storage.database import Database
from webapp.structured.grammar import check, matches
from webapp.tools.bench import (
    FIGURES,
    MAX_CASES,
    BenchCase,
    CallScore,
    GeneratedCases,
    Reading,
    call_to_dict,
    make_cases,
    read_answer,
    score_calls,
    shares,
)

log = logging.getLogger(__name__)
KIND = "tool_bench"
CLIENT = "tool bench"
AT_ONCE = 4
RETRY_S = 0.3
MAX_TOKENS = 400
"""Per answer: enough for a call with long arguments, and a limit for a model that does not stop."""
GREEDY = SamplingParams(temperature=0, frequency_penalty=0.0, max_tokens=MAX_TOKENS)
CONSTRAINED, FREE = "constrained", "free"
MODES = (CONSTRAINED, FREE)
Answer = dict[str, Any]
"""The stored data of one case in one mode, which :func:`reports` reads:

``place`` of the case, ``mode``, ``prompt``, ``expected`` calls, ``sent`` (the prompt after the tool definitions that
all cases share), ``raw`` (the whole output), ``called``, ``sets_out`` (the beginning of a call was written), ``score``,
``finish_reason``, ``tokens``, and ``error`` if the case failed.
"""
NO_CALL, OTHER = "", "?"
"""Entries of the confusion table that no tool name can equal: no call; an invalid call or one of an unknown tool."""


class Confusion(Struct, frozen=True):
    """``counts`` of (expected, called), per call: an answer with two calls counts twice. Names are in the order of the
    definitions, then NO_CALL, then (only for called) OTHER."""

    expected: tuple[str, ...]
    called: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]

    def count(self, expected: str, called: str) -> int:
        return self.counts.get((expected, called), 0)


class ModeReport(Struct, frozen=True):
    """``shares``: from 0 to 1 by the names of :data:`FIGURES`, None if no case has the figure. ``counts``: their
    (right, total)."""

    mode: str
    cases: int
    right: int
    shares: Mapping[str, float | None]
    counts: Mapping[str, tuple[int, int]]
    confusion: Confusion


def reports(setup: Mapping[str, Any], answers: Sequence[Answer]) -> tuple[ModeReport, ...]:
    """One report for each mode that has answers, constrained mode first."""
    names = tuple(str(tool["name"]) for tool in setup["tools"])
    by_mode = {mode: [answer for answer in answers if answer["mode"] == mode] for mode in MODES}
    return tuple(_report(mode, names, found) for mode, found in by_mode.items() if found)


def is_right(answer: Answer) -> bool:
    return "error" not in answer and CallScore(**answer["score"]).is_right


def wrong_first(answers: Sequence[Answer]) -> list[Answer]:
    """Wrong answers first, then by case, so that both modes of a case are next to each other."""
    return sorted(answers, key=lambda answer: (is_right(answer), answer["place"], MODES.index(answer["mode"])))


def document(
    setup: Mapping[str, Any], answers: Sequence[Answer], error: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """For JSON. An interrupted run has fewer answers than ``asked``."""
    return {
        "setup": dict(setup),
        "answered": len(answers),
        "error": dict(error) if error else None,
        "modes": {report.mode: _as_dict(report) for report in reports(setup, answers)},
        "answers": sorted(answers, key=lambda answer: (answer["place"], answer["mode"])),
    }


def _report(mode: str, names: tuple[str, ...], answers: Sequence[Answer]) -> ModeReport:
    scores = [CallScore(**answer["score"]) for answer in answers]
    found = shares(scores, FIGURES)
    values = {name: [getattr(score, name) for score in scores] for name in FIGURES}
    return ModeReport(
        mode,
        len(answers),
        sum(map(is_right, answers)),
        {name: None if math.isnan(found[name]) else found[name] for name in FIGURES},
        {name: (values[name].count(True), len(answers) - values[name].count(None)) for name in FIGURES},
        _confusion(names, answers),
    )


def _confusion(names: tuple[str, ...], answers: Sequence[Answer]) -> Confusion:
    counts = Counter(pair for answer in answers for pair in _pairs(answer, names))
    called = (*names, NO_CALL, OTHER)
    return Confusion((*names, NO_CALL), called, counts)


def _pairs(answer: Answer, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of expected and actual calls, in order."""
    expected = [call["name"] for call in answer["expected"]] or [NO_CALL]
    called = [call["name"] if call["name"] in names else OTHER for call in answer["called"]]
    if not called and (answer["sets_out"] or "error" in answer):
        called = [OTHER]
    return list(itertools.zip_longest(expected, called or [NO_CALL], fillvalue=NO_CALL))


def _as_dict(report: ModeReport) -> dict[str, Any]:
    rows = {
        _label(expected): {
            _label(called): report.confusion.count(expected, called)
            for called in report.confusion.called
            if report.confusion.count(expected, called)
        }
        for expected in report.confusion.expected
    }
    counts = {name: list(pair) for name, pair in report.counts.items()}
    return {"cases": report.cases, **report.shares, "right": report.right, "counts": counts, "confusion": rows}


def _label(name: str) -> str:
    return {NO_CALL: "(no call)", OTHER: "(unreadable or unknown)"}.get(name, name)


class BenchRequest(Struct, frozen=True):
    """``definitions`` are OpenAI `function` objects, offered with every prompt. ``dialect`` "" is the model's own. With
    two ``modes`` every case is asked twice."""

    definitions: tuple[Mapping[str, Any], ...]
    cases: tuple[BenchCase, ...]
    modes: tuple[str, ...] = (CONSTRAINED,)
    dialect: str = ""
    params: SamplingParams = GREEDY

    @property
    def tool_names(self) -> frozenset[str]:
        return frozenset(str(definition["name"]) for definition in self.definitions)

    @property
    def askable(self) -> tuple[BenchCase, ...]:
        """The cases whose tools are all offered."""
        return tuple(case for case in self.cases if case.tool_names <= self.tool_names)


def checked(request: BenchRequest) -> BenchRequest:
    """Returns the request, or raises BenchRefused."""
    if not request.definitions:
        raise BenchRefused(reason=Text("tool_bench.problem.no_tools"))
    if not request.askable:
        raise BenchRefused(reason=Text("tool_bench.problem.no_cases"))
    if not request.modes or not set(request.modes) <= set(MODES):
        raise BenchRefused(reason=Text("tool_bench.problem.modes"))
    return request


def generated_cases(
    definitions: Sequence[Mapping[str, Any]], language: str, seed: int, per_tool: int
) -> GeneratedCases:
    """As :func:`make_cases`, with patterns checked by the engine's own automata. Fewer cases per tool if there would be
    too many in total."""
    most = max(1, (MAX_CASES * 3 // 4) // max(1, len(definitions)))
    return make_cases(definitions, language, seed, min(per_tool, most), matches)


class BenchRunner:
    """Raises errors that are known before the first request: BenchRefused, GrammarInvalid, and errors of the model."""

    def __init__(self, manager: ModelManager, request: BenchRequest, at_once: int = AT_ONCE) -> None:
        self._manager = manager
        self._request = checked(request)
        self._at_once = at_once
        self._model = PromptModel.chosen(manager)
        self._model.check_answers()
        offered = OfferedTools(G1X_JSON, request.definitions)
        self._template, self._offer = format_of(self._model.info, (), offered, request.dialect)
        self._constraint = call_constraint(self._rendered(request.askable[0]))
        check(self._constraint or {})
        self._tasks = deque((place, mode) for place in range(len(request.askable)) for mode in request.modes)
        self._lock = threading.Lock()
        self._asked: set[Generation] = set()
        self._service: Service | None = None
        self._failure: Exception | None = None
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """True after :meth:`stop`."""
        return self._stopped.is_set() and self._failure is None

    def setup(self) -> dict[str, Any]:
        """The conditions of the run. ``asked``: the planned number of answers; ``left_out``: cases whose tools are not
        offered."""
        status, request = self._manager.status(), self._request
        service = self._service or Service(status.model, status.strategy)
        return {
            "roost": __version__,
            "model": service.model or Path(self._model.info.path).name,
            "strategy": service.strategy,
            "state": service.state.name if self._service else status.state,
            "dialect": self._offer.dialect.name,
            "template": self._template.name,
            "modes": list(request.modes),
            "is_greedy": request.params.temperature == 0,
            "sampling": _sampling(request),
            "tools": [dict(definition) for definition in request.definitions],
            "offer": self._opening(),
            "asked": len(request.askable) * len(request.modes),
            "left_out": len(request.cases) - len(request.askable),
        }

    def run(self, keep: Callable[[Answer], object]) -> None:
        """Runs until the last answer, a stop, or an error, which is raised. ``keep`` receives one answer at a time."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="roost-bench") as pool:
            try:
                for work in [pool.submit(self._work, keep) for _ in range(self._at_once)]:
                    work.result()
            except BaseException:  # Ctrl-C: the pool would otherwise wait for all cases
                self.stop()
                raise
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """From any thread. Unfinished answers are dropped."""
        with self._lock:
            self._stopped.set()
            self._tasks.clear()
            asked = list(self._asked)
        for generation in asked:
            generation.stop()

    def _work(self, keep: Callable[[Answer], object]) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    return
                place, mode = self._tasks.popleft()
            try:
                answer = self._answer(place, mode)
                with self._lock:
                    if answer is None or self._failure is not None:
                        return
                    keep(answer)
            except Exception as exc:  # raised by run() after the others have ended
                self._fail(exc)
                return

    def _fail(self, exc: Exception) -> None:
        with self._lock:
            self._failure = self._failure or exc
        self.stop()

    def _answer(self, place: int, mode: str) -> Answer | None:
        """None if it was stopped."""
        case = self._request.askable[place]
        rendered = self._rendered(case)
        sent = rendered.text.removeprefix(self._opening())
        answer: Answer = {"place": place, "mode": mode, "prompt": case.prompt, "sent": sent}
        answer["expected"] = [call_to_dict(call) for call in case.calls]
        try:
            found = self._ask(rendered, mode)
        except RequestError as exc:  # such as a prompt that is too long; the others may work
            return {**answer, **_judged(case, Reading(sets_out=not case.calls)), "error": exc.to_dict()}
        if found is None:
            return None
        text, end = found
        reading = read_answer(text.content, self._offer.dialect.syntax)
        written = {"raw": text.raw, "finish_reason": end.finish_reason, "tokens": end.stats.get("decoded_tokens", 0)}
        return {**answer, **_judged(case, reading), **written}

    def _ask(self, rendered: RenderedPrompt, mode: str) -> tuple[AnswerText, Finished] | None:
        """None if it was stopped. The text is needed unparsed, including calls, so no tools are passed."""
        constraint = self._constraint if mode == CONSTRAINED else None
        prompt = prepare(self._model, replace(rendered, tools=None), self._request.params, constraint)
        generation = Generation(self._manager, prompt, CLIENT)
        with self._lock:
            if self._stopped.is_set():
                return None
            self._asked.add(generation)
        try:
            self._start(generation)
            end = generation.finish()
        except RoostError:
            if self._stopped.is_set():
                return None
            raise
        finally:
            with self._lock:
                self._asked.discard(generation)
        if self._stopped.is_set():
            return None
        self._check_same(generation.service, end.finish_reason)
        return generation.text, end

    def _start(self, generation: Generation) -> None:
        """Waits if the queue is full: a bench has time."""
        while True:
            try:
                return generation.start()
            except QueueFull:
                if self._stopped.wait(RETRY_S):
                    raise

    def _check_same(self, service: Service, reason: Text | str) -> None:
        with self._lock:
            self._service = self._service or service
            if reason == FinishReason.ABORT or service != self._service:
                raise ModelError("model_unloaded")

    def _rendered(self, case: BenchCase) -> RenderedPrompt:
        return render(self._template, [Message(Role.USER, case.prompt)], tools=self._offer)

    def _opening(self) -> str:
        """The part that all prompts begin with: the tool definitions."""
        return self._rendered(self._request.askable[0]).pieces[0].text


def _judged(case: BenchCase, reading: Reading) -> dict[str, Any]:
    return {
        "called": [call_to_dict(call) for call in reading.calls],
        "sets_out": reading.sets_out,
        "score": asdict(score_calls(case.calls, reading)),
    }


def _sampling(request: BenchRequest) -> dict[str, Any]:
    return {name: value for name, value in request.params.to_dict().items() if not name.startswith("stop_") and value}


class ToolBench:
    """``app.extensions["tool_bench"]``; every method may be called from any thread."""

    def __init__(self, manager: ModelManager, database: Database, jobs: Jobs, at_once: int = AT_ONCE) -> None:
        self.store = BenchStore(database)
        self.jobs = jobs
        self._manager = manager
        self._at_once = at_once
        if self.store.has_running():  # seldom, and the sentence takes both languages' catalogues
            self.store.end_abandoned(RoostError("bench_interrupted").to_dict())

    @property
    def running(self) -> str:
        """Id of the current run, "" for none."""
        return next((job.details["run_id"] for job in self.jobs.jobs(KIND) if not job.is_over), "")

    def start(self, request: BenchRequest, facts: Mapping[str, Any] | None = None) -> StoredRun:
        """Starts a run at once; loads the model if needed. Raises BenchRefused, ``shutting_down``, and errors of
        :class:`BenchRunner`. ``facts`` are stored with the run's setup."""
        if self.running:
            raise BenchRefused(reason=Text("tool_bench.problem.running"))
        runner = BenchRunner(self._manager, request, self._at_once)
        setup = {**runner.setup(), **(facts or {})}
        self.jobs.check_open()
        run = self.store.begin_run(setup)

        def work(running: Running) -> None:
            self._work(run, runner, running)

        self.jobs.start(KIND, setup["model"], work, {"run_id": run.id}, unit="steps", total=setup["asked"])
        return run

    def stop(self, run_id: str) -> None:
        """Stops the current run and keeps its answers; ignores any other id."""
        for job in self.jobs.jobs(KIND):
            if job.details["run_id"] == run_id:
                self.jobs.cancel(job.id)

    def wait(self, timeout_s: float) -> bool:
        """Waits for the end of the current run; False on timeout."""
        return all(self.jobs.wait(job.id, timeout_s).is_over for job in self.jobs.jobs(KIND) if not job.is_over)

    def _final_setup(self, run: StoredRun, runner: BenchRunner) -> dict[str, Any]:
        """Adds the model facts from the first answer, and the figures for lists of runs."""
        setup = {**run.setup, **runner.setup()}
        found = reports(setup, self.store.answers(run.id))
        return {**setup, "figures": {row.mode: {"cases": row.cases, **row.shares} for row in found}}

    def _work(self, run: StoredRun, runner: BenchRunner, running: Running) -> None:
        status, error, count = DONE, None, 0

        def keep(answer: Mapping[str, Any]) -> None:
            nonlocal count
            self.store.add_answer(run.id, answer)
            count += 1
            running.report(count)

        running.on_stop(runner.stop)
        try:
            runner.run(keep)
            if runner.is_stopped:
                status = STOPPED
        except Exception as exc:  # shown on the page
            error = as_roost_error(exc)
            if error is not exc:
                log.error("the tool bench broke", exc_info=exc)
            status = FAILED
        if self.jobs.is_closed and status == STOPPED:
            status, error = FAILED, RoostError("bench_interrupted")
        try:
            self.store.change_setup(run.id, self._final_setup(run, runner))
            self.store.end_run(run.id, status, error.to_dict() if error else None)
        except Exception:  # such as a full disk: the next start marks the run as abandoned
            log.exception("the end of a run of the tool bench could not be stored")
        if error is not None:
            raise error
