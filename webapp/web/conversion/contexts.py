"""What the templates of the conversion page are given."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.web.kit.page import Toast


@dataclass(frozen=True)
class Option:
    value: str
    label: str
    text: str = ""
    is_disabled: bool = False


@dataclass(frozen=True)
class Field:
    """As the macros of ``_controls.html`` want it; none of these has a default to go back to."""

    name: str
    label: str
    value: str
    help: str = ""
    error: str = ""
    is_changed: bool = False
    needs_reload: bool = False
    default: None = None


@dataclass(frozen=True)
class PlanNote:
    """What the order as it stands would do. ``kind``: good, warn, bad or "". ``usual_name``: if none is given."""

    kind: str
    title: str
    text: str
    usual_name: str = ""
    is_name_taken: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class JobRow:
    """``status``: waiting, running, done, failed, cancelled. ``share``: 0 to 100."""

    id: str
    status: str
    icon: str
    title: str
    facts: tuple[str, ...]
    word: str
    shown: str
    share: float
    error: str = ""
    hint: str = ""
    can_load: bool = False
    can_preset: bool = False


@dataclass(frozen=True)
class Jobs:
    rows: tuple[JobRow, ...]
    is_busy: bool


@dataclass(frozen=True)
class ConversionPage:
    page_title: str
    commands_url: str
    models_url: str
    models: tuple[Option, ...]
    loras: tuple[Option, ...]
    targets: tuple[Option, ...]
    strategies: tuple[str, ...]
    target: str
    overwrite: bool
    has_lora: bool
    model: Field
    strategy: Field
    name: Field
    lora: Field
    lora_alpha: Field
    plan: PlanNote
    jobs: Jobs
    toasts: tuple[Toast, ...] = ()
