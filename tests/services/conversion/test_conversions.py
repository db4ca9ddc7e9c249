"""The queue of conversions behind the page, with the real program at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tests.weights.make_checkpoints import write_checkpoint
from webapp.errors import (
    ConversionCancelled,
    ConversionNotFound,
    ConversionRefused,
    ConversionTargetExists,
    FileNameUnusable,
    ModelNotFound,
    RoostError,
    ShuttingDown,
)
from webapp.manager.library import ModelLibrary
from webapp.services.conversion.conversions import ConversionJob, Conversions
from webapp.services.conversion.order import ConversionOrder
from webapp.services.conversion.process import ConversionProcess
from webapp.weights.checkpoint import inspect


@pytest.fixture
def conversions(tmp_path: Path) -> Iterator[Conversions]:
    write_checkpoint(tmp_path / "raw.pth", "7", n_layer=1, n_embd=64)
    conversions = Conversions(ModelLibrary(tmp_path, tmp_path / "none"))
    yield conversions
    conversions.close()


def until_over(conversions: Conversions, job: ConversionJob, seconds: float = 240) -> ConversionJob:
    wait_until(lambda: conversions.job(job.id).is_over, seconds)
    return conversions.job(job.id)


def test_jobs_run_one_after_the_other(conversions: Conversions, tmp_path: Path) -> None:
    first = conversions.start(ConversionOrder("raw.pth", "st"))
    second = conversions.start(ConversionOrder("raw.pth", "fast", strategy="cpu bf16"))
    assert until_over(conversions, second).status == "done"
    done = conversions.job(first.id)
    assert done.status == "done" and done.size_bytes == (tmp_path / "raw.st").stat().st_size
    assert done.progress is not None and done.progress.done_bytes == done.planned_bytes
    assert inspect(tmp_path / "raw.cpu-bf16.fast.pth").converted_strategy == "cpu bf16"
    assert [job.id for job in conversions.jobs()] == [second.id, first.id]


def test_one_that_waits_is_cancelled_and_one_that_runs(conversions: Conversions, tmp_path: Path) -> None:
    running = conversions.start(ConversionOrder("raw.pth", "st"))
    waiting = conversions.start(ConversionOrder("raw.pth", "fast", strategy="cpu fp32"))
    conversions.cancel(waiting.id)
    conversions.cancel(running.id)
    assert conversions.job(waiting.id).status == "cancelled"
    over = until_over(conversions, running)
    assert over.status in ("cancelled", "done")  # it may have been quicker
    if over.status == "cancelled":
        assert isinstance(over.error, ConversionCancelled)
        assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (ConversionOrder("none.pth", "st"), ModelNotFound),
        (ConversionOrder("../../etc/passwd", "st"), ModelNotFound),
        (ConversionOrder("raw.pth", "gguf"), ConversionRefused),
        (ConversionOrder("raw.pth", "fast"), ConversionRefused),
        (ConversionOrder("raw.pth", "fast", strategy="cpu fp32i8 *99"), RoostError),
        (ConversionOrder("raw.pth", "st", lora="raw.pth", lora_alpha=1), RoostError),
        (ConversionOrder("raw.pth", "st", lora="../x.pth", lora_alpha=1), ModelNotFound),
        (ConversionOrder("raw.pth", "pth"), ConversionRefused),
        (ConversionOrder("raw.pth", "st", name="///"), FileNameUnusable),
        (ConversionOrder("raw.pth", "fast", "raw.pth", "cpu fp32", overwrite=True), ConversionRefused),
    ],
)
def test_what_can_be_told_beforehand_is_refused_at_once(
    order: ConversionOrder, error: type[RoostError], conversions: Conversions, tmp_path: Path
) -> None:
    with pytest.raises(error):
        conversions.start(order)
    assert conversions.jobs() == [] and [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


def test_a_name_never_leads_out_of_the_folder(conversions: Conversions, tmp_path: Path) -> None:
    assert conversions.check(ConversionOrder("raw.pth", "st", "../../x.st")).target_path == tmp_path / "x.st"


def test_a_file_in_the_way_is_named_and_stays(conversions: Conversions, tmp_path: Path) -> None:
    (tmp_path / "raw.st").write_bytes(b"mine")
    assert conversions.check(ConversionOrder("raw.pth", "st")).is_name_taken
    with pytest.raises(ConversionTargetExists):
        conversions.start(ConversionOrder("raw.pth", "st"))
    assert (tmp_path / "raw.st").read_bytes() == b"mine"


def test_two_jobs_never_write_one_file(conversions: Conversions) -> None:
    conversions.start(ConversionOrder("raw.pth", "st"))
    with pytest.raises(ConversionTargetExists):
        conversions.start(ConversionOrder("raw.pth", "st", overwrite=True))


def test_a_program_that_dies_is_told_and_cleared_away(
    conversions: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: ConversionProcess, report: object) -> None:
        (tmp_path / ".raw.st.0.converting").write_bytes(b"half")
        self._process.kill()
        return wait(self, report)

    wait = ConversionProcess.wait
    monkeypatch.setattr(ConversionProcess, "wait", killed)
    over = until_over(conversions, conversions.start(ConversionOrder("raw.pth", "st")))
    assert over.status == "failed" and over.error is not None and over.error.code == "conversion_failed"
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


def test_closing_ends_what_runs_and_takes_no_more(conversions: Conversions, tmp_path: Path) -> None:
    conversions.start(ConversionOrder("raw.pth", "st"))
    conversions.close()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ShuttingDown):
        conversions.start(ConversionOrder("raw.pth", "fast", strategy="cpu fp32"))


def test_only_what_is_over_leaves_the_list(conversions: Conversions, tmp_path: Path) -> None:
    job = until_over(conversions, conversions.start(ConversionOrder("raw.pth", "st")))
    conversions.remove(job.id)
    assert conversions.jobs() == [] and (tmp_path / "raw.st").is_file()
    with pytest.raises(ConversionNotFound):
        conversions.cancel(job.id)
