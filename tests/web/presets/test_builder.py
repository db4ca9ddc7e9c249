"""The strategy builder: the choices here, the resulting strategy, and errors in one written by hand."""

import re
import sys

import pytest
from msgspec.structs import asdict

from tests.web.presets.posted_form import form_of
from tests.wording import text
from webapp.backends.webgpu import device
from webapp.engine.registry import kinds
from webapp.resources import STARTER_MODEL
from webapp.web.presets.builder import BuilderChoice, read_choice


def string_of(part):
    return re.search(r'id="field-strategy"[^>]*value="([^"]*)"', part)[1]


def build(browser, model="six.safetensors", **fields):
    return browser.part("/presets/builder", model=model, **{f"build_{name}": value for name, value in fields.items()})


def test_kinds_that_do_not_run_here_say_why_and_cannot_be_chosen(browser):
    part = build(browser, kind="cpu")
    for row in kinds():
        card = part[part.index(f'id="build-{row.kind.key}"') :]
        card = card[: card.index("</label>")]
        assert ("disabled" in card.partition(">")[0]) is not row.availability.is_available
        assert ("choice-why" in card) is not row.availability.is_available


def test_the_string_follows_precision_and_layers(browser):
    assert string_of(build(browser, kind="cpu", precision="bf16")) == "cpu bf16"
    assert string_of(build(browser, kind="cpu", precision="int8")) == "cpu fp32i8 -> cpu fp32 *1"
    assert string_of(build(browser, kind="cpu", precision="int8", quantized_layers="2")) == "cpu fp32i8 *2 -> cpu fp32"
    assert string_of(build(browser, kind="cuda", precision="fp16", gpu_layers="2")) == "cuda fp16 *2 -> cpu fp32"


def test_a_model_that_takes_no_int8_is_not_offered_any(browser):
    part = build(browser, model="roost-starter-v7.safetensors", kind="cpu", precision="int8")
    assert 'value="int8"' not in part and "build_quantized_layers" not in part
    assert string_of(part) == "cpu fp32" and "form-wide" in part


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cuda fp16i4", "i8"),
        ("cpu fp8", "cpu fp8"),
        ("cpu fp32 *9", "3 layers"),
        ("nonsense", "nonsense"),
        ("cpu fp32 *2+", "GPU"),
    ],
)
def test_a_string_written_by_hand_is_judged_at_once(browser, text, said):
    part = browser.part("/presets/builder", model="six.safetensors", build_kind="custom", strategy=text)
    error = re.search(r'builder-error">(.*?)</p>', part, re.DOTALL)[1]
    assert said in error and string_of(part) == text and 'class="note note-good fit' not in part


def test_a_split_written_by_hand_shows_where_each_layer_goes(browser):
    part = browser.part(
        "/presets/builder", model="six.safetensors", build_kind="custom", strategy="cpu fp32 *2 -> cpu bf16"
    )
    assert "layers 1–2: CPU FP32" in part and "layer 3 and head: CPU BF16" in part and "builder-error" not in part


def test_one_click_takes_another_strategy(browser):
    part = browser.part("/presets/builder", model="six.safetensors", build_kind="auto", switch="cpu bf16")
    assert string_of(part) == "cpu bf16" and re.search(r'id="build-cpu"[^>]* checked', part)


def test_a_preset_keeps_what_the_builder_says(browser):
    mine = browser.presets.create("Mine", {"model": "six.safetensors"})
    browser.save(mine.id, build_kind="cpu", build_precision="int8", build_quantized_layers="2", strategy="old")
    assert browser.presets.get(mine.id).strategy == "cpu fp32i8 *2 -> cpu fp32"
    page = browser.get(f"/presets/{mine.id}")[1]
    assert re.search(r'name="build_quantized_layers"[^>]*value="2"', page)
    browser.save(mine.id, build_kind="auto")
    assert browser.presets.get(mine.id).strategy == ""


def test_a_wrong_string_is_not_saved_and_stays_on_the_page(browser):
    mine = browser.presets.create("Mine", {"model": "six.safetensors"})
    status, _, page = browser.save(mine.id, build_kind="custom", strategy="cpu fp32 *99", temperature="0.5")
    assert status == 422 and browser.presets.get(mine.id) == mine
    assert string_of(page) == "cpu fp32 *99" and 'value="0.5"' in page


