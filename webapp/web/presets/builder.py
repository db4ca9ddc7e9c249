"""The strategy builder: what can run here, the resulting strategy, and whether it fits.

Cards and fields come from the backends' declarations (``webapp.engine.registry``), not from this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from webapp.engine.backend import Availability
from webapp.engine.options import BY_STRATEGY, BackendOption, Builder, PlacedRun, is_automatic
from webapp.engine.registry import build, read_builder
from webapp.engine.state import ModelConfig
from webapp.i18n import say, sentences, size_text
from webapp.services.presets.fields import STRATEGY_CHARS
from webapp.services.strategy import (
    CANNOT_RUN,
    FITS,
    TIGHT,
    DeviceFit,
    Fit,
    StrategyCheck,
    estimate,
    kept,
    kinds_here,
    recommend,
    validate,
)
from webapp.web.kit.page import Choice, PageContext, Values
from webapp.weights.inspection import Inspection

AUTO = "auto"
PREFIX = "build_"
SHOWN_CHARS = 60
VALUE_CHARS = 500
FULL_PERCENT = 90


class BuilderChoice(Struct, frozen=True):
    """``kind``: one of :func:`kinds_here`, or ``auto``. ``given``: the values of its fields by name, and the strategy
    as text."""

    kind: str = AUTO
    given: Mapping[str, object] = field(default_factory=dict)

    def strategy_for(self, before: str, config: ModelConfig | None) -> str:
        """The strategy to store; the text ``before`` is kept if the fields mean the same."""
        if self.kind == AUTO:
            return before if is_automatic(before) else ""
        built, old = build(self.kind, self.given, config), choice_of(before, config)
        is_same = old.kind == self.kind and built.options and build(old.kind, old.given, config).values == built.values
        return before if is_same else built.strategy


@kept
def choice_of(strategy: str, config: ModelConfig | None) -> BuilderChoice:
    """The builder's fields for a preset's strategy."""
    return BuilderChoice() if is_automatic(strategy) else BuilderChoice(*read_builder(strategy, config))


@kept
def _built(choice: BuilderChoice, config: ModelConfig | None) -> Builder:
    return build(choice.kind, choice.given, config)


def read_choice(form: Mapping[str, str], config: ModelConfig | None) -> BuilderChoice | None:
    """From ``build_*`` and ``strategy``; a ``switch`` to a whole strategy overrides them. Invalid values are ignored.
    None if the form has no builder."""
    if form.get("switch"):
        return choice_of(form["switch"][:STRATEGY_CHARS], config)
    if f"{PREFIX}kind" not in form:
        return None
    kind = form[f"{PREFIX}kind"]
    given: dict[str, object] = {BY_STRATEGY: form.get("strategy", "").strip()[:STRATEGY_CHARS]}
    for name in form:
        if name.startswith(PREFIX):  # a checkbox sends "0" from a hidden field and, if checked, "1" after it
            values = form.getlist(name) if hasattr(form, "getlist") else [form[name]]
            given[name.removeprefix(PREFIX)] = str(values[-1])[:VALUE_CHARS]
    return BuilderChoice(kind, given) if kind in {row.kind.key for row in kinds_here()} else BuilderChoice()


def builder_panel(page: PageContext, choice: BuilderChoice, found: Inspection | None, automatic: str) -> Values:
    """``presets/_builder.html``. ``found``: the model's file, None if unknown; ``automatic``: what a preset without a
    strategy uses."""
    t, config = page.t, found.config if found else None
    built = _built(choice, config)
    strategy = automatic if choice.kind == AUTO else built.strategy
    check = validate(strategy, config) if strategy else None
    is_by_hand = any(row.kind.key == choice.kind and row.kind.is_text for row in kinds_here())
    advised = recommend(page.hardware, found, page.engine_bytes) if found and config else None
    message, hint = page.explain(check.error) if check and check.error else ("", "")
    is_other = advised is not None and advised.strategy not in ("", strategy)
    return {
        "kinds": _cards(page, choice.kind, automatic),
        "fields": [_control(page, option, built.values[option.name]) for option in built.options],
        "limits": t(built.note) if built.note else "",
        "is_by_hand": is_by_hand,
        "text": choice.given.get(BY_STRATEGY, "") if is_by_hand else strategy,
        "error": message,
        "hint": hint,
        "runs": [_run(page, run) for run in check.runs] if check and len(check.runs) > 1 else [],
        "advice": [say(remark, page.locale) for remark in check.remarks] if check else [],
        "recommended": _switch(page, "preset_page.builder.take", advised.strategy) if advised and is_other else None,
        "reason": t(advised.reason, **_sizes(advised.params)) if advised else "",
        "fit": _fit_note(page, found, strategy, check),
        "machine": machine_facts(page),
    }


def _cards(page: PageContext, chosen: str, automatic: str) -> list[Values]:
    t = page.t
    shown = automatic if len(automatic) <= SHOWN_CHARS else automatic[:SHOWN_CHARS] + "…"
    words = "preset_page.kind.auto"
    text = t(f"{words}.text", strategy=shown) if automatic else t(f"{words}.unknown")
    first = {"key": AUTO, "label": t(f"{words}.label"), "text": text, "is_chosen": chosen == AUTO}
    cards = [
        {
            "key": row.kind.key,
            "label": t(row.kind.label),
            "text": t(row.kind.text),
            "is_chosen": row.kind.key == chosen,
            "is_available": row.availability.is_available,
            "reason": why_not(page, row.availability),
        }
        for row in kinds_here()
    ]
    return [{**first, "is_available": True, "reason": ""}, *cards]


def why_not(page: PageContext, found: Availability) -> str:
    """Why something does not work here, and what would change that; "" if it works."""
    reason, way_out = (str(say(text, page.locale)) for text in (found.reason, found.way_out))
    return sentences(reason[:1].upper() + reason[1:], way_out)


def _control(page: PageContext, option: BackendOption, value: object) -> Values:
    """For an option in ``_builder.html``; with the attributes of ``knob`` for a number."""
    t, is_number = page.t, option.kind in ("whole", "number")
    return {
        "name": PREFIX + option.name,
        "kind": option.kind,
        "label": t(option.label or option.name),
        "help": t(option.help) if option.help else "",
        "value": f"{value:g}" if is_number else value,
        "default": f"{option.default:g}" if is_number else option.default,
        "at_least": f"{option.low:g}",
        "at_most": f"{option.high:g}",
        "range_most": f"{option.high:g}",
        "step": "1" if option.kind == "whole" else "any",
        "choices": [Choice(name, name.upper() if any(map(str.isdigit, name)) else name) for name in option.choices],
        "is_changed": value != option.default,
        "error": "",
    }


def _run(page: PageContext, run: PlacedRun) -> Values:
    if run.count == 0:
        layers = page.t("preset_page.builder.head")
    else:
        key = ("layer" if run.count == 1 else "layers") + ("_and_head" if run.has_head else "")
        layers = page.t(f"preset_page.builder.{key}", first=run.first + 1, last=run.first + run.count)
    key = "streamed" if run.is_streamed else "kept"
    where = page.t(f"preset_page.builder.{key}", device=run.device.upper(), precision=run.precision.upper())
    return {"layers": layers, "where": where}


def _switch(page: PageContext, key: str, strategy: str, **params: object) -> Values:
    """A button that changes to this strategy."""
    return {"strategy": strategy, "label": page.t(key, strategy=strategy, **params)}


def _sizes(params: Mapping[str, Any]) -> Values:
    return {name: size_text(value) if name in ("needed", "free") else value for name, value in params.items()}


def machine_facts(page: PageContext) -> list[str]:
    """For example "AMD Ryzen 7", "8 cores", "21 of 32 GB RAM free"."""
    hardware, t = page.hardware, page.t
    facts = [hardware.cpu_name] if hardware.cpu_name else []
    facts.append(t("preset_page.machine.cores", count=hardware.cores))
    free, total = size_text(hardware.ram_available), size_text(hardware.ram_total)
    facts.append(t("preset_page.machine.ram", free=free, total=total))
    for gpu in hardware.gpus:
        free, total = size_text(gpu.vram_free), size_text(gpu.vram_total)
        facts.append(t("preset_page.machine.gpu", name=gpu.name, free=free, total=total))
    return facts if hardware.gpus else [*facts, t("preset_page.machine.no_gpu")]


def _fit_note(page: PageContext, found: Inspection | None, strategy: str, check: StrategyCheck | None) -> Values | None:
    """Whether it fits: a sentence, bars for each device, buttons for strategies that would. None without a model or a
    valid strategy."""
    if found is None or check is None or not (check.is_valid or check.is_elsewhere):
        return None
    fit = estimate(
        found,
        strategy,
        page.hardware,
        max_sequences=page.settings.max_sequences,
        state_cache_bytes=page.settings.state_cache_bytes,
        reclaimable_bytes=page.engine_bytes,
    )
    speed = page.speed_here(found, strategy) if fit.verdict in (FITS, TIGHT) else ""
    detail = sentences(speed, page.t("preset_page.fit.detail", state=size_text(fit.state_bytes_per_answer)))
    others = [other for other in fit.alternatives if other.strategy != strategy]
    key = "preset_page.fit.switch"
    return {
        "kind": {"fits": "good", "tight": "warn"}.get(fit.verdict, "bad"),
        "title": fit_sentence(page, fit),
        "text": page.explain(fit.error)[0] if fit.error else detail,
        "bars": [_bar(page, device, device.free_bytes) for device in fit.devices if device.free_bytes is not None],
        "switches": [_switch(page, key, other.strategy, size=size_text(other.needed_bytes)) for other in others],
    }


def fit_sentence(page: PageContext, fit: Fit) -> str:
    """For example "Needs 3.1 GB, 5.2 GB free, room for 32 conversations at once"."""
    key = "unknown" if fit.verdict != CANNOT_RUN and fit.free_bytes is None else fit.verdict
    sizes = {"needed": size_text(fit.needed_bytes), "free": size_text(fit.free_bytes or 0)}
    return page.t(f"preset_page.fit.{key}", **sizes, answers=f"{fit.usable_answers:,}")


def _bar(page: PageContext, device: DeviceFit, free: int) -> Values:
    share = min(100, round(100 * device.peak_bytes / free)) if free > 0 else 100
    kind = "red" if device.peak_bytes > free else "amber" if share > FULL_PERCENT else ""
    label = page.t("preset_page.fit.ram") if device.device == "ram" else device.device.upper()
    shown = page.t("preset_page.fit.of", needed=size_text(device.peak_bytes), free=size_text(free))
    return {"label": label, "shown": shown, "share": share, "kind": kind}
