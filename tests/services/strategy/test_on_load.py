"""The strategy of a load that gives only a model."""

import pytest
from msgspec.structs import replace

from tests.services.strategy.test_fit import big, machine
from tests.weights.make_checkpoints import write_checkpoint
from webapp.backends.native.backend import NativeBackend
from webapp.backends.pytorch.backend import TorchBackend
from webapp.engine.backend import Availability
from webapp.manager.library import ModelLibrary
from webapp.services.strategy import strategy_for, strategy_on_load

INT8 = "cpu fp32i8 -> cpu fp32 *1"


@pytest.fixture(autouse=True)
def no_engine_of_our_own(monkeypatch):
    monkeypatch.setattr(NativeBackend, "availability", lambda: Availability(False, "no compiler", is_ready=False))
    monkeypatch.setattr(TorchBackend, "availability", lambda: Availability(False, "no torch"))


def test_the_strategy_in_use_stays_as_long_as_the_model_can_be_run_with_it():
    assert strategy_for(big("6"), INT8, machine(32)) == INT8
    assert strategy_for(big("7"), "cpu bf16", machine(32)) == "cpu bf16"
    assert strategy_for(big("7"), "cpu fp32", machine(1)) == "cpu fp32"  # too large is a separate error


def test_another_is_taken_where_the_file_cannot_be_run_with_the_one_in_use():
    assert strategy_for(big("7"), INT8, machine(32)) == "cpu fp32"
    assert strategy_for(big("7"), INT8, machine(5)) == "cpu bf16"
    assert strategy_for(replace(big("6"), converted_strategy=INT8), "cpu fp32", machine(32)) == INT8


def test_a_strategy_that_runs_nothing_is_reported_later():
    assert strategy_for(big("7"), "banana", machine(32)) == "banana"
    elsewhere = replace(big("7"), converted_strategy="cuda:99 fp16")
    assert strategy_for(elsewhere, "cpu fp32", machine(32)) == "cpu fp32"


def test_auto_is_stored_and_shown_with_its_current_choice(tmp_path):
    write_checkpoint(tmp_path / "seven.pth", "7", n_embd=64, vocab_size=256)
    assert strategy_on_load(ModelLibrary(tmp_path), "seven.pth", "auto") is None
    assert strategy_for(big("7"), "auto", machine(32)) == "cpu fp32"


def test_by_name_as_the_manager_takes_it(tmp_path):
    write_checkpoint(tmp_path / "seven.pth", "7", n_embd=64, vocab_size=256)
    library = ModelLibrary(tmp_path)
    assert strategy_on_load(library, "seven.pth", "cpu bf16") is None
    assert strategy_on_load(library, "seven.pth", INT8) in ("cpu fp32", "cuda fp16")
    assert strategy_on_load(library, "none.pth", INT8) is None