def test_a_strategy_for_another_machine_may_be_saved(browser):
    mine = browser.presets.create("Mine", {"model": "six.safetensors"})
    assert browser.save(mine.id, build_kind="custom", strategy="cuda fp16 *2 -> cpu fp32")[0] == 303
    assert browser.presets.get(mine.id).strategy == "cuda fp16 *2 -> cpu fp32"


def test_the_page_without_scripts_shows_the_result_of_a_choice(browser):
    mine = browser.presets.create("Mine", {"model": "six.safetensors"})
    for form in ({"do": "preview", "build_kind": "cpu", "build_precision": "bf16"}, {"switch": "cpu bf16"}):
        status, _, page = browser.save(mine.id, temperature="0.5", **form)
        assert status == 200 and string_of(page) == "cpu bf16" and 'value="0.5"' in page
    assert browser.presets.get(mine.id) == mine


@pytest.mark.parametrize(
    "strategy",
    ["", "cpu fp32", "cpu bf16", "cuda fp16i8 *2 -> cpu fp32", "cuda fp16 *1+", "mps fp16", "CPU  FP32",
     "cuda:0 fp16 *1 -> cuda:1 fp16", "cpu fp32i8 -> cpu fp32 *1"],
)  # fmt: skip
@pytest.mark.parametrize("model", ["six.safetensors", "roost-starter-v7.safetensors", "not-here.pth", ""])
def test_a_page_saved_untouched_changes_nothing(browser, strategy, model):
    values = {"model": model, "strategy": strategy, "temperature": 1.5, "stop": ["\n\nUser:", "a\\b"], "seed": 7}
    values |= {"system_prompt": "\n two\nlines", "threads": 3, "global_penalty": True, "state": "gone.pth"}
    mine = browser.presets.create("Mine", values)
    form = form_of(browser.get(f"/presets/{mine.id}")[1])
    assert len(form) > 20
    assert browser.save(mine.id, **form)[0] == 303
    saved = browser.presets.get(mine.id)
    assert {**asdict(saved), "updated_at": 0} == {**asdict(mine), "updated_at": 0}


def test_what_cannot_be_read_counts_as_not_given():
    assert read_choice({"build_kind": "warp", "build_gpu_layers": "many"}, None) == BuilderChoice()
    assert read_choice({"temperature": "1"}, None) is None
    given = read_choice({"build_kind": "webgpu", "build_precision": "fp16"}, None)
    assert given.kind == "webgpu" and given.strategy_for("cpu fp32", None) == "webgpu fp16"


def test_the_fit_is_a_sentence_with_figures(browser):
    part = build(browser, kind="cpu", precision="fp32")
    note = re.search(r'class="note note-\w+ fit">.*?<strong>(.*?)</strong>', part, re.DOTALL)[1]
    assert re.search(r"needs [\d.]+ [kMG]B, [\d.]+ [MGT]B free, room for \d+ conversations at once", note)


def test_the_builder_as_a_page_leads_to_the_presets(browser):
    answer = browser.client.get("/presets/builder?build_kind=cpu", base_url="http://127.0.0.1")
    assert answer.status_code == 303 and answer.headers["Location"] == "/presets"


def test_the_states_that_can_be_chosen_follow_the_model_of_the_form(browser):
    part = browser.part("/presets/builder", model=STARTER_MODEL, state="")
    assert '<option value="poet.safetensors">poet.safetensors</option>' in part
    part = browser.part("/presets/builder", model="six.safetensors", state="poet.safetensors")
    assert 'id="field-state" name="state" hx-swap-oob="true"' in part
    assert 'value="poet.safetensors" selected>poet.safetensors (does not fit this model)' in part
    assert "hx-swap-oob" not in build(browser)


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_under_python_3_10_the_cards_of_webgpu_say_which_python_it_takes(browser, monkeypatch, locale):
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    part = browser.part("/presets/builder", model="six.safetensors", build_kind="auto", lang=locale)
    said = text("reason.webgpu.python_is_too_old", locale, version="3.10")
    for kind in ("webgpu", "webgpu_python"):
        card = part[part.index(f'id="build-{kind}"') :]
        card = card[: card.index("</label>")]
        assert "disabled" in card.partition(">")[0] and "choice-why" in card
        assert said[1:] in card and text("reason.webgpu.use_newer_python", locale) in card
