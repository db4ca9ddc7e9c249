"""What a preset can name: models, states and vocabulary files that are here, and the one it names that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from webapp.errors import RoostError
from webapp.manager.library import ModelLibrary
from webapp.manager.target import ZERO_STATE
from webapp.resources import STARTER_MODEL
from webapp.services.library.placing import size_text
from webapp.services.states import StateEntry, StateLibrary
from webapp.web.presets.contexts import Choice
from webapp.weights.inspection import Inspection

Words = Callable[..., str]
TOKENIZERS = ("", "world", "byte")
VOCABULARIES = (".txt", ".json")
MOST_FILES = 50


def model_choices(library: ModelLibrary, chosen: str, t: Words) -> tuple[Choice, ...]:
    found = [Choice("", t("presets.choice.model.any"))]
    for entry in library.list():
        if entry.inspection is not None and entry.inspection.kind in ("model", "music"):
            label = t("preset_page.model.starter") if entry.name == STARTER_MODEL else entry.name
            found.append(Choice(entry.name, f"{label} · {size_text(entry.size_bytes)}"))
    return with_chosen(found, chosen, t)


def with_chosen(found: list[Choice], chosen: str, t: Words) -> tuple[Choice, ...]:
    """A name that finds nothing here stays what it is until another is chosen."""
    if all(choice.value != chosen for choice in found):
        found.append(Choice(chosen, t("preset_page.not_here", name=chosen)))
    return tuple(found)


def find_inspection(library: ModelLibrary, name: str) -> Inspection | None:
    """None for a model that is not here or cannot be read."""
    try:
        return library.entry(name).inspection
    except RoostError:
        return None


def state_choices(states: StateLibrary, model: Inspection | None, chosen: str, t: Words) -> tuple[Choice, ...]:
    """Those that fit the model first; the others are named but cannot be chosen."""
    brings_own = model is not None and model.has_time_state
    found = [Choice("", t("presets.choice.state.own" if brings_own else "preset_page.state.none"))]
    if brings_own:
        found.append(Choice(ZERO_STATE, t("presets.choice.state.zero")))
    rows = [(entry.name, _fits(states, entry, model)) for entry in states.list()]
    found += [Choice(name, name) for name, is_fit in rows if is_fit]
    found += [
        Choice(name, t("preset_page.state.other", name=name), is_disabled=name != chosen)
        for name, is_fit in rows
        if not is_fit
    ]
    return with_chosen(found, chosen, t)


def _fits(states: StateLibrary, entry: StateEntry, model: Inspection | None) -> bool:
    """While no model is known, whatever can be read."""
    if model is None:
        return entry.error is None
    return states.library.name_of(Path(model.path)) in entry.fits


def tokenizer_choices(library: ModelLibrary, chosen: str, t: Words) -> tuple[Choice, ...]:
    found = [Choice(name, t(f"preset_page.tokenizer.{name or 'auto'}")) for name in TOKENIZERS]
    names = sorted(path.name for path in library.models_dir.glob("*") if path.suffix in VOCABULARIES)
    found += [Choice(name, name) for name in names[:MOST_FILES]]
    return with_chosen(found, chosen, t)
