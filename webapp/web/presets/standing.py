"""What of a preset is in use now: all of it, all but what needs a reload, or nothing."""

from __future__ import annotations

from collections.abc import Callable

from webapp.errors import error_from_dict
from webapp.i18n import translate_error
from webapp.storage.presets import Preset
from webapp.web.presets.contexts import Standing
from webapp.web.presets.house import House
from webapp.web.presets.names import labels

Words = Callable[..., str]


def standing(house: House, preset: Preset, t: Words, locale: str) -> Standing:
    status = house.manager.status()
    is_changing = status.phase in ("loading", "unloading")
    if not house.presets.is_active(preset):
        return _make(preset, False, "", "idle", t, button="use", is_changing=is_changing)
    if is_changing:
        return _make(preset, True, "", "loading", t, is_changing=True)
    if status.error is not None:
        message, hint = translate_error(error_from_dict(status.error), locale)
        return Standing(preset.id, True, "bad", message, hint, t("preset_page.standing.again"))
    problem = house.presets.problem(preset)
    if problem is not None:
        return Standing(preset.id, True, "bad", *translate_error(problem, locale))
    differences = house.presets.differences(preset)
    if differences:
        return _make(preset, True, "warn", "reload", t, button="reload", names=labels(differences, t))
    if status.phase == "empty":
        return _make(preset, True, "", "empty", t, button="load")
    return _make(preset, True, "good", "used", t)


def _make(
    preset: Preset,
    is_active: bool,
    kind: str,
    key: str,
    t: Words,
    button: str = "",
    is_changing: bool = False,
    **params: str,
) -> Standing:
    said = f"preset_page.standing.{key}"
    return Standing(
        preset_id=preset.id,
        is_active=is_active,
        kind=kind,
        title=t(f"{said}.title", **params),
        text=t(f"{said}.text", **params),
        button=t(f"preset_page.standing.{button}_button") if button else "",
        is_changing=is_changing,
    )
