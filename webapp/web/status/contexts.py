"""What the shell's templates are given: rail, status strip and its menu."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RailItem:
    label: str
    icon: str
    url: str
    is_current: bool


@dataclass(frozen=True)
class Language:
    code: str
    name: str
    url: str
    is_current: bool


@dataclass(frozen=True)
class Shell:
    """``base.html``, on every page. ``theme`` is "", "light" or "dark"; ``html_lang`` the tag for the document."""

    html_lang: str
    theme: str
    is_panel_open: bool
    rail: tuple[RailItem, ...]
    languages: tuple[Language, ...]
    strip: Strip


@dataclass(frozen=True)
class Strip:
    """``status/_strip.html``. ``light``: idle, waiting, answering, failed or off; ``percent`` only while loading;
    ``silent_s`` as of ModelStatus."""

    model: str
    strategy: str
    state: str
    light: str
    word: str
    percent: int | None
    seats: str
    silent_s: int = 0


@dataclass(frozen=True)
class ModelChoice:
    value: str
    name: str
    facts: str
    is_loaded: bool
    is_usable: bool


@dataclass(frozen=True)
class ModelMenu:
    """``status/_menu.html``. ``error_message`` is why the last load failed, ``is_changing`` while it will be out of
    date soon; ``can_load_anyway``: the error is that the model does not fit."""

    models: tuple[ModelChoice, ...]
    chosen: str
    can_load: bool
    can_unload: bool
    can_cancel: bool
    models_dir: str
    is_changing: bool = False
    error_message: str = ""
    error_hint: str = ""
    can_load_anyway: bool = False
