"""The content of the page of all models: files as rows, current activity, the trash, published models.

The values of each function are template variables. A file is inspected when its row is shown, so that a page with 500
files is as fast as one with 30.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from os.path import normpath
from urllib.parse import urlencode

from flask import current_app, url_for

from webapp.engine.registry import is_automatic
from webapp.errors import WeightsError, error_from_dict
from webapp.i18n import say, sentences, size_text
from webapp.manager.automatic import COMPILING
from webapp.manager.library import ModelEntry, ModelFile
from webapp.services.downloads.downloads import KIND as DOWNLOAD
from webapp.services.library.model_files import HOLDS_A_MODEL
from webapp.services.library.placing import free_bytes
from webapp.services.library.uploads import KIND as IMPORT
from webapp.services.library.uploads import MODES
from webapp.services.strategy.choice import strategy_for
from webapp.services.strategy.fit import CANNOT_RUN, FITS, TIGHT, Fit, estimate
from webapp.web.jobs import job_list
from webapp.web.kit.page import Choice, PageContext, Toast, Values, html_id, parameters_text
from webapp.web.models.downloads import known_section
from webapp.web.status import loading_word
from webapp.weights.inspection import Inspection

KINDS = ("world", "model", "midi", "abc", "state", "lora", "other", "broken")
ICONS = {"state": "layers", "lora": "git-merge", "other": "file-json", "broken": "triangle-alert", "writing": "history"}
SHORT_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "uint8": "int8"}
FIT_KINDS = {"fits": "good", "tight": "warn", "does_not_fit": "bad", "cannot_run": "warn"}
JOBS = (DOWNLOAD, IMPORT)
FRESH_S = 5.0
PAGE = 30
MOST = 5000
SLICE_BYTES = 8 << 20


@dataclass(frozen=True)
class Filter:
    """Which rows to show: names that hold every word of ``query``, of one ``kind`` ("" is all), at most ``count``."""

    query: str = ""
    kind: str = ""
    count: int = PAGE


def read_filter(values: dict[str, str]) -> Filter:
    """From a query or a posted form; what is no kind or number counts as not given."""
    kind, count = values.get("kind", ""), values.get("count", "")
    number = int(count) if count.isascii() and count.isdigit() and len(count) < 9 else 0
    query = " ".join(values.get("q", "").split())[:200]
    return Filter(query, kind if kind in KINDS else "", min(max(number, PAGE), MOST))


def models_page(
    page: PageContext,
    wanted: Filter,
    toasts: tuple[Toast, ...] = (),
    form: Values | None = None,
    known: Values | None = None,
) -> Values:
    library = page.manager.library
    return {
        "page_title": page.t("nav.models"),
        "commands_url": url_for("models.do"),
        "toasts": toasts,
        "list": model_list(page, wanted),
        "filter": wanted,
        "kinds": [Choice("", page.t("models.every_kind")), *(Choice(k, page.t(f"models.kind.{k}")) for k in KINDS)],
        "activity": activity(page),
        "jobs": job_list(page, *JOBS),
        "import_form": form or import_form(page),
        "trash": trash(page),
        "known": known_section(page, known),
        "folders": [str(folder.path) for folder in library.folders],
        # What a browser may send at once: less where the server takes less, which it does not to the very byte.
        "slice_bytes": min(SLICE_BYTES, page.settings.max_body_bytes // 2),
        "free": size_text(free_bytes(library.models_dir)),
    }


# files as rows


def model_list(page: PageContext, wanted: Filter, start: int = 0) -> Values:
    """``wanted.count`` rows from the one numbered ``start``; ``more_url`` brings those below. ``is_empty``: there is no
    file at all; without rows and with files, the filter found nothing."""
    revision = page.model_files.revision()
    files = page.manager.library.files()
    entries = _matching(page, files, wanted)
    shown = list(islice(entries, start, start + wanted.count))
    has_more = next(entries, None) is not None
    more = {"q": wanted.query, "kind": wanted.kind, "from": start + len(shown)}
    return {
        "rows": [model_row(page, entry) for entry in shown],
        "total": len(files),
        "revision": revision,
        "more_url": f"{url_for('models.rows')}?{urlencode(more)}" if has_more else "",
        "is_empty": not files,
    }


def _matching(page: PageContext, files: list[ModelFile], wanted: Filter) -> Iterator[ModelEntry]:
    words = wanted.query.casefold().split()
    for file in files:
        if all(word in file.name.casefold() for word in words):
            entry = page.manager.library.look_into(file)
            if not wanted.kind or wanted.kind == kind_of(entry):
                yield entry


def model_row(page: PageContext, entry: ModelEntry) -> Values:
    """``phase``: "", loading or loaded."""
    kind, phase, found = kind_of(entry), _phase_of(page, entry), entry.inspection
    can_load, is_music = is_loadable(found), kind in ("midi", "abc")
    return {
        "id": html_id(entry.name),
        "name": entry.name,
        "url": url_for("models.details", name=entry.name),
        "kind": kind,
        "kind_word": page.t(f"models.kind.{kind}"),
        "icon": ICONS.get(kind, "boxes"),
        "facts": _facts(page, entry),
        "text": _text(page, entry, kind),
        "is_trouble": kind == "broken",
        "error_code": entry.error.code if entry.error else "",
        "phase": phase,
        "can_load": can_load,
        "can_delete": not phase and not page.manager.library.is_bundled(entry.path),
        "fit": fit_line(page, found, entry.name) if found is not None and can_load else None,
        "convert_url": _link("conversion", "/convert", entry.name) if can_load or kind == "lora" else "",
        "preset_url": _link("presets", "/presets/new", entry.name) if can_load and not is_music else "",
        "compose_url": _link("compose", "/compose", entry.name) if is_music else "",
    }


def kind_of(entry: ModelEntry, now: float | None = None) -> str:
    """One of KINDS, or ``writing`` for a file that cannot be read and was touched a moment ago: a copy under way."""
    found = entry.inspection
    if found is None:
        is_fresh = (time.time() if now is None else now) - _touched_at(entry) < FRESH_S
        return "writing" if is_fresh and isinstance(entry.error, WeightsError) else "broken"
    if found.kind == "music":
        return "abc" if found.tokenizer == "abc" else "midi"
    if found.kind == "model":
        return "world" if found.tokenizer == "world" else "model"
    return found.kind if found.kind in ("state", "lora") else "other"


def _touched_at(entry: ModelEntry) -> float:
    try:
        return entry.path.stat().st_mtime
    except OSError:
        return 0.0


def is_loadable(found: Inspection | None) -> bool:
    """True when its sizes are known: a model some backend of this Roost could run."""
    return found is not None and found.config is not None


def dtype_text(dtype: str) -> str:
    return SHORT_DTYPES.get(dtype, dtype)


def _phase_of(page: PageContext, entry: ModelEntry) -> str:
    status = page.status
    if status.phase not in HOLDS_A_MODEL or normpath(status.model_path) != normpath(entry.path):
        return ""
    return "loading" if status.phase in ("loading", "unloading") else "loaded"


def _facts(page: PageContext, entry: ModelEntry) -> list[str]:
    """Such as RWKV-7 · 1.53B parameters · 3.06 GB · bf16 · pth."""
    found = entry.inspection
    if found is None:
        return [size_text(entry.size_bytes)]
    parts = [f"RWKV-{found.config.architecture}"] if found.config else []
    if found.parameters and found.kind in ("model", "music"):
        parts.append(parameters_text(found, page.t))
    parts.append(size_text(entry.size_bytes))
    parts += [dtype_text(found.dtype)] if found.dtype else []
    parts.append(found.format)
    if found.naming != "official":
        parts.append(found.naming)
    if found.converted_strategy:
        parts.append(page.t("models.only_strategy", strategy=found.converted_strategy))
    if found.has_time_state and found.kind != "state":
        parts.append(page.t("models.own_state"))
    if page.status.adapter and _phase_of(page, entry):
        parts.append(page.t("models.adapter.fact", name=page.status.adapter))
    return parts


def _text(page: PageContext, entry: ModelEntry, kind: str) -> str:
    """What is to be said about a file that cannot be loaded."""
    if entry.error is not None:
        return "" if kind == "writing" else sentences(*page.explain(entry.error, entry.name))
    found = entry.inspection
    if found is None or is_loadable(found):
        return ""
    if kind in ("state", "lora"):
        return str(page.t(f"models.what_for.{kind}"))
    return str(page.t("models.because", reason=say(found.reason, page.locale))) if found.reason else ""


def _link(blueprint: str, path: str, name: str) -> str:
    """ "" while there is no such page."""
    return f"{path}?{urlencode({'model': name})}" if blueprint in current_app.blueprints else ""


def fit_line(page: PageContext, found: Inspection, name: str, strategy: str = "") -> Values:
    """Will it fit, in a sentence: for ``strategy``, or the one a click on Load would take. ``kind``: good, warn or
    bad."""
    in_use = page.status.chosen_strategy or page.settings.strategy
    fit = estimate(
        found,
        strategy or strategy_for(found, in_use, page.hardware),
        page.hardware,
        max_sequences=page.settings.max_sequences,
        state_cache_bytes=page.settings.state_cache_bytes,
        reclaimable_bytes=page.engine_bytes,
    )
    if fit.verdict == CANNOT_RUN:
        text = page.explain(fit.error, name)[0] if fit.error else ""
    else:
        key = fit.verdict if fit.seats is not None or fit.verdict != FITS else "fits_unmeasured"
        text = page.t(
            f"models.fit.{key}",
            strategy=fit.strategy,
            needed=size_text(fit.needed_bytes),
            free=size_text(fit.free_bytes or 0),
            seats=f"{fit.seats_used:,}",
        )
    speed = page.speed_here(found, fit.strategy) if fit.verdict in (FITS, TIGHT) else ""
    return {"kind": FIT_KINDS[fit.verdict], "text": _with_way_out(page, fit, text), "speed": speed}


def _with_way_out(page: PageContext, fit: Fit, text: str) -> str:
    """With the first strategy that would fit, when this one does not."""
    other = next((other for other in fit.alternatives if other.verdict == FITS), None)
    if fit.verdict == FITS or other is None:
        return text
    instead = page.t("models.fit.instead", strategy=other.strategy, needed=size_text(other.needed_bytes))
    return f"{text} {instead}"


# what is going on


def activity(page: PageContext) -> Values:
    """A load, and uploads that stopped halfway. ``is_busy``: look again soon. ``revision`` is another one, too, when a
    job began or ended."""
    files, load = page.model_files, load_progress(page)
    jobs = "".join(f"{job.id}{job.status}" for job in page.jobs.jobs(*JOBS))
    return {
        "revision": f"{page.status.revision}-{files.activity()}-{html_id(jobs)}",
        "is_busy": load is not None and load["phase"] != "failed",
        "load": load,
        "engine": engine_note(page),
        "uploads": [
            {"id": upload.id, "name": upload.name, "shown": _of(page, upload.done_bytes, upload.size_bytes)}
            for upload in files.uploads.pending()
        ],
    }


def engine_note(page: PageContext) -> Values | None:
    """What keeps a better engine away; None when nothing does, or a person chose the one that runs."""
    note, strategy = page.status.engine_note, page.status.strategy
    if not note or not is_automatic(page.status.chosen_strategy):
        return None
    title, text = (page.t(f"models.engine.{note}.{part}", strategy=strategy) for part in ("title", "text"))
    return {"note": note, "kind": "" if note == COMPILING else "warn", "title": title, "text": text}


def load_progress(page: PageContext) -> Values | None:
    """None when nothing is loaded or unloaded now and the last load did not fail. ``share`` is in percent."""
    status = page.status
    if status.phase == "loading":
        share = 100 * status.done_bytes // status.total_bytes if status.total_bytes else 0
        shown = _of(page, status.done_bytes, status.total_bytes) if status.total_bytes else ""
        shown = loading_word(status, page.t) if status.step else shown
        title = page.t("models.loading", name=status.model)
        return {"phase": "loading", "title": title, "shown": shown, "share": share}
    if status.phase == "unloading":
        return {"phase": "unloading", "title": page.t("models.unloading", name=status.model)}
    told = status.error or status.notice
    if told is None or told.get("code") == "load_cancelled":
        return None
    message, hint = page.explain(error_from_dict(told))
    can_load_anyway = told.get("code") == "model_does_not_fit"
    return {"phase": "failed", "title": message, "hint": hint, "can_load_anyway": can_load_anyway}


def _of(page: PageContext, done: int, total: int) -> str:
    return str(page.t("models.of", done=size_text(done), total=size_text(total)))


def import_form(page: PageContext, path: str = "", mode: str = "copy", error: str = "", hint: str = "") -> Values:
    modes = [Choice(name, page.t(f"models.import.mode.{name}")) for name in MODES]
    return {"path": path, "mode": mode if mode in MODES else "copy", "modes": modes, "error": error, "hint": hint}


def trash(page: PageContext) -> Values:
    items = page.model_files.trashed()
    rows = [
        {"id": item.id, "name": item.name, "facts": [size_text(item.size_bytes), _age(page, item.deleted_at)]}
        for item in items
    ]
    return {"rows": rows, "size": size_text(sum(item.size_bytes for item in items))}


def _age(page: PageContext, at: float) -> str:
    """Such as "3 hours ago"."""
    seconds = max(time.time() - at, 0)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return str(page.t(f"models.ago.{unit}", count=int(seconds // length)))
    return str(page.t("models.ago.now"))
