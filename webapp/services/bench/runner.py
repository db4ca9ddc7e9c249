"""One run of the tool bench: every case asked of one loaded model, a few at a time, each answer judged as it comes.

Its requests wait in the same queue as everybody's, as one client of many, so chats go on beside it. All answers are of
the model, strategy and state the first one had: when those change, the run ends.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from webapp import __version__
from webapp.chat.events import Finished
from webapp.chat.messages import Message, Role
from webapp.chat.prompts import RenderedPrompt, render
from webapp.chat.tool_dialects import OfferedTools
from webapp.engine.outputs import FinishReason
from webapp.errors import ModelUnloaded, QueueFull, RequestError, RoostError
from webapp.manager.handles import Service
from webapp.manager.manager import ModelManager
from webapp.services.bench.order import CONSTRAINED, BenchOrder, checked
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import PromptModel, call_constraint, dialect_of, prepare, template_of
from webapp.services.generation.text import AnswerText
from webapp.structured.grammar import check
from webapp.tools.bench import BenchCase, Reading, call_to_dict, read_answer, score_calls

AT_ONCE = 4
CLIENT = "tool bench"
RETRY_S = 0.3

Answer = dict[str, Any]
"""What is kept of one case in one mode; :mod:`.report` reads it:

``place`` of the case, ``mode``, ``prompt``, ``expected`` calls, ``sent`` (what the model read after the offer, which
all have in common), ``raw`` (all it wrote), ``called``, ``sets_out`` (something began as a call does), ``score``,
``finish_reason``, ``tokens``, and ``error`` where the case could not be asked.
"""


class BenchRunner:
    """Raises at once what can be told: BenchRefused, GrammarInvalid, what keeps the model from being used."""

    def __init__(self, manager: ModelManager, order: BenchOrder, at_once: int = AT_ONCE) -> None:
        self._manager = manager
        self._order = checked(order)
        self._at_once = at_once
        self._model = PromptModel.chosen(manager)
        self._template = template_of(self._model.info)
        self._offer = OfferedTools(dialect_of(order.dialect, self._model.info), order.definitions)
        self._constraint = call_constraint(self._rendered(order.askable[0]))
        check(self._constraint or {})
        self._tasks = deque((place, mode) for place in range(len(order.askable)) for mode in order.modes)
        self._lock = threading.Lock()
        self._asked: set[Generation] = set()
        self._service: Service | None = None
        self._failure: Exception | None = None
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Because of :meth:`stop`."""
        return self._stopped.is_set() and self._failure is None

    def setup(self) -> dict[str, Any]:
        """What the figures are figures of. ``asked``: answers there will be; ``left_out``: cases whose tools are not
        offered."""
        status, order = self._manager.status(), self._order
        service = self._service or Service(status.model, status.strategy)
        return {
            "roost": __version__,
            "model": service.model or Path(self._model.info.path).name,
            "strategy": service.strategy,
            "state": service.state.name if self._service else status.state,
            "dialect": self._offer.dialect.name,
            "template": self._template.name,
            "modes": list(order.modes),
            "is_greedy": order.params.temperature == 0,
            "sampling": _sampling(order),
            "tools": [dict(definition) for definition in order.definitions],
            "offer": self._opening(),
            "asked": len(order.askable) * len(order.modes),
            "left_out": len(order.cases) - len(order.askable),
        }

    def run(self, keep: Callable[[Answer], object]) -> None:
        """Until the last answer, a stop, or what ends it, which is raised. ``keep`` gets the answers one at a time."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="roost-bench") as pool:
            try:
                for work in [pool.submit(self._work, keep) for _ in range(self._at_once)]:
                    work.result()
            except BaseException:  # Ctrl-C: the pool would wait for every case there is
                self.stop()
                raise
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """From any thread. What is being written is not kept."""
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
            except Exception as exc:  # told by run(), once the others have ended
                self._fail(exc)
                return

    def _fail(self, exc: Exception) -> None:
        with self._lock:
            self._failure = self._failure or exc
        self.stop()

    def _answer(self, place: int, mode: str) -> Answer | None:
        """None when it was stopped."""
        case = self._order.askable[place]
        rendered = self._rendered(case)
        sent = rendered.text.removeprefix(self._opening())
        answer: Answer = {"place": place, "mode": mode, "prompt": case.prompt, "sent": sent}
        answer["expected"] = [call_to_dict(call) for call in case.calls]
        try:
            found = self._ask(rendered, mode)
        except RequestError as exc:  # this prompt is too long, say; the others may do
            return {**answer, **_judged(case, Reading(sets_out=not case.calls)), "error": exc.to_dict()}
        if found is None:
            return None
        text, end = found
        reading = read_answer(text.content, self._offer.dialect.syntax)
        written = {"raw": text.raw, "finish_reason": end.finish_reason, "tokens": end.stats.get("decoded_tokens", 0)}
        return {**answer, **_judged(case, reading), **written}

    def _ask(self, rendered: RenderedPrompt, mode: str) -> tuple[AnswerText, Finished] | None:
        """None when it was stopped. The text is wanted as it came, calls and all, hence no tools to look for."""
        constraint = self._constraint if mode == CONSTRAINED else None
        prompt = prepare(self._model, replace(rendered, tools=None), self._order.params, constraint)
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
        """Waits for room where the queue is full: a bench has time."""
        while True:
            try:
                return generation.start()
            except QueueFull:
                if self._stopped.wait(RETRY_S):
                    raise

    def _check_same(self, service: Service, reason: str) -> None:
        with self._lock:
            self._service = self._service or service
            if reason == FinishReason.ABORT or service != self._service:
                raise ModelUnloaded()

    def _rendered(self, case: BenchCase) -> RenderedPrompt:
        return render(self._template, [Message(Role.USER, case.prompt)], tools=self._offer)

    def _opening(self) -> str:
        """The piece all prompts begin with: the offer."""
        return self._rendered(self._order.askable[0]).pieces[0].text


def _judged(case: BenchCase, reading: Reading) -> dict[str, Any]:
    return {
        "called": [call_to_dict(call) for call in reading.calls],
        "sets_out": reading.sets_out,
        "score": asdict(score_calls(case.calls, reading)),
    }


def _sampling(order: BenchOrder) -> dict[str, Any]:
    return {name: value for name, value in order.params.to_dict().items() if not name.startswith("stop_") and value}
