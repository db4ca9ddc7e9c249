"""What the templates of the presets pages are given."""

from __future__ import annotations

from dataclasses import dataclass, field

from webapp.web.kit.page import Toast


@dataclass(frozen=True)
class Choice:
    value: str
    label: str
    is_disabled: bool = False


@dataclass(frozen=True)
class Field:
    """One control. ``control``: knob, number, switch, choice, text, lines or line; ``default`` None: it has no dot.

    ``value`` is what a person wrote, also when it is wrong; ``error`` says why.
    """

    name: str
    control: str
    label: str
    help: str
    value: str
    default: str | None = None
    shown_default: str = ""
    at_least: str = ""
    at_most: str = ""
    range_least: str = ""
    range_most: str = ""
    step: str = ""
    choices: tuple[Choice, ...] = ()
    placeholder: str = ""
    most_chars: int = 0
    is_changed: bool = False
    needs_reload: bool = False
    error: str = ""


@dataclass(frozen=True)
class PresetRow:
    """One preset of the list. ``trouble`` says why it cannot run here now, "" when it can."""

    id: str
    name: str
    note: str
    facts: tuple[str, ...]
    is_active: bool
    is_shipped: bool
    is_edited: bool
    trouble: str = ""


@dataclass(frozen=True)
class ListPage:
    """``presets/list.html``. ``pasted`` and ``import_error`` bring a refused import back."""

    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    own: tuple[PresetRow, ...]
    shipped: tuple[PresetRow, ...]
    hidden: tuple[PresetRow, ...]
    models_url: str = ""
    pasted: str = ""
    import_error: str = ""
    import_hint: str = ""


@dataclass(frozen=True)
class NewPage:
    """``presets/new.html``. ``chosen`` is the id of the template that is marked, "" for none."""

    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    templates: tuple[PresetRow, ...]
    chosen: str
    name: str = ""
    error: str = ""


@dataclass(frozen=True)
class KindCard:
    """A way to run a model. ``command``: what to type to make it available."""

    key: str
    label: str
    text: str
    is_chosen: bool
    is_available: bool
    reason: str = ""
    way_out: str = ""
    command: str = ""


@dataclass(frozen=True)
class MemoryBar:
    """One device of a fit. ``share`` is of what is free, at most 100."""

    label: str
    shown: str
    share: int
    kind: str


@dataclass(frozen=True)
class Switch:
    """A strategy one click away."""

    strategy: str
    label: str


@dataclass(frozen=True)
class FitNote:
    """``kind``: good, warn or bad."""

    kind: str
    title: str
    text: str
    bars: tuple[MemoryBar, ...] = ()
    switches: tuple[Switch, ...] = ()


@dataclass(frozen=True)
class Run:
    """A stretch of layers on one device."""

    layers: str
    where: str


@dataclass(frozen=True)
class Builder:
    """``presets/_builder.html``. ``strategy`` is the string that results, ``text`` the custom one as written.

    ``precisions`` and the layer knobs are there only where the kind and the model have them.
    """

    kind: str
    kinds: tuple[KindCard, ...]
    precisions: tuple[Choice, ...]
    precision: str
    gpu_layers: Field | None
    quantized_layers: Field | None
    can_stream: bool
    is_streaming: bool
    limits: str
    strategy: str
    text: str
    error: str
    hint: str
    runs: tuple[Run, ...]
    advice: tuple[str, ...]
    recommended: Switch | None
    reason: str
    fit: FitNote | None
    machine: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """A field two people changed: what is saved now (``value`` as the form holds it), and what this form says."""

    name: str
    label: str
    value: str
    theirs: str
    yours: str


@dataclass(frozen=True)
class Standing:
    """``presets/_standing.html``: what of this preset is in use. ``needs_reload`` are labels of fields."""

    preset_id: str
    is_active: bool
    kind: str
    title: str
    text: str
    button: str = ""
    is_changing: bool = False


@dataclass(frozen=True)
class EditPage:
    """``presets/edit.html``. ``expected`` is the date the form was made from, ``drawn`` the defaults it shows (JSON);
    ``saved`` what the last save did."""

    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    preset: PresetRow
    url: str
    expected: str
    drawn: str
    name: Field
    note_field: Field
    sampling: tuple[Field, ...]
    more_sampling: tuple[Field, ...]
    prompt: tuple[Field, ...]
    model: Field
    state: Field
    options: tuple[Field, ...]
    builder: Builder
    standing: Standing
    saved: str = ""
    error: str = ""
    hint: str = ""
    is_unsaved: bool = False
    differences: tuple[Difference, ...] = field(default=())
