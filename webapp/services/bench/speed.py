"""How fast a model runs on this machine: load, first token, prefill, decode with one to many answers, memory.

All times include the manager, the engine process, its pipe and the decoding to text, as users experience them.
Contestants (:class:`RoostContestant`, :class:`LlamaContestant`) are loaded together and take turns in every round, so
that changes of the machine's speed affect them equally. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import psutil
from msgspec import Struct, field
from msgspec.structs import replace

from webapp import __version__
from webapp.engine.registry import resolve_strategy
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RequestError, RoostError
from webapp.i18n import Text
from webapp.manager.client import EngineStarter
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.manager.memory import peak_bytes, resident_bytes
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import PromptModel, prepare, raw_prompt
from webapp.services.strategy import bytes_a_token
from webapp.settings import Settings

TEXT = "A heron stood on the line and watched the river go by. 一只苍鹭站在线上，看着河水流过。"
GREEDY = SamplingParams(temperature=0, stop_token_ids=(), frequency_penalty=0.0)
RUN_S = 2.0
"""Approximate duration of one decode run if the number of tokens is not given."""
MAX_RUN_S = 40.0
"""A measurement that would take longer is skipped."""
FEWEST_TOKENS, MAX_TOKENS = 16, 256
WARM_UP_TOKENS = 8
FIRST_PROMPT_TOKENS = 16


class Plan(Struct, frozen=True):
    """``tokens``: tokens per answer; 0: as many as take about :data:`RUN_S`. ``prefills``: prompt lengths for prefill
    without decode. ``prompt_tokens``: prompt length of each answer."""

    sequences: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    prefills: tuple[int, ...] = (64, 512, 4096)
    prompt_tokens: int = 16
    tokens: int = 0
    repeat: int = 3
    busy: int = 0
    """Number of other processes that each keep a core busy in a second pass; 0 for no second pass."""


class Contestant(Protocol):
    """One way to run the model. ``decode`` and ``prefill`` return figures by name, including tokens per second."""

    name: str

    def load(self) -> dict[str, float]:
        """``load_s``, and ``cold_ms`` from no loaded model to the first token."""

    def decode(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]: ...

    def prefill(self, tokens: int) -> dict[str, float]: ...

    def memory(self) -> dict[str, float | None]:
        """``rss_mb`` now and the maximum, ``peak_mb``."""

    def close(self) -> None: ...


class AskedContestant:
    """A contestant that is asked for several answers at once; all figures follow from these answers."""

    def start(self) -> None:
        """Returns when the model is ready."""
        raise NotImplementedError

    def answers(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        raise NotImplementedError

    def pid(self) -> int | None:
        """The process that has the model."""
        raise NotImplementedError

    def load(self) -> dict[str, float]:
        started = time.monotonic()
        self.start()
        load_s = time.monotonic() - started
        first = self.answers(1, FIRST_PROMPT_TOKENS, 1)
        return {"load_s": load_s, "cold_ms": 1000 * load_s + first["first_token_ms"]}

    def decode(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        return self.answers(sequences, prompt_tokens, tokens)

    def prefill(self, tokens: int) -> dict[str, float]:
        run = self.answers(1, tokens, 1)
        return {"tokens_per_s": run["prefill_tokens_per_s"], "first_token_ms": run["first_token_ms"]}

    def memory(self) -> dict[str, float | None]:
        pid = self.pid()
        sizes = (resident_bytes(pid), peak_bytes(pid)) if pid else (0, 0)
        return {name: _mb(size) for name, size in zip(("rss_mb", "peak_mb"), sizes, strict=True)}


class Rounds(Struct):
    """The results of one contestant, round by round: (kind, size) -> figures."""

    figures: defaultdict[tuple[str, int], list[Mapping[str, float]]] = field(default_factory=lambda: defaultdict(list))
    loaded: dict[str, float] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    """Simultaneous answers -> tokens written in each."""
    left_out: set[tuple[str, int]] = field(default_factory=set)

    def rate(self, kind: str, size: int) -> list[float]:
        return [run["tokens_per_s"] for run in self.figures[kind, size]]


def compete(
    contestants: Sequence[Contestant], plan: Plan, report: Callable[[str, Contestant, Rounds], object]
) -> dict[str, Rounds]:
    """Results by name. ``report`` is called with ``loaded``, ``measured`` (after each measurement) and ``round`` (after
    each round) for progress; an exception from it ends the bench."""
    found = {contestant.name: Rounds() for contestant in contestants}
    for contestant in contestants:
        rounds = found[contestant.name]
        rounds.loaded = contestant.load()
        contestant.decode(1, FIRST_PROMPT_TOKENS, WARM_UP_TOKENS)
        report("loaded", contestant, rounds)
    return run_rounds(contestants, plan, found, report)


def run_rounds(
    contestants: Sequence[Contestant],
    plan: Plan,
    found: dict[str, Rounds],
    report: Callable[[str, Contestant, Rounds], object],
) -> dict[str, Rounds]:
    """For loaded contestants; fills and returns ``found``."""
    for number in range(plan.repeat):
        order = contestants if number % 2 == 0 else contestants[::-1]
        for kind, size in _measurements(plan):
            for contestant in order:
                _measure(contestant, kind, size, plan, found[contestant.name])
                report("measured", contestant, found[contestant.name])
        for contestant in contestants:
            report("round", contestant, found[contestant.name])
    return found


def measurement_count(plan: Plan) -> int:
    """How often ``measured`` is reported for each contestant."""
    return plan.repeat * len(list(_measurements(plan)))


def _measurements(plan: Plan) -> Iterator[tuple[str, int]]:
    yield "first", FIRST_PROMPT_TOKENS
    yield from (("decode", size) for size in plan.sequences)
    yield from (("prefill", size) for size in plan.prefills)


def _measure(contestant: Contestant, kind: str, size: int, plan: Plan, rounds: Rounds) -> None:
    if (kind, size) in rounds.left_out:
        return
    if kind == "decode":
        if size not in rounds.tokens:
            warm_up = _writing(contestant, size, plan, WARM_UP_TOKENS)
            a_second = warm_up["tokens_per_s"] / size
            rounds.tokens[size] = plan.tokens or int(min(MAX_TOKENS, max(FEWEST_TOKENS, RUN_S * a_second)))
            if not plan.tokens and rounds.tokens[size] > MAX_RUN_S * a_second:
                rounds.left_out.add((kind, size))
                return
        run = _writing(contestant, size, plan, rounds.tokens[size])
    else:
        done = [(length, rates) for (what, length), rates in rounds.figures.items() if what == "prefill" and rates]
        if kind == "prefill" and done and size > MAX_RUN_S * done[-1][1][0]["tokens_per_s"]:
            rounds.left_out.add((kind, size))
            return
        run = contestant.prefill(size)
    rounds.figures[kind, size].append(run)


def _writing(contestant: Contestant, size: int, plan: Plan, tokens: int) -> dict[str, float]:
    """The figures of :meth:`Contestant.decode`. While prompts of several answers are prefilled, the first answer
    already decodes, so the time of the same answers for one token is subtracted."""
    run = contestant.decode(size, plan.prompt_tokens, tokens)
    if size > 1:
        begun = contestant.decode(size, plan.prompt_tokens, 1)
        if (writing_s := run["wall_s"] - begun["wall_s"]) > 0:
            run["tokens_per_s"] = size * (tokens - 1) / writing_s
    return run


# ---------------------------------------------------------------- Roost itself, by strategy


class RoostContestant(AskedContestant):
    """``settings`` choose model and strategy. Prompts are not cached, because a cache hit is not prefill."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        most_sequences: int = 1,
        library: ModelLibrary | None = None,
        start_engine: EngineStarter | None = None,
    ) -> None:
        self.name = name
        most = max(settings.max_sequences, most_sequences)
        alone = replace(settings, state_cache_bytes=0, max_sequences=most, max_queue=most)
        self.threads = settings.threads
        self.manager = ModelManager(alone, start_engine, library)

    def start(self) -> None:
        self.manager.load()
        self.manager.wait_ready()

    def pid(self) -> int | None:
        return self.manager.engine_pid()

    def close(self) -> None:
        self.manager.close()

    def describe(self) -> dict[str, Any]:
        """The loaded model, ``remarks`` of its backend (plain Texts), and ``bytes_a_token``: the bytes of weights and
        state read per decoded token; None if unknown."""
        status, info = self.manager.status(), self.manager.model_info()
        config = info.config.to_dict() if info.config else {}
        facts = {"parameters": info.parameters, "file_bytes": info.size_bytes, "dtype": info.dtype}
        read = bytes_a_token(info, status.strategy)
        backend, options = resolve_strategy(status.strategy)
        extra = {"remarks": [remark.to_plain() for remark in backend.remarks(options)], "bytes_a_token": read}
        return {"name": status.model, "strategy": status.strategy, **config, **facts, **extra}

    def answers(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        model, params = PromptModel.chosen(self.manager), replace(GREEDY, max_tokens=tokens)
        answers = []
        for number in range(sequences):  # each its own: equal rows share their zeros, which are not read
            ready = prepare(model, raw_prompt("", prompt_ids(self.manager, prompt_tokens, number)), params)
            answers.append(Generation(self.manager, ready, client=str(number)))
        started = time.monotonic()
        for answer in answers:
            answer.start()
        stats = [_stats_of(answer) for answer in answers]
        wall_s = time.monotonic() - started
        first = [stat["queued_s"] + stat["prefill_s"] for stat in stats]
        ended = max(begin + stat["decode_s"] for begin, stat in zip(first, stats, strict=True))
        writing_s = ended - min(first)  # includes answers that had to wait for a slot
        written = sum(stat["decoded_tokens"] - 1 for stat in stats)
        return {
            "tokens_per_s": written / writing_s if writing_s > 0 else 0.0,
            "first_token_ms": 1000 * statistics.median(first),
            "prefill_tokens_per_s": sum(stat["prefilled_tokens"] for stat in stats) / max(first),
            "wall_s": wall_s,
        }


def prompt_ids(manager: ModelManager, count: int, number: int = 0) -> tuple[int, ...]:
    """This many tokens of English and Chinese; a different text for each ``number``."""
    ids = [*manager.tokenizer().encode(f"{number} ") * (number > 0), *manager.tokenizer().encode(TEXT)]
    return tuple((ids * (count // len(ids) + 1))[:count])


def _stats_of(answer: Generation) -> Mapping[str, Any]:
    found = answer.finish().stats
    if not found:
        raise RequestError(reason=Text("reason.services.engine_gave_no_figures"))
    return found


# ---------------------------------------------------------------- the document


def bench_document(
    ours: RoostContestant, others: Sequence[Contestant], plan: Plan, report: Callable[[str, Contestant, Rounds], object]
) -> dict[str, Any]:
    """Runs the whole bench, closes the contestants, and returns one JSON document. Its ``busy``: the loss of each speed
    in per cent while :attr:`Plan.busy` other processes run."""
    contestants: list[Contestant] = [ours, *others]
    threads = ours.threads or default_threads()
    try:
        before = read_bandwidth(threads)
        found = compete(contestants, plan, report)
        bandwidth = [value for value in (before, read_bandwidth(threads)) if value]
        beside: dict[str, Rounds] = {}
        if plan.busy:
            with busy_processes(plan.busy):
                beside = {name: Rounds(tokens=dict(one.tokens)) for name, one in found.items()}
                run_rounds(contestants, plan, beside, report)
        model = ours.describe()
        documents = {each.name: document_of(found[each.name], plan, each.memory()) for each in contestants}
    finally:
        for each in contestants:
            each.close()
    for name, rounds in beside.items():
        documents[name]["busy"] = {"processes": plan.busy, "lost": losses(found[name], rounds, plan)}
    mine = documents[ours.name]
    return {
        "roost": __version__,
        "machine": machine(),
        "model": model,
        "engine_rss_mb": mine["memory"]["rss_mb"],
        "engine_peak_mb": mine["memory"]["peak_mb"],
        "host_rss_mb": _mb(resident_bytes(os.getpid())),
        "prompt_tokens": plan.prompt_tokens,
        "tokens": plan.tokens,
        "bandwidth": share_of_bandwidth(found[ours.name], model["bytes_a_token"], bandwidth, threads),
        **mine,
        "against": [
            {"name": each.name, **documents[each.name], "ratios": ratios(found[ours.name], found[each.name], plan)}
            for each in others
        ],
    }


def share_of_bandwidth(
    rounds: Rounds, bytes_a_token: int | None, found: list[float], threads: int
) -> dict[str, Any] | None:
    """Memory bandwidth, and the share of it that one answer uses (None if unknown). A share above 1 means that weights
    stay in a CPU cache."""
    rates = rounds.rate("decode", 1)
    if not found:
        return None
    a_second = statistics.median(found)
    share = round(statistics.median(rates) * bytes_a_token / a_second, 3) if bytes_a_token and rates else None
    return {"gb_per_s": round(a_second / 1e9, 1), "threads": threads, "share_of_one_answer": share}


def document_of(rounds: Rounds, plan: Plan, memory: Mapping[str, float | None]) -> dict[str, Any]:
    """One contestant's figures: medians, and ``spread`` between the lowest and the highest run."""
    return {
        "load_s": round(rounds.loaded["load_s"], 3),
        "memory": memory,
        "first_token": {
            "prompt_tokens": FIRST_PROMPT_TOKENS,
            "cold_ms": round(rounds.loaded["cold_ms"], 1),
            **_summary(rounds.figures["first", FIRST_PROMPT_TOKENS], {"first_token_ms": "warm_ms"}),
        },
        "runs": [
            {
                "sequences": size,
                "tokens": rounds.tokens[size],
                **_summary(rounds.figures["decode", size], {"tokens_per_s": "decode_tokens_per_s"}, RUN_FIGURES),
            }
            for size in plan.sequences
            if rounds.figures["decode", size]
        ],
        "prefill": [
            {"tokens": size, **_summary(rounds.figures["prefill", size], {"tokens_per_s": "tokens_per_s"})}
            for size in plan.prefills
            if rounds.figures["prefill", size]
        ],
        "left_out": sorted([kind, size] for kind, size in rounds.left_out),
    }


RUN_FIGURES = ("first_token_ms", "prefill_tokens_per_s", "wall_s")


def _summary(runs: Sequence[Mapping[str, float]], names: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, Any]:
    spread: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    for name, shown in [*names.items(), *((name, name) for name in more if all(name in run for run in runs))]:
        values = sorted(run[name] for run in runs)
        found[shown] = round(statistics.median(values), 2)
        spread[shown] = [round(values[0], 2), round(values[-1], 2)]
    return {**found, "spread": spread}


def ratios(ours: Rounds, theirs: Rounds, plan: Plan) -> list[dict[str, Any]]:
    """Our figures divided by theirs in the same round, for each measurement that both have."""
    found = []
    for kind, size in _measurements(plan):
        pairs = zip(ours.rate(kind, size), theirs.rate(kind, size), strict=False)
        values = sorted(a / b for a, b in pairs if b > 0)
        if kind != "first" and values:
            spread = [round(values[0], 3), round(values[-1], 3)]
            found.append({"what": kind, "size": size, "ratio": round(statistics.median(values), 3), "spread": spread})
    return found


def losses(alone: Rounds, beside: Rounds, plan: Plan) -> list[dict[str, Any]]:
    """The slowdown in per cent, from medians; negative if it was faster."""
    found = []
    for kind, size in _measurements(plan):
        before, now = ([], []) if kind == "first" else (alone.rate(kind, size), beside.rate(kind, size))
        if before and now:
            lost = 100 * (1 - statistics.median(now) / statistics.median(before))
            found.append({"what": kind, "size": size, "per_cent": round(lost, 1)})
    return found


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Runs ``count`` processes that each keep a core busy, until the end of the context."""
    spin = "while True: pass"
    running = [subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
        for one in running:
            one.wait()


def read_bandwidth(threads: int) -> float | None:
    """Bytes per second that ``threads`` threads read from memory, best of three; None without the native library."""
    from webapp.backends.native import building, library
    from webapp.backends.native.model import measured_bandwidth

    if not building.is_built():
        return None
    try:
        return max(measured_bandwidth(threads) for _ in range(3))
    except (RoostError, library.NativeUnavailable, MemoryError):
        return None


def machine() -> dict[str, Any]:
    load = psutil.getloadavg()
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "load": [round(value, 2) for value in load],
    }


def _mb(size: int | None) -> float | None:
    return round(size / 1e6, 1) if size else None


def default_threads() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


PACKAGE = "xllamacpp"
BOOT = "import sys; sys.path[:] = sys.argv[4:]; from webapp.services.bench.llama_worker import serve; serve()"


class LlamaContestant(AskedContestant):
    """llama.cpp, through the package ``xllamacpp`` if it is installed: its own server, in its own process, with token
    ids as input (:mod:`.llama_worker`). It needs the same model as a GGUF file."""

    def __init__(self, name: str, path: str, threads: int = 0, most_sequences: int = 1) -> None:
        self.name = name
        self._setup = [path, str(threads or default_threads()), str(most_sequences)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise RequestError(reason=Text("reason.services.llama_cpp_package_missing", package=PACKAGE))
        command = [sys.executable, "-c", BOOT, *self._setup, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def close(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def answers(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        assert self._process is not None and self._process.stdin is not None, "load() comes first"
        self._process.stdin.write(json.dumps([sequences, prompt_tokens, tokens]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RequestError(reason=Text("reason.services.llama_cpp_failed", code=str(self._process.wait())))
        found: dict[str, float] = json.loads(line)
        return found
