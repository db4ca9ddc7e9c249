"""How fast a model would be here: as measured, else by the weights it reads and what memory gives, else nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from webapp.services.bench.measurements import MeasuredMachine, MeasuredSpeed, speed_here, speeds_of
from webapp.services.downloads.catalogue import as_inspected, known_models
from webapp.services.strategy import bytes_a_token

LARGE = as_inspected(next(model for model in known_models() if (model.family, model.parameters) == ("g1", "1.5B")))
SMALL = replace(LARGE, config=replace(LARGE.config, n_layer=1), tensors=LARGE.tensors[2:3])


def of(inspection, strategy, rate, read=None):
    return MeasuredSpeed(inspection.path, inspection.size_bytes, strategy, rate, read)


def test_what_was_measured_is_taken_however_its_strategy_is_written():
    here = MeasuredMachine((of(LARGE, "native q8", 30.0), of(LARGE, "native q8", 10.0)), 20e9)
    for strategy in ("native q8", "native", "native  q8"):
        found = speed_here(LARGE, strategy, here)
        assert found.is_measured and found.tokens_per_s == 30.0
    assert not speed_here(replace(LARGE, size_bytes=1), "native q8", here).is_measured


def test_a_token_takes_as_long_as_its_weights_take_to_be_read():
    read = bytes_a_token(LARGE, "native q8")
    assert 1.4e9 < read < 2.4e9
    half = bytes_a_token(LARGE, "native q4")
    assert read / half == pytest.approx(8.5 / 4.5, rel=0.15)
    found = speed_here(LARGE, "native q8", MeasuredMachine((), 20e9))
    assert not found.is_measured and found.tokens_per_s == pytest.approx(0.85 * 20e9 / read)


def test_a_measured_model_gives_a_better_estimate_than_memory():
    other = MeasuredSpeed("other.pth", 1, "native q4", 10.0, 10**9)
    found = speed_here(LARGE, "native q8", MeasuredMachine((other,), 20e9))
    assert found.tokens_per_s == pytest.approx(1e10 / bytes_a_token(LARGE, "native q8"))


@pytest.mark.parametrize("strategy", ["cpu fp32", "cuda fp16", "cpu fp99", ""])
def test_nothing_is_guessed_of_what_was_never_measured(strategy):
    here = MeasuredMachine((MeasuredSpeed("other.pth", 1, "native q4", 10.0, 10**9),), 20e9)
    assert speed_here(LARGE, strategy, here) is None


def test_nothing_is_guessed_of_small_models_and_unmeasured_machines():
    assert speed_here(SMALL, "native q8", MeasuredMachine((), 20e9)) is None
    assert speed_here(LARGE, "native q8", MeasuredMachine()) is None


def test_documents_of_the_bench_are_read():
    model = {"name": "a.pth", "file_bytes": 7, "strategy": "native q8", "bytes_a_token": None}
    runs = [{"sequences": 8, "decode_tokens_per_s": 90.0}, {"sequences": 1, "decode_tokens_per_s": 20.0}]
    found = speeds_of(
        [
            {"model": model, "runs": runs, "bandwidth": None},
            {"model": model, "runs": runs[:1], "bandwidth": {"gb_per_s": 12.5}},
        ]
    )
    assert found == MeasuredMachine((MeasuredSpeed("a.pth", 7, "native q8", 20.0),), 12.5e9)
