"""What the templates of the tool bench are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from webapp.web.kit.page import Toast
from webapp.web.tools.contexts import Choice, FormField


@dataclass(frozen=True)
class CaseDraft:
    """A case as it stands in its form. ``expect``: a tool's name, "" for no call, "*" for several as JSON."""

    prompt: str = ""
    expect: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class CaseRow:
    id: str
    prompt: str
    expected: str
    is_generated: bool
    is_unavailable: bool
    """It asks for a tool that is not there."""


@dataclass(frozen=True)
class RunRow:
    """A run in one mode; ``figures`` in the order of the head, "" where there is none."""

    url: str
    when: str
    model: str
    strategy: str
    dialect: str
    mode: str
    cases: str
    figures: tuple[str, ...]
    status: str
    """Said where it is not simply done."""


@dataclass(frozen=True)
class RunForm:
    """``chosen`` are names of tools."""

    tools: tuple[Choice, ...]
    chosen: frozenset[str]
    are_shipped: bool
    mode: str
    modes: tuple[Choice, ...]
    dialect: FormField
    dialects: tuple[Choice, ...]
    dialect_value: str
    sampling: FormField
    samplings: tuple[Choice, ...]
    sampling_value: str
    case_count: str
    problem: str = ""
    warning: str = ""


@dataclass(frozen=True)
class CaseForm:
    fields: Mapping[str, FormField]
    draft: CaseDraft
    expectations: tuple[Choice, ...]
    action: str
    case_id: str = ""


@dataclass(frozen=True)
class BenchPage:
    page_title: str
    commands_url: str
    run: RunForm
    running_url: str
    heads: tuple[str, ...]
    runs: tuple[RunRow, ...]
    cases: tuple[CaseRow, ...]
    case: CaseForm
    make: Mapping[str, FormField]
    seed: str
    per_tool: str
    problem: str = ""
    """Of making cases."""
    import_error: str = ""
    import_text: str = ""
    toasts: tuple[Toast, ...] = ()


@dataclass(frozen=True)
class CasePage:
    page_title: str
    commands_url: str
    case: CaseForm
    toasts: tuple[Toast, ...] = ()


@dataclass(frozen=True)
class Figure:
    label: str
    value: str
    counted: str
    help: str


@dataclass(frozen=True)
class Cell:
    """``kind``: "right", "wrong" or "" for an empty one."""

    shown: str
    kind: str
    label: str


@dataclass(frozen=True)
class ModePart:
    """One mode of a run: its figures, and the table of who was called in place of whom."""

    mode: str
    title: str
    figures: tuple[Figure, ...]
    called: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class AnswerRow:
    number: int
    prompt: str
    is_right: bool
    verdict: str
    mode: str
    expected: str
    called: str
    sent: str
    raw: str
    note: str = ""


@dataclass(frozen=True)
class Progress:
    run_url: str
    is_running: bool
    shown: str
    share: float
    right: str


@dataclass(frozen=True)
class RunPage:
    page_title: str
    commands_url: str
    run_id: str
    title: str
    facts: tuple[str, ...]
    note_kind: str
    note_title: str
    note_text: str
    progress: Progress
    parts: tuple[ModePart, ...]
    offer: str
    answers: tuple[AnswerRow, ...]
    shown: str
    previous_url: str
    next_url: str
    toasts: tuple[Toast, ...] = ()
