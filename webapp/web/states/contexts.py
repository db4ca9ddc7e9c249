"""What the templates of the states pages are given."""

from __future__ import annotations

from dataclasses import dataclass, field

from webapp.web.chat.contexts import Toast


@dataclass(frozen=True)
class Column:
    """A rectangle of a chart, in the units of its view box; ``title`` is what pointing at it says."""

    x: str
    y: str
    width: str
    height: str
    title: str


@dataclass(frozen=True)
class Chart:
    """``label`` says in words what the columns show."""

    view_box: str
    label: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Badge:
    text: str
    kind: str = ""


@dataclass(frozen=True)
class StateRow:
    """``html_id`` is safe in an attribute; ``why_not`` says why the chosen model cannot use it, "" if it can."""

    name: str
    html_id: str
    url: str
    file_url: str
    badges: tuple[Badge, ...]
    text: str
    facts: tuple[str, ...]
    is_used: bool
    can_use: bool
    why_not: str = ""
    chart: Chart | None = None


@dataclass(frozen=True)
class InUse:
    """What new answers begin with. ``others``: (name, label) of what stands in place of a file."""

    title: str
    text: str
    model: str
    state_url: str
    digest: str
    others: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MergedRow:
    model: str
    url: str
    new_name: str


@dataclass(frozen=True)
class BlendPart:
    name: str
    label: str
    html_id: str
    weight: str
    facts: str


@dataclass(frozen=True)
class Making:
    """``phase``: none, running, done or failed."""

    phase: str
    title: str = ""
    text: str = ""
    name: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a form was not done. ``form``: upload, import, blend, make or copy."""

    form: str
    message: str
    hint: str


@dataclass(frozen=True)
class Typed:
    """What stood in the forms that were not done."""

    path: str = ""
    text: str = ""
    make_name: str = ""
    blend_name: str = ""


@dataclass(frozen=True)
class StatesPage:
    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    in_use: InUse
    rows: tuple[StateRow, ...]
    merged: tuple[MergedRow, ...]
    parts: tuple[BlendPart, ...]
    making: Making
    folder: str
    model: str
    can_make: bool
    refusal: Refusal | None = None
    typed: Typed = field(default_factory=Typed)


@dataclass(frozen=True)
class StateDetails:
    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    row: StateRow
    pairs: tuple[tuple[str, str], ...]
    norms: tuple[tuple[int, str, str], ...]
    fits: tuple[tuple[str, str], ...]
    error_message: str = ""
    error_hint: str = ""
    warning: str = ""
    rename_error: str = ""
