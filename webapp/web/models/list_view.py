"""Files as rows. A file is looked into when its row is shown, so that a page of 500 files is as quick as one of 30."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from urllib.parse import urlencode

from flask import current_app, url_for

from webapp.errors import sentences
from webapp.i18n import phrase
from webapp.manager.library import ModelEntry, ModelFile
from webapp.services.library.disk_space import size_text
from webapp.web.figures import parameters_text
from webapp.web.models.contexts import Filter, KindChoice, ModelList, Row
from webapp.web.models.desk import Desk, html_id
from webapp.web.models.fit_view import fit_line
from webapp.web.models.kinds import ICONS, KINDS, dtype_text, is_loadable, kind_of

PAGE = 30
MOST = 5000


def read_filter(values: dict[str, str]) -> Filter:
    """From a query or a posted form; what is no kind or number counts as not given."""
    kind, count = values.get("kind", ""), values.get("count", "")
    number = int(count) if count.isascii() and count.isdigit() and len(count) < 9 else 0
    query = " ".join(values.get("q", "").split())[:200]
    return Filter(query, kind if kind in KINDS else "", min(max(number, PAGE), MOST))


def model_list(desk: Desk, wanted: Filter, start: int = 0) -> ModelList:
    """``wanted.count`` rows from the one numbered ``start``; the last of them says where the next are."""
    revision = desk.files.revision()
    files = desk.library.files()
    entries = _matching(desk, files, wanted)
    shown = list(islice(entries, start, start + wanted.count))
    has_more = next(entries, None) is not None
    more = {"q": wanted.query, "kind": wanted.kind, "from": start + len(shown)}
    return ModelList(
        rows=tuple(row(desk, entry) for entry in shown),
        total=len(files),
        revision=revision,
        more_url=f"{url_for('models.rows')}?{urlencode(more)}" if has_more else "",
        is_empty=not files,
    )


def _matching(desk: Desk, files: list[ModelFile], wanted: Filter) -> Iterator[ModelEntry]:
    words = wanted.query.casefold().split()
    for file in files:
        if all(word in file.name.casefold() for word in words):
            entry = desk.library.look_into(file)
            if not wanted.kind or wanted.kind == kind_of(entry):
                yield entry


def row(desk: Desk, entry: ModelEntry) -> Row:
    kind = kind_of(entry)
    found, phase = entry.inspection, desk.phase_of(entry)
    can_load = is_loadable(found)
    return Row(
        id=html_id(entry.name),
        name=entry.name,
        url=url_for("models.details", name=entry.name),
        kind=kind,
        kind_word=desk.t(f"models.kind.{kind}"),
        icon=ICONS.get(kind, "boxes"),
        facts=facts(desk, entry),
        text=_text(desk, entry, kind),
        is_trouble=kind == "broken",
        phase=phase,
        can_load=can_load,
        can_delete=not phase and not desk.library.is_bundled(entry.path),
        fit=fit_line(desk, found, entry.name) if found is not None and can_load else None,
        convert_url=_link("conversion", "/convert", entry.name) if can_load or kind == "lora" else "",
        preset_url=_link("presets", "/presets/new", entry.name) if can_load else "",
    )


def facts(desk: Desk, entry: ModelEntry) -> tuple[str, ...]:
    """Such as RWKV-7 · 1.53B parameters · 3.06 GB · bf16 · pth."""
    found = entry.inspection
    if found is None:
        return (size_text(entry.size_bytes),)
    parts = [f"RWKV-{found.config.architecture}"] if found.config else []
    if found.parameters and found.kind in ("model", "music"):
        parts.append(parameters_text(found, desk.t))
    parts.append(size_text(entry.size_bytes))
    parts += [dtype_text(found.dtype)] if found.dtype else []
    parts.append(found.format)
    if found.naming != "official":
        parts.append(found.naming)
    if found.converted_strategy:
        parts.append(desk.t("models.only_strategy", strategy=found.converted_strategy))
    if found.has_time_state and found.kind != "state":
        parts.append(desk.t("models.own_state"))
    return tuple(parts)


def kind_choices(desk: Desk) -> tuple[KindChoice, ...]:
    every = KindChoice("", desk.t("models.every_kind"))
    return (every, *(KindChoice(kind, desk.t(f"models.kind.{kind}")) for kind in KINDS))


def _text(desk: Desk, entry: ModelEntry, kind: str) -> str:
    """What is to be said about a file that cannot be loaded."""
    if entry.error is not None:
        return "" if kind == "writing" else sentences(*desk.said(entry.error, entry.name))
    found = entry.inspection
    if found is None or is_loadable(found):
        return ""
    if kind in ("state", "lora"):
        return str(desk.t(f"models.what_for.{kind}"))
    return str(desk.t("models.because", reason=phrase(found.reason, desk.locale))) if found.reason else ""


def _link(blueprint: str, path: str, name: str) -> str:
    """ "" while there is no such page."""
    return f"{path}?{urlencode({'model': name})}" if blueprint in current_app.blueprints else ""
