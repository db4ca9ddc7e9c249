"""The choice of backend and strategy for a model."""

import sys

import pytest

from webapp.engine import options, registry
from webapp.engine.backend import RAM, Availability, Backend, Footprint, ModelSizes, Suggestion
from webapp.errors import BackendUnavailable, StrategyError

GB = 10**9
MODEL = ModelSizes(None)
SIZES = {"fast": {RAM: GB, "card": 4 * GB}, "plain": {RAM: 8 * GB}, "small": {RAM: 2 * GB}}


class Sized(Backend):
    """Suggests a strategy for each of ``SIZES``; ``slow`` can never run."""

    available = Availability(True)

    @classmethod
    def availability(cls):
        return cls.available

    @classmethod
    def options_from(cls, strategy):
        cls.chosen = strategy.split()[1]
        return {}

    @classmethod
    def check(cls, model, options):
        if cls.chosen == "never":
            raise StrategyError(strategy="sized never", reason="never", way_out="")

    @classmethod
    def footprint(cls, model, options):
        return Footprint(SIZES[cls.chosen])

    @classmethod
    def suggestions(cls, model):
        return [Suggestion(f"sized {name}", rank, "") for rank, name in enumerate(("never", *SIZES))][::-1]


@pytest.fixture(autouse=True)
def sized(monkeypatch):
    monkeypatch.setattr(Sized, "available", Availability(True))
    row = registry.BackendEntry("sized", f"{__name__}:Sized")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Sized.__module__])
    monkeypatch.setattr(registry, "REGISTRY", [row])


@pytest.mark.parametrize(
    ("free", "strategy"),
    [
        ({RAM: 64 * GB, "card": 8 * GB}, "sized fast"),
        ({RAM: 64 * GB, "card": 1 * GB}, "sized plain"),
        ({RAM: 64 * GB}, "sized plain"),
        ({RAM: 8 * GB}, "sized small"),
        ({RAM: 1 * GB}, "sized small"),
    ],
)
def test_the_first_suggestion_that_runs_and_fits_is_used_otherwise_the_smallest(free, strategy):
    assert registry.Candidates(MODEL).best(free) == strategy


def test_if_nothing_runs_the_first_reason_is_reported(monkeypatch):
    monkeypatch.setattr(Sized, "suggestions", lambda model: [Suggestion("sized never", 0, "")])
    with pytest.raises(StrategyError) as raised:
        registry.Candidates(MODEL).best({RAM: GB})
    assert raised.value.params["reason"] == "never"


def test_a_backend_that_is_not_available_suggests_nothing_and_runs_nothing(monkeypatch):
    monkeypatch.setattr(Sized, "available", Availability(False, "no licence", "Buy one."))
    assert registry.suggestions(MODEL) == []
    with pytest.raises(StrategyError):
        registry.Candidates(MODEL).best({RAM: 64 * GB})
    with pytest.raises(BackendUnavailable) as raised:
        registry.runnable(MODEL, "sized plain")
    assert raised.value.params["reason"] == "no licence"


@pytest.mark.parametrize(("text", "is_automatic"), [("", True), (" Auto ", True), ("cpu fp32", False)])
def test_no_strategy_and_auto_leave_it_to_roost(text, is_automatic):
    assert options.is_automatic(text) is is_automatic
