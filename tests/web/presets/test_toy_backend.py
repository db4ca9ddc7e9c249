"""A new backend is one class and one row of the registry: pages, presets, command line, fit estimate and bench use it.

The class is in this file and the fixture adds the row; nothing else refers to them.
"""

import json
import re
from html import unescape

import pytest

from tests.manager.thread_engine import start_engine_in_thread
from tests.web.presets.posted_form import form_of
from webapp.backends.fake import FakeBackend, FakeOptions
from webapp.cli import main
from webapp.engine import registry
from webapp.engine.backend import RAM, Availability, Footprint, Suggestion
from webapp.engine.options import BackendKind, BackendOption
from webapp.engine.registry import BackendEntry
from webapp.errors import StrategyError
from webapp.manager.manager import ModelManager
from webapp.services.bench import speed
from webapp.services.strategy import Hardware, estimate, validate

MODEL = "six.safetensors"
GB = 10**9


class ToyBackend(FakeBackend):
    """Answers like the fake backend."""

    OPTIONS = (
        BackendOption("colour", "choice", "plain", ("plain", "red"), label="Colour", help="What it is painted with."),
        BackendOption("level", "whole", 1, low=0, high=9, label="Toy level"),
        BackendOption("polished", "switch", True, label="Polished"),
        BackendOption("threads", "whole", 0, low=0, high=64),
    )
    KINDS = (BackendKind("toy", "Toy engine", "Runs nowhere else.", order=15, formats=(".toy",), versions=("9",)),)
    found = Availability(True)

    @classmethod
    def availability(cls):
        return cls.found

    @classmethod
    def check(cls, model, options):
        pass

    @classmethod
    def footprint(cls, model, options):
        return Footprint({RAM: GB * int(options["level"])}, state={RAM: 1000})

    @classmethod
    def suggestions(cls, model):
        return [Suggestion("toy red", -1, "It is only a toy.")]

    @classmethod
    def load(cls, path, config, options, progress):
        return cls(config, FakeOptions(slots=8))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    row = BackendEntry("toy", f"{__name__}:ToyBackend")
    monkeypatch.setattr(registry, "REGISTRY", [*registry.REGISTRY, row])


def test_its_card_and_its_options_are_in_the_builder(browser):
    part = browser.part("/presets/builder", model=MODEL, build_kind="toy", build_colour="red", build_level="12")
    card = part[part.index('id="build-toy"') :]
    assert "Toy engine" in card and "checked" in card.partition(">")[0]
    assert re.search(r'name="build_colour" value="red" checked', part) and "What it is painted with." in part
    assert re.search(r'name="build_level"[^>]*max="9"[^>]*value="9"', part), "brought into range"
    assert 'name="build_threads"' not in part, "the preset has a field for it"
    assert re.search(r'id="field-strategy"[^>]*value="toy red level=9"', part)
    assert "toy red" in re.search(r'name="switch" value="([^"]*)"', part)[1], "its suggestion is recommended"


def test_a_preset_keeps_it_and_its_form_brings_it_back_unchanged(browser):
    mine = browser.presets.create("Mine", {"model": MODEL})
    browser.save(mine.id, build_kind="toy", build_colour="red", build_level="3", build_polished="0")
    assert browser.presets.get(mine.id).strategy == "toy red level=3 polished=false"
    page = browser.get(f"/presets/{mine.id}")[1]
    assert re.search(r'id="build-toy"[^>]* checked', page) and re.search(r'name="build_level"[^>]*value="3"', page)
    assert browser.save(mine.id, **form_of(page))[0] == 303
    assert browser.presets.get(mine.id).strategy == "toy red level=3 polished=false"


def test_a_wrong_option_is_refused_with_the_valid_ones(browser):
    mine = browser.presets.create("Mine", {"model": MODEL})
    status, _, page = browser.save(mine.id, build_kind="custom", strategy="toy green")
    assert status == 422 and "colour, level, polished" in page
    assert validate("toy red", None).is_valid


def test_it_is_in_the_comparison(browser):
    page = unescape(browser.get("/presets/compare")[1])
    assert "Toy engine" in page and "RWKV-9: .toy" in page


@pytest.mark.parametrize(("level", "verdict"), [(1, "fits"), (9, "does_not_fit")])
def test_the_fit_estimate_asks_its_footprint(browser, level, verdict):
    found = browser.manager.library.entry(MODEL).inspection
    machine = Hardware("cpu", 4, 8, 8 * GB, 4 * GB, ())
    estimated = estimate(found, f"toy level={level}", machine)
    assert (estimated.verdict, estimated.needed_bytes) == (verdict, level * GB + 1000)
    assert "toy red" in [other.strategy for other in estimated.alternatives] or verdict == "fits"


@pytest.mark.parametrize("command", [["bench"], ["serve"], ["run"]])
def test_the_command_line_says_how_its_strategies_are_written(capsys, command):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "toy [plain|red] [level=0..9] [polished=on|off]" in shown


@pytest.fixture
def bench(models, tmp_path, capsys, monkeypatch):
    """bench(strategy) -> (exit code, the document or None, other output); the engine runs in a thread."""
    in_thread = lambda settings, _, library: ModelManager(settings, start_engine_in_thread, library)  # noqa: E731
    monkeypatch.setattr(speed, "ModelManager", in_thread)

    def run(strategy):
        where = ["--models", str(models), "--data", str(tmp_path), "-m", MODEL, "--strategy", strategy]
        sizes = ["--prompt-tokens", "8", "--tokens", "4", "--sequences", "1", "--prefill", "8", "--repeat", "1"]
        code = main(["bench", *where, *sizes])
        shown = capsys.readouterr()
        return code, json.loads(shown.out.splitlines()[-1]) if code == 0 else None, shown.err

    return run


def test_the_bench_runs_it(bench):
    code, found, _ = bench("toy red")
    assert code == 0 and found["model"]["strategy"] == "toy red"


def test_one_that_is_not_available_says_why_everywhere(browser, bench, monkeypatch):
    monkeypatch.setattr(ToyBackend, "found", Availability(False, "the box is empty", "Buy batteries."))
    card = browser.part("/presets/builder", model=MODEL, build_kind="cpu")
    card = card[card.index('id="build-toy"') :]
    assert "disabled" in card.partition(">")[0] and "The box is empty. Buy batteries." in card
    assert validate("toy red", browser.manager.library.entry(MODEL).inspection.config).is_elsewhere
    code, _, said = bench("toy red")
    assert code != 0 and "the box is empty" in said and "Buy batteries." in said


def test_an_unknown_strategy_is_refused_with_the_known_ones(toy):
    with pytest.raises(StrategyError) as caught:
        registry.backend_for("nonsense")
    named = str(caught.value.params["way_out"].params["names"]).split(", ")
    assert "toy" in named and len(named) == len(registry.backends())
    for strategy in named:
        registry.resolve_strategy(strategy)
