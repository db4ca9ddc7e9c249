"""Conversions of the page, with the real program."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.errors import raises_code
from tests.waiting import PATIENCE_S
from tests.weights.make_checkpoints import write_checkpoint
from webapp.cli import convert
from webapp.cli.parser import parse
from webapp.errors import RoostError
from webapp.manager.library import ModelLibrary
from webapp.services import conversion
from webapp.services.conversion import ConversionPlan, ConversionRequest, Conversions
from webapp.services.jobs import Jobs, Running
from webapp.weights.convert.conversion import Converted
from webapp.weights.convert.plan import ConversionProgress
from webapp.weights.inspection import inspect


class Here:
    """Replaces the printer of `roost convert`."""

    size_bytes = 0

    def __init__(self, running: Running) -> None:
        self._running = running

    def progress(self, progress: ConversionProgress) -> None:
        self._running.report(progress.done_bytes, phase=progress.phase)

    def done(self, converted: Converted) -> None:
        self.size_bytes = converted.size_bytes

    def failed(self, error: RoostError) -> bool:
        return False


def run_here(arguments: list[str], running: Running) -> dict[str, float]:
    """As the program does, but without a process that imports torch for 2 s."""
    cancelled, printer = threading.Event(), Here(running)
    running.on_stop(cancelled.set)
    convert.make(parse(arguments), printer, cancelled)
    return {"size_bytes": printer.size_bytes, "seconds": 0.0}


@pytest.fixture
def without_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "run_program", run_here)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


@pytest.fixture
def conversions(tmp_path: Path, jobs: Jobs) -> Conversions:
    write_checkpoint(tmp_path / "raw.pth", "7", n_layer=1, n_embd=64)
    return Conversions(ModelLibrary(tmp_path, tmp_path / "none"), jobs)


def test_the_program_makes_the_file_and_tells_how_far_it_is(
    conversions: Conversions, jobs: Jobs, tmp_path: Path
) -> None:
    done = jobs.wait(conversions.start(ConversionRequest("raw.pth", "fast", strategy="cpu bf16")).id, 240)
    made = tmp_path / "raw.cpu-bf16.fast.pth"
    assert done.status == "done" and done.details["size_bytes"] == made.stat().st_size
    assert (done.phase, done.done) == ("verify", done.total)
    assert inspect(made).converted_strategy == "cpu bf16"


@pytest.mark.usefixtures("without_program")
def test_jobs_run_one_after_the_other(conversions: Conversions, jobs: Jobs, tmp_path: Path) -> None:
    first = conversions.start(ConversionRequest("raw.pth", "st"))
    second = conversions.start(ConversionRequest("raw.pth", "fast", strategy="cpu bf16"))
    assert jobs.wait(second.id, 240).status == "done"
    done = jobs.job(first.id)
    assert done.status == "done" and done.details["size_bytes"] == (tmp_path / "raw.st").stat().st_size


def test_one_that_waits_is_cancelled_and_one_that_runs(conversions: Conversions, jobs: Jobs, tmp_path: Path) -> None:
    running = conversions.start(ConversionRequest("raw.pth", "st"))
    waiting = conversions.start(ConversionRequest("raw.pth", "fast", strategy="cpu fp32"))
    jobs.cancel(waiting.id)
    jobs.cancel(running.id)
    assert jobs.job(waiting.id).status == "cancelled"
    over = jobs.wait(running.id, 240)
    assert over.status in ("cancelled", "done")  # it may have finished first
    if over.status == "cancelled":
        assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ConversionRequest("none.pth", "st"), "model_not_found"),
        (ConversionRequest("../../etc/passwd", "st"), "model_not_found"),
        (ConversionRequest("raw.pth", "onnx"), "conversion_refused"),
        (ConversionRequest("raw.pth", "fast"), "conversion_refused"),
        (ConversionRequest("raw.pth", "fast", strategy="cpu fp32i8 *99"), "strategy_invalid"),
        (ConversionRequest("raw.pth", "st", lora="raw.pth", lora_alpha=1), "lora_mismatch"),
        (ConversionRequest("raw.pth", "st", lora="../x.pth", lora_alpha=1), "model_not_found"),
        (ConversionRequest("raw.pth", "pth"), "conversion_refused"),
        (ConversionRequest("raw.pth", "st", name="///"), "file_name_unusable"),
        (ConversionRequest("raw.pth", "fast", "raw.pth", "cpu fp32", overwrite=True), "conversion_refused"),
    ],
)
def test_errors_known_beforehand_are_refused_at_once(
    request_: ConversionRequest, error: type[RoostError], conversions: Conversions, jobs: Jobs, tmp_path: Path
) -> None:
    with raises_code(error):
        conversions.start(request_)
    assert jobs.jobs() == [] and [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


def test_a_name_never_leads_out_of_the_folder(conversions: Conversions, tmp_path: Path) -> None:
    assert conversions.check(ConversionRequest("raw.pth", "st", "../../x.st")).target_path == tmp_path / "x.st"


def test_a_file_in_the_way_is_named_and_stays(conversions: Conversions, tmp_path: Path) -> None:
    (tmp_path / "raw.st").write_bytes(b"mine")
    assert conversions.check(ConversionRequest("raw.pth", "st")).is_name_taken
    with raises_code("conversion_target_exists"):
        conversions.start(ConversionRequest("raw.pth", "st"))
    assert (tmp_path / "raw.st").read_bytes() == b"mine"


def test_two_jobs_never_write_one_file(conversions: Conversions, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    def run(arguments: list[str], running: Running) -> dict[str, float]:
        may_end.wait(PATIENCE_S)
        return run_here(arguments, running)

    monkeypatch.setattr(conversion, "run_program", run)
    conversions.start(ConversionRequest("raw.pth", "st"))
    with raises_code("conversion_target_exists"):
        conversions.start(ConversionRequest("raw.pth", "st", overwrite=True))
    may_end.set()


def test_a_program_that_fails_is_reported_and_cleared_away(
    conversions: Conversions, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".raw.st.0.converting").write_bytes(b"half")
    monkeypatch.setattr(ConversionPlan, "arguments", lambda plan: ["convert", "--nonsense"])
    over = jobs.wait(conversions.start(ConversionRequest("raw.pth", "st")).id, 240)
    assert over.status == "failed" and over.error is not None and over.error.code == "conversion_failed"
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


@pytest.mark.usefixtures("without_program")
def test_closing_ends_running_work_and_refuses_more(conversions: Conversions, jobs: Jobs, tmp_path: Path) -> None:
    conversions.start(ConversionRequest("raw.pth", "st"))
    jobs.close()
    assert not list(tmp_path.glob(".*"))
    with raises_code("shutting_down"):
        conversions.start(ConversionRequest("raw.pth", "fast", strategy="cpu fp32"))
