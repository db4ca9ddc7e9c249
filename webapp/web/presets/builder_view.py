"""The strategy builder: what can run here, what the choice comes to, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from webapp.i18n import translate_error
from webapp.services.library.placing import size_text
from webapp.services.presets.parameters import BY_NAME
from webapp.services.strategy.choice import (
    BuilderLimits,
    PlacedRun,
    Recommendation,
    StrategyCheck,
    StrategyKind,
    kinds,
    recommend,
    validate,
)
from webapp.services.strategy.hardware import Hardware
from webapp.web.presets.builder_input import AUTO, CUSTOM, BuilderInput, built, fitted
from webapp.web.presets.contexts import Builder, Choice, Field, FitNote, KindCard, Run, Switch
from webapp.web.presets.fit_view import FitMaker
from webapp.weights.inspection import Inspection

Words = Callable[..., str]
SHOWN_CHARS = 60


@dataclass(frozen=True)
class Ground:
    """What a strategy is judged on: the model (None while it is not known), this machine, and ``automatic``, what a
    preset without a strategy runs with."""

    found: Inspection | None
    hardware: Hardware
    automatic: str
    fits: FitMaker

    @property
    def n_layer(self) -> int | None:
        return self.found.config.n_layer if self.found and self.found.config else None

    def recommendation(self) -> Recommendation | None:
        return recommend(self.hardware, self.found) if self.found and self.found.config else None


def builder_context(given: BuilderInput, ground: Ground, t: Words, locale: str) -> Builder:
    given, allowed = fitted(given, ground.found)
    strategy = built(given, ground.n_layer, ground.automatic)
    check = checked(strategy, ground.found)
    advised = ground.recommendation()
    return Builder(
        kind=given.kind,
        kinds=kind_cards(given.kind, ground, t),
        precisions=tuple(Choice(name, name.upper()) for name in allowed.precisions),
        precision=given.precision,
        gpu_layers=_gpu_layers(given, allowed, t),
        quantized_layers=_quantized_layers(given, allowed, t),
        can_stream=allowed.can_stream and given.gpu_layers is not None,
        is_streaming=given.stream,
        limits=t(allowed.reason_key) if allowed.reason_key else "",
        strategy=strategy,
        text=given.text if given.kind == CUSTOM else strategy,
        error=translate_error(check.error, locale)[0] if check and check.error else "",
        hint=translate_error(check.error, locale)[1] if check and check.error else "",
        runs=tuple(_run(run, t) for run in check.runs) if check and len(check.runs) > 1 else (),
        advice=tuple(t(key) for key in check.advice_keys) if check else (),
        recommended=_other(advised, strategy, t),
        reason=t(advised.reason_key, **_params(advised, t)) if advised else "",
        fit=fit_note(strategy, check, ground, t, locale),
        machine=machine_facts(ground.hardware, t),
    )


def checked(strategy: str, found: Inspection | None) -> StrategyCheck | None:
    return validate(strategy, found.config if found else None) if strategy else None


def fit_note(strategy: str, check: StrategyCheck | None, ground: Ground, t: Words, locale: str) -> FitNote | None:
    """None while there is nothing to judge: no model, or a string that cannot be read."""
    if ground.found is None or check is None or (not check.is_valid and not check.is_elsewhere):
        return None
    return ground.fits.note(ground.found, strategy, ground.hardware, t, locale)


def kind_cards(chosen: str, ground: Ground, t: Words) -> tuple[KindCard, ...]:
    automatic = ground.automatic
    text = (
        t("preset_page.kind.auto.text", strategy=shortened(automatic))
        if automatic
        else t("preset_page.kind.auto.unknown")
    )
    first = KindCard(AUTO, t("preset_page.kind.auto.label"), text, chosen == AUTO, True)
    return (first, *(_card(kind, chosen, t) for kind in kinds()))


def shortened(strategy: str) -> str:
    return strategy if len(strategy) <= SHOWN_CHARS else strategy[:SHOWN_CHARS] + "…"


def _card(kind: StrategyKind, chosen: str, t: Words) -> KindCard:
    params = {name: t(value) if name == "kind_key" else value for name, value in kind.params.items()}
    return KindCard(
        key=kind.key,
        label=t(f"preset_page.kind.{kind.key}.label"),
        text=t(f"preset_page.kind.{kind.key}.text"),
        is_chosen=kind.key == chosen,
        is_available=kind.is_available,
        reason=t(kind.reason_key, **params) if kind.reason_key else "",
        way_out=t(kind.way_out_key, **params) if kind.way_out_key else "",
        command=kind.command,
    )


def _gpu_layers(given: BuilderInput, allowed: BuilderLimits, t: Words) -> Field | None:
    if not allowed.can_split or not allowed.layers:
        return None
    return _layer_knob("gpu_layers", given.gpu_layers, allowed.layers, allowed.layers, t)


def _quantized_layers(given: BuilderInput, allowed: BuilderLimits, t: Words) -> Field | None:
    if given.precision != "int8" or not allowed.layers:
        return None
    return _layer_knob("quantized_layers", given.quantized_layers, allowed.layers - 1, allowed.layers, t)


def _layer_knob(name: str, value: int | None, default: int, most: int, t: Words) -> Field:
    row = BY_NAME[name]
    shown = default if value is None else value
    return Field(
        name=f"build_{name}",
        control="knob",
        label=t(row.label_key),
        help=t(row.help_key),
        value=str(shown),
        default=str(default),
        at_least="0",
        at_most=str(most),
        range_least="0",
        range_most=str(most),
        step="1",
        is_changed=shown != default,
    )


def _other(advised: Recommendation | None, strategy: str, t: Words) -> Switch | None:
    """The recommended strategy where another one is chosen."""
    if advised is None or advised.strategy == strategy:
        return None
    return Switch(advised.strategy, t("preset_page.builder.take", strategy=advised.strategy))


def _params(advised: Recommendation, t: Words) -> dict[str, object]:
    return {name: size_text(value) if name.endswith("_bytes") else value for name, value in advised.params.items()}


def _run(run: PlacedRun, t: Words) -> Run:
    if run.count == 0:
        layers = t("preset_page.builder.head")
    else:
        last = run.first + run.count
        key = ("layer" if run.count == 1 else "layers") + ("_and_head" if run.has_head else "")
        layers = t(f"preset_page.builder.{key}", first=run.first + 1, last=last)
    precision = "INT8" if run.is_int8 else run.dtype.upper()
    key = "streamed" if run.is_streamed else "kept"
    return Run(layers, t(f"preset_page.builder.{key}", device=run.device.upper(), precision=precision))


def machine_facts(hardware: Hardware, t: Words) -> tuple[str, ...]:
    """Such as "AMD Ryzen 7", "8 cores", "21 of 32 GB RAM free"."""
    facts = [hardware.cpu_name] if hardware.cpu_name else []
    facts.append(t("preset_page.machine.cores", count=hardware.cores))
    free, total = size_text(hardware.ram_available), size_text(hardware.ram_total)
    facts.append(t("preset_page.machine.ram", free=free, total=total))
    for gpu in hardware.gpus:
        free, total = size_text(gpu.vram_free), size_text(gpu.vram_total)
        facts.append(t("preset_page.machine.gpu", name=gpu.name, free=free, total=total))
    if not hardware.gpus:
        facts.append(t("preset_page.machine.no_gpu"))
    return tuple(facts)
