"""The manual's tables beside what runs here and what was measured with Roost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from webapp.services.strategy.choice import kinds
from webapp.services.strategy.comparison import Comparison, KindRow, Measured, MemoryCell, MemoryRow, comparison
from webapp.web.kit.page import Toast
from webapp.web.presets.builder_view import machine_facts
from webapp.web.presets.house import House

Words = Callable[..., str]
MOST_STARS = 5


@dataclass(frozen=True)
class ComparedCell:
    """``ours``: the figures measured with Roost for the same strategy and size."""

    text: str
    note: str
    ours: tuple[str, ...]


@dataclass(frozen=True)
class ComparedMemory:
    label: str
    place: str
    cells: tuple[ComparedCell, ...]


@dataclass(frozen=True)
class ComparedKind:
    """``here``: what Roost runs with it on this machine, or why it does not."""

    label: str
    text: str
    hardware: str
    format: str
    models: str
    stars: str
    stars_said: str
    here: str
    is_here: bool


@dataclass(frozen=True)
class MeasuredRow:
    label: str
    size: str
    peak: str
    speed: str
    machine: str
    date: str
    command: str


@dataclass(frozen=True)
class ComparePage:
    """``presets/compare.html``."""

    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    sizes: tuple[str, ...]
    memory: tuple[ComparedMemory, ...]
    kinds: tuple[ComparedKind, ...]
    measured: tuple[MeasuredRow, ...]
    machine: tuple[str, ...]


def compare_page(house: House, t: Words) -> ComparePage:
    data = comparison()
    return ComparePage(
        page_title=t("preset_page.compare.title"),
        commands_url="/presets/do",
        toasts=(),
        sizes=data.sizes,
        memory=tuple(_memory(row, data, t) for row in data.memory),
        kinds=_kinds(data, t),
        measured=tuple(_measured(row, t) for row in data.measured),
        machine=machine_facts(house.hardware(), t),
    )


def _memory(row: MemoryRow, data: Comparison, t: Words) -> ComparedMemory:
    cells = tuple(
        _cell(cell, data.measured_for(row.kind, row.precision, size), t)
        for cell, size in zip(row.cells, data.sizes, strict=True)
    )
    return ComparedMemory(label(row.kind, row.precision, t), t(f"preset_page.compare.{row.place}"), cells)


def _cell(cell: MemoryCell, ours: tuple[Measured, ...], t: Words) -> ComparedCell:
    text = t("preset_page.compare.not_advised") if cell.gb is None else f"{cell.gb:g} GB"
    note = t("preset_page.compare.some_layers", layers=cell.layers) if cell.layers else ""
    if cell.all_gb is not None:
        note += " " + t("preset_page.compare.more_layers", layers=cell.all_layers, gb=f"{cell.all_gb:g}")
    key = "preset_page.compare.ours"
    return ComparedCell(text, note, tuple(t(key, gb=f"{one.peak_gb:g}", version=one.architecture) for one in ours))


def label(kind: str, precision: str, t: Words) -> str:
    return f"{t(f'preset_page.kind.{kind}.label')} {precision}"


def _kinds(data: Comparison, t: Words) -> tuple[ComparedKind, ...]:
    available = {kind.key: kind for kind in kinds()}
    return tuple(_kind(row, data, available[row.kind].is_available, t) for row in data.kinds)


def _kind(row: KindRow, data: Comparison, is_available: bool, t: Words) -> ComparedKind:
    return ComparedKind(
        label=t(f"preset_page.kind.{row.kind}.label"),
        text=t(f"preset_page.kind.{row.kind}.text"),
        hardware=t(f"preset_page.compare.hardware.{row.hardware}"),
        format=row.format,
        models=" / ".join(row.models),
        stars="★" * row.stars + "☆" * (MOST_STARS - row.stars),
        stars_said=t("preset_page.compare.stars", count=row.stars, most=MOST_STARS),
        here=_here(row.kind, data, is_available, t),
        is_here=is_available,
    )


def _here(kind: str, data: Comparison, is_available: bool, t: Words) -> str:
    """Versions and formats, and whether this machine has what it takes."""
    here = data.here.get(kind)
    if here is None:
        return t("preset_page.compare.later")
    reads = t("preset_page.compare.reads", versions=", ".join(here.versions), formats=" ".join(here.formats))
    return reads if is_available else f"{t('preset_page.compare.not_on_this')} {reads}"


def _measured(row: Measured, t: Words) -> MeasuredRow:
    speed = "" if row.tokens_per_s is None else t("unit.tokens_per_s", rate=f"{row.tokens_per_s:g}")
    return MeasuredRow(
        label=label(row.kind, row.precision, t),
        size=f"RWKV-{row.architecture} {row.parameters}",
        peak=f"{row.peak_gb:g} GB",
        speed=speed,
        machine=row.machine,
        date=row.date,
        command=row.command,
    )
