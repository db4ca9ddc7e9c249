"""A folder with two tiny models and a few states, and managers that are closed after each test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from safetensors.numpy import save_file

from tests.manager.thread_engine import start_engine_in_thread
from tests.waiting import PATIENCE_S, WaitRanOut
from tests.weights.make_checkpoints import make_tensors, make_time_state
from webapp.backends.fake import FakeBackend
from webapp.engine.backend import LoadProgress, ProgressCallback
from webapp.engine.options import Options
from webapp.engine.outputs import FinishReason, GenerationRequest, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import ModelConfig
from webapp.manager.client import EngineClient, OnExit, OnMessage
from webapp.manager.handles import RequestHandle
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.manager.target import ModelStatus, Target
from webapp.settings import Settings

ENDLESS = "fake script=ab repeat=0 delay_ms=2"


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v7.safetensors, v6.safetensors and wide.safetensors; states/fits and states/narrow (for v7 and v6)."""
    folder = tmp_path_factory.mktemp("models")
    for name, architecture, width in (("v7", "7", 64), ("v6", "6", 64), ("wide", "7", 128)):
        save_file(make_tensors(architecture, 1, width, 64, 256), str(folder / f"{name}.safetensors"))
    (folder / "states").mkdir()
    save_file(make_time_state(1, 1, 64), str(folder / "states" / "fits.safetensors"))
    save_file(make_time_state(1, 1, 32), str(folder / "states" / "narrow.safetensors"))
    return folder


class CountingStarter:
    """Starts engines in threads and stores them, so that a test can count them and end one."""

    def __init__(self) -> None:
        self.clients: list[EngineClient] = []

    def __call__(self, on_message: OnMessage, on_exit: OnExit) -> EngineClient:
        client = start_engine_in_thread(on_message, on_exit)
        self.clients.append(client)
        return client


@pytest.fixture
def starter() -> CountingStarter:
    return CountingStarter()


def fits(target: Target, reclaimable_bytes: int) -> None:
    """Every model fits, even if this machine is busy."""


MakeManager = Callable[..., ModelManager]


@pytest.fixture
def make_manager(models_dir: Path, tmp_path: Path, starter: CountingStarter) -> Iterator[MakeManager]:
    """``make_manager(strategy, has_room=True, start_engine=…, **settings)``."""
    made: list[ModelManager] = []

    def make(
        strategy: str = "fake", has_room: bool = True, start_engine=None, stall_limits=None, shortfall=fits, **changes
    ) -> ModelManager:
        settings = Settings(data_dir=tmp_path, models_dir=models_dir, model="v7.safetensors", strategy=strategy)
        manager = ModelManager(
            replace(settings, **changes),
            start_engine or starter,
            ModelLibrary(changes.get("models_dir", models_dir), tmp_path),
            lambda target: has_room,
            stall_limits,
            shortfall,
        )
        made.append(manager)
        return manager

    yield make
    for manager in made:
        manager.close()


class HeldLoads:
    """Loads start, report it and wait; ``end`` lets them continue until ``hold``. A cancelled one stops."""

    def __init__(self, load: Callable[..., FakeBackend]) -> None:
        self._load, self._may_end = load, threading.Event()

    def __call__(
        self, path: str, config: ModelConfig | None, options: Options, progress: ProgressCallback
    ) -> FakeBackend:
        progress(LoadProgress(0, 1_000_000, 0, 10))
        while not self._may_end.wait(0.02):
            progress(LoadProgress(0, 1_000_000, 0, 10))
        return self._load(path, config, options, progress)

    def end(self) -> None:
        self._may_end.set()

    def hold(self) -> None:
        self._may_end.clear()


@pytest.fixture
def held_loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldLoads]:
    """For actions during the load of an engine in a thread, on a machine of any speed."""
    held = HeldLoads(FakeBackend.load)
    monkeypatch.setattr(FakeBackend, "load", held)
    yield held
    held.end()


@pytest.fixture
def stuck_load(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A load that reports nothing and does not stop when cancelled, until the test is over."""
    load, is_over = FakeBackend.load, threading.Event()

    def stuck(*arguments: object) -> FakeBackend:
        is_over.wait()
        return load(*arguments)

    monkeypatch.setattr(FakeBackend, "load", stuck)
    yield
    is_over.set()


_numbers = iter(range(10**9))


def request(*prompt: int, max_tokens: int = 5, **changes) -> GenerationRequest:
    """Greedy, with a short prompt by default and a unique id."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, seed=1, **changes)
    return GenerationRequest(f"r{next(_numbers)}", prompt or (1, 2, 3), params)


def last_output(handle: RequestHandle, timeout_s: float = PATIENCE_S) -> TokenOutput:
    """The end of the stream, with all its tokens."""
    token_ids: list[int] = []
    for event in handle.events(timeout_s):
        if isinstance(event, TokenOutput):
            token_ids += event.token_ids
            if event.finish_reason is not None:
                return replace(event, token_ids=tuple(token_ids))
    raise AssertionError("the stream ended without a last output")


def first_token(handle: RequestHandle, timeout_s: float = PATIENCE_S) -> TokenOutput:
    for event in handle.events(timeout_s):
        if isinstance(event, TokenOutput):
            return event
    raise AssertionError("no token came")


def assert_failed(handle: RequestHandle, code: str) -> TokenOutput:
    output = last_output(handle)
    assert output.finish_reason is FinishReason.ERROR
    assert output.error is not None and output.error["code"] == code, output.error
    assert output.stats is not None
    return output


def wait_phase(manager: ModelManager, *phases: str) -> ModelStatus:
    deadline = time.monotonic() + PATIENCE_S
    status = manager.status()
    while status.phase not in phases:
        if time.monotonic() > deadline:
            raise WaitRanOut(f"still {status}")
        status = manager.wait_change(status.revision, 1)
    return status


@pytest.fixture
def roost_threads() -> Callable[[], list[str]]:
    """roost_threads() -> the names of threads started in this test, except those of the reader process, which is shared
    and stays running."""
    before = set(threading.enumerate())

    def begun() -> list[str]:
        names = (thread.name for thread in set(threading.enumerate()) - before)
        return sorted(name for name in names if name.startswith("roost-") and not name.startswith("roost-reader"))

    return begun
