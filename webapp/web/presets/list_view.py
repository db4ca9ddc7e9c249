"""Presets as rows of a list, and as templates to begin a new one with."""

from __future__ import annotations

from collections.abc import Callable

from webapp.errors import RoostError
from webapp.services.strategy.choice import kinds, parse
from webapp.storage.presets import Preset
from webapp.web.kit.page import Toast
from webapp.web.presets.contexts import ListPage, NewPage, PresetRow
from webapp.web.presets.house import House
from webapp.web.presets.names import facts, shown_name, shown_note

Words = Callable[..., str]


def list_page(
    house: House,
    t: Words,
    models_url: str,
    toasts: tuple[Toast, ...] = (),
    pasted: str = "",
    refusal: tuple[str, str] = ("", ""),
) -> ListPage:
    """``refusal``: message and hint of an import that was not done, whose text was ``pasted``."""
    rows = preset_rows(house, house.presets.list(), t)
    return ListPage(
        page_title=t("nav.presets"),
        commands_url="/presets/do",
        toasts=toasts,
        own=tuple(row for row in rows if not row.is_shipped),
        shipped=tuple(row for row in rows if row.is_shipped),
        hidden=preset_rows(house, house.presets.store.hidden_shipped(), t),
        models_url=models_url,
        pasted=pasted,
        import_error=refusal[0],
        import_hint=refusal[1],
    )


def new_page(house: House, t: Words, chosen: str = "", name: str = "", error: str = "") -> NewPage:
    presets = house.presets.list()
    shipped_first = sorted(presets, key=lambda preset: not preset.shipped_key)
    known = {preset.id for preset in presets}
    return NewPage(
        page_title=t("preset_page.new.title"),
        commands_url="/presets/do",
        toasts=(),
        templates=preset_rows(house, shipped_first, t),
        chosen=chosen if chosen in known else "",
        name=name,
        error=error,
    )


def preset_rows(house: House, presets: list[Preset], t: Words) -> tuple[PresetRow, ...]:
    active_id = house.presets.active().id
    unavailable = unavailable_kinds()
    return tuple(preset_row(house, preset, t, preset.id == active_id, unavailable) for preset in presets)


def unavailable_kinds() -> set[str]:
    return {kind.key for kind in kinds() if not kind.is_available}


def preset_row(house: House, preset: Preset, t: Words, is_active: bool, unavailable: set[str]) -> PresetRow:
    """``unavailable`` are kinds of strategy that do not run here."""
    return PresetRow(
        id=preset.id,
        name=shown_name(preset, t),
        note=shown_note(preset, t),
        facts=facts(preset, t),
        is_active=is_active,
        is_shipped=bool(preset.shipped_key),
        is_edited=preset.is_edited,
        trouble=trouble(house, preset, t, unavailable),
    )


def trouble(house: House, preset: Preset, t: Words, unavailable: set[str]) -> str:
    """Why it cannot run here now; "" when nothing is known against it."""
    kind = parse(preset.strategy).kind if preset.strategy else ""
    if kind in unavailable:
        return t("preset_page.trouble.kind", kind=t(f"preset_page.kind.{kind}.label"))
    try:
        if preset.model:
            house.library.find(preset.model)
    except RoostError:
        return t("preset_page.trouble.model")
    return ""
