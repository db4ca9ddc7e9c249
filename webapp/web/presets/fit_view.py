"""Does it fit? The estimate of a load in a sentence, with bars for each device and the switches to what would fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from webapp.i18n import translate_error
from webapp.manager.manager import ModelManager
from webapp.services.library.placing import size_text
from webapp.services.strategy.fit import Alternative, DeviceFit, Fit, estimate
from webapp.services.strategy.hardware import Hardware
from webapp.settings import Settings
from webapp.web.presets.contexts import FitNote, MemoryBar, Switch
from webapp.weights.inspection import Inspection

Words = Callable[..., str]
KINDS = {"fits": "good", "tight": "warn"}
FULL_PERCENT = 90


@dataclass(frozen=True)
class FitMaker:
    """Memory of the engine that would make place counts as free."""

    settings: Settings
    manager: ModelManager

    def note(self, found: Inspection, strategy: str, hardware: Hardware, t: Words, locale: str) -> FitNote:
        fit = estimate(
            found,
            strategy,
            hardware,
            max_sequences=self.settings.max_sequences,
            state_cache_bytes=self.settings.state_cache_bytes,
            reclaimable_bytes=self.manager.status().engine_bytes,
        )
        return FitNote(
            kind=KINDS.get(fit.verdict, "bad"),
            title=sentence(fit, t),
            text=translate_error(fit.error, locale)[0] if fit.error else detail(fit, t),
            bars=tuple(_bar(device, t) for device in fit.devices if device.free_bytes is not None),
            switches=tuple(_switch(other, t) for other in fit.alternatives if other.strategy != strategy),
        )


def sentence(fit: Fit, t: Words) -> str:
    """Such as "Needs 3.1 GB, 5.2 GB free, room for 32 conversations at once"."""
    needed = size_text(fit.needed_bytes)
    if fit.verdict == "cannot_run":
        return t("preset_page.fit.cannot_run", needed=needed)
    if fit.free_bytes is None:
        return t("preset_page.fit.unknown", needed=needed)
    free = size_text(fit.free_bytes)
    if fit.verdict == "does_not_fit":
        return t("preset_page.fit.does_not_fit", needed=needed, free=free)
    return t(f"preset_page.fit.{fit.verdict}", needed=needed, free=free, seats=f"{fit.seats_used:,}")


def detail(fit: Fit, t: Words) -> str:
    state = size_text(fit.state_bytes_per_seat)
    return t("preset_page.fit.detail", state=state)


def _switch(other: Alternative, t: Words) -> Switch:
    size = size_text(other.needed_bytes)
    return Switch(other.strategy, t("preset_page.fit.switch", strategy=other.strategy, size=size))


def _bar(device: DeviceFit, t: Words) -> MemoryBar:
    free = device.free_bytes or 0
    share = min(100, round(100 * device.peak_bytes / free)) if free > 0 else 100
    name = t("preset_page.fit.ram") if device.device == "ram" else device.device.upper()
    kind = "red" if device.peak_bytes > free else "amber" if share > FULL_PERCENT else ""
    shown = t("preset_page.fit.of", needed=size_text(device.peak_bytes), free=size_text(free))
    return MemoryBar(name, shown, share, kind)
