"""The content of the model pages: all files as rows, current activity, the trash, published models; and one file with
its facts, whether it fits, and all its tensors, block by block.

The values of each function are template variables. A file is inspected when its row is shown, so that a page with 500
files is as fast as one with 30.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from os.path import normpath
from urllib.parse import urlencode

from flask import current_app, url_for
from msgspec import Struct

from webapp.engine.options import is_automatic
from webapp.errors import WeightsError, error_from_dict
from webapp.i18n import say, sentences, size_text
from webapp.manager.library import ModelEntry, ModelFile
from webapp.manager.memory import COMPILING
from webapp.services.downloads.downloads import KIND as DOWNLOAD
from webapp.services.library.model_files import HOLDS_A_MODEL, IMPORT, IMPORT_MODES
from webapp.services.library.placing import free_bytes
from webapp.services.strategy import CANNOT_RUN, FITS, TIGHT, Fit, estimate, recommend, strategy_for, validate
from webapp.web.jobs import job_list
from webapp.web.kit.page import Choice, PageContext, Toast, Values, html_id, moment_text, parameters_text
from webapp.web.models.downloads import known_section
from webapp.web.status import loading_word
from webapp.weights.architecture import WHOLE_MODEL
from webapp.weights.inspection import USED_TOKENS_KEY, Inspection
from webapp.weights.tensor_info import ITEM_BYTES, TensorInfo

KINDS = ("world", "model", "midi", "abc", "state", "lora", "other", "broken")
ICONS = {"state": "layers", "lora": "git-merge", "other": "file-json", "broken": "triangle-alert", "writing": "history"}
SHORT_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "uint8": "int8"}
FIT_KINDS = {"fits": "good", "tight": "warn", "does_not_fit": "bad", "cannot_run": "warn"}
JOBS = (DOWNLOAD, IMPORT)
FRESH_S = 5.0
PAGE = 30
MOST = 5000
SLICE_BYTES = 8 << 20


class Filter(Struct, frozen=True):
    """Which rows to show: names that contain every word of ``query``, of one ``kind`` ("" means all), at most
    ``count``."""

    query: str = ""
    kind: str = ""
    count: int = PAGE


def read_filter(values: dict[str, str]) -> Filter:
    """From a query or a posted form; invalid values are ignored."""
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
        # The size of a browser's slices: smaller if the server's limit is smaller, with a margin.
        "slice_bytes": min(SLICE_BYTES, page.settings.max_body_bytes // 2),
        "free": size_text(free_bytes(library.models_dir)),
    }


# files as rows


def model_list(page: PageContext, wanted: Filter, start: int = 0) -> Values:
    """``wanted.count`` rows from number ``start``; ``more_url`` loads the next ones. ``is_empty``: there are no files
    at all; without rows but with files, the filter matches nothing."""
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
    """One of KINDS, or ``writing`` for an unreadable file that was changed a moment ago, probably by a copy in
    progress."""
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
    """True if its sizes are known, so that a backend could run it."""
    return found is not None and found.config is not None


def dtype_text(dtype: str) -> str:
    return SHORT_DTYPES.get(dtype, dtype)


def _phase_of(page: PageContext, entry: ModelEntry) -> str:
    status = page.status
    if status.phase not in HOLDS_A_MODEL or normpath(status.model_path) != normpath(entry.path):
        return ""
    return "loading" if status.phase in ("loading", "unloading") else "loaded"


def _facts(page: PageContext, entry: ModelEntry) -> list[str]:
    """For example RWKV-7 · 1.53B parameters · 3.06 GB · bf16 · pth."""
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
    """Why a file cannot be loaded."""
    if entry.error is not None:
        return "" if kind == "writing" else sentences(*page.explain(entry.error, entry.name))
    found = entry.inspection
    if found is None or is_loadable(found):
        return ""
    if kind in ("state", "lora"):
        return str(page.t(f"models.what_for.{kind}"))
    return str(page.t("models.because", reason=say(found.reason, page.locale))) if found.reason else ""


def _link(blueprint: str, path: str, name: str) -> str:
    """Empty if there is no such page."""
    return f"{path}?{urlencode({'model': name})}" if blueprint in current_app.blueprints else ""


def fit_line(page: PageContext, found: Inspection, name: str, strategy: str = "") -> Values:
    """A sentence on whether it fits, with ``strategy`` or the one that Load would choose. ``kind``: good, warn or
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
        key = fit.verdict if fit.answers is not None or fit.verdict != FITS else "fits_unmeasured"
        text = page.t(
            f"models.fit.{key}",
            strategy=fit.strategy,
            needed=size_text(fit.needed_bytes),
            free=size_text(fit.free_bytes or 0),
            answers=f"{fit.usable_answers:,}",
        )
    speed = page.speed_here(found, fit.strategy) if fit.verdict in (FITS, TIGHT) else ""
    return {"kind": FIT_KINDS[fit.verdict], "text": _with_way_out(page, fit, text), "speed": speed}


def _with_way_out(page: PageContext, fit: Fit, text: str) -> str:
    """If this strategy does not fit, adds the first one that would."""
    other = next((other for other in fit.alternatives if other.verdict == FITS), None)
    if fit.verdict == FITS or other is None:
        return text
    instead = page.t("models.fit.instead", strategy=other.strategy, needed=size_text(other.needed_bytes))
    return f"{text} {instead}"


# current activity


def activity(page: PageContext) -> Values:
    """A load, and unfinished uploads. ``is_busy``: the page should ask again soon. ``revision`` also changes when a job
    starts or ends."""
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
    """What prevents a better engine; None if nothing does, or if the user chose the running one."""
    note, strategy = page.status.engine_note, page.status.strategy
    if not note or not is_automatic(page.status.chosen_strategy):
        return None
    title, text = (page.t(f"models.engine.{note}.{part}", strategy=strategy) for part in ("title", "text"))
    return {"note": note, "kind": "" if note == COMPILING else "warn", "title": title, "text": text}


def load_progress(page: PageContext) -> Values | None:
    """None if nothing is being loaded or unloaded and the last load succeeded. ``share`` is in per cent."""
    status = page.status
    if status.phase == "loading":
        share = 100 * status.done_bytes // status.total_bytes if status.total_bytes else 0
        shown = _of(page, status.done_bytes, status.total_bytes) if status.total_bytes else ""
        shown = loading_word(status, page.t) if status.step else shown
        title = page.t("models.loading", name=status.model)
        return {"phase": "loading", "title": title, "shown": shown, "share": share}
    if status.phase == "unloading":
        return {"phase": "unloading", "title": page.t("models.unloading", name=status.model)}
    problem = status.error or status.notice
    if problem is None or problem.get("code") == "load_cancelled":
        return None
    message, hint = page.explain(error_from_dict(problem))
    can_load_anyway = problem.get("code") == "model_does_not_fit"
    return {"phase": "failed", "title": message, "hint": hint, "can_load_anyway": can_load_anyway}


def _of(page: PageContext, done: int, total: int) -> str:
    return str(page.t("models.of", done=size_text(done), total=size_text(total)))


def import_form(page: PageContext, path: str = "", mode: str = "copy", error: str = "", hint: str = "") -> Values:
    modes = [Choice(name, page.t(f"models.import.mode.{name}")) for name in IMPORT_MODES]
    return {
        "path": path,
        "mode": mode if mode in IMPORT_MODES else "copy",
        "modes": modes,
        "error": error,
        "hint": hint,
    }


def trash(page: PageContext) -> Values:
    items = page.model_files.trashed()
    rows = [
        {"id": item.id, "name": item.name, "facts": [size_text(item.size_bytes), _age(page, item.deleted_at)]}
        for item in items
    ]
    return {"rows": rows, "size": size_text(sum(item.size_bytes for item in items))}


def _age(page: PageContext, at: float) -> str:
    """For example "3 hours ago"."""
    seconds = max(time.time() - at, 0)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return str(page.t(f"models.ago.{unit}", count=int(seconds // length)))
    return str(page.t("models.ago.now"))


BLOCK = re.compile(r"(?:.*\.)?(?:blocks|layers|blk|h)\.(\d+)\.")
MAX_ROWS = 2000
VALUE_CHARS = 500
MAX_INSPECTED = 100


def details_page(
    page: PageContext, entry: ModelEntry, toasts: tuple[Toast, ...] = (), rename_error: str = ""
) -> Values:
    found, row = entry.inspection, model_row(page, entry)
    strategy = recommend(page.hardware, found, page.engine_bytes).strategy if found and row["can_load"] else ""
    return {
        "page_title": entry.name,
        "toasts": toasts,
        "row": row,
        "can_rename": row["can_delete"],
        "file_name": entry.path.name,
        "facts": _facts_of_file(page, entry),
        "fit": fit_line(page, found, entry.name, strategy) if found is not None and is_loadable(found) else None,
        "strategy": strategy,
        "remarks": [say(one, page.locale) for one in validate(strategy).remarks] if strategy else [],
        "groups": _groups(page, entry.name, found.tensors) if found else [],
        "tensor_count": page.t("models.details.tensor_count", count=len(found.tensors)) if found else "",
        "metadata": _metadata(found) if found else [],
        "rename_error": rename_error,
        "adapter": _adapter_form(page, entry) if found is not None else None,
    }


def _adapter_form(page: PageContext, entry: ModelEntry) -> Values | None:
    """The form to load a model with an adapter, on the page of either. None if there is nothing to combine it with
    among the first :data:`MAX_INSPECTED` files; presets offer all files."""
    found = entry.inspection
    assert found is not None
    is_adapter = found.kind == "lora"
    is_model = is_loadable(found) and found.format in ("pth", "safetensors")
    if not (is_adapter or is_model) or found.adapter in ("pissa-init", WHOLE_MODEL):
        return None
    library = page.manager.library
    others = [(file.name, library.look_into(file).inspection) for file in library.files()[:MAX_INSPECTED]]
    starts = [Choice(name, name) for name, other in others if other is not None and other.adapter == "pissa-init"]
    if is_adapter:
        names = [name for name, other in others if is_loadable(other)]
    else:
        names = [name for name, other in others if other is not None and other.adapter in ("lora", "bone")]
    if not names:
        return None
    own, chosen = ("adapter_file", "name") if is_adapter else ("name", "adapter_file")
    return {
        "own": own,
        "name": entry.name,
        "chosen": chosen,
        "label": page.t("models.adapter.model" if is_adapter else "models.adapter.file"),
        "choices": [Choice(name, name) for name in names],
        "starts": [Choice("", page.t("models.adapter.none")), *starts] if starts else [],
    }


def _facts_of_file(page: PageContext, entry: ModelEntry) -> list[Values]:
    """Labels and values; unknown ones are left out."""
    exact = f" ({entry.size_bytes:,} B)" if entry.size_bytes >= 1000 else ""
    values: dict[str, object] = {"file": str(entry.path), "size": f"{size_text(entry.size_bytes)}{exact}"}
    values["changed"] = _date(entry)
    found = entry.inspection
    if found is not None:
        values |= {"format": found.format, "dtype": dtype_text(found.dtype)}
        values |= {"parameters": _parameters(page, found), "tokenizer": found.tokenizer}
        values["naming"] = found.naming if found.naming != "official" else ""
        values |= {"strategy": found.converted_strategy, **_sizes(found)}
        values["own_state"] = page.t("models.details.yes") if found.has_time_state and found.kind != "state" else ""
    return [{"label": page.t(f"models.details.{k}"), "value": str(value)} for k, value in values.items() if value]


def _parameters(page: PageContext, found: Inspection) -> str:
    if found.trained_parameters == found.parameters:
        return f"{found.parameters:,}"
    words = {"number": f"{found.parameters:,}", "trained": f"{found.trained_parameters:,}"}
    return str(page.t("models.details.trained_part", **words))


def _sizes(found: Inspection) -> dict[str, object]:
    config = found.config
    if config is None:
        layers = found.state_shape
        return {"state_shape": " × ".join(map(str, layers))} if layers else {}
    return {
        "architecture": f"RWKV-{config.architecture}",
        "layers": config.n_layer,
        "width": config.n_embd,
        "heads": f"{config.n_head} × {config.head_size}" if config.n_head else "",
        "vocabulary": f"{config.vocab_size:,}",
        "state": size_text(config.state_bytes()),
    }


def _date(entry: ModelEntry) -> str:
    try:
        return moment_text(entry.path.stat().st_mtime)
    except (OSError, ValueError, OverflowError):  # a date out of range
        return ""


def _metadata(found: Inspection) -> list[Values]:
    """The file's own metadata, without the long bitmap of used tokens, which is for programs."""
    return [
        {"label": key, "value": value if len(value) <= VALUE_CHARS else f"{value[:VALUE_CHARS]}…"}
        for key, value in sorted(found.metadata.items())
        if key != USED_TOKENS_KEY
    ]


def _block_of(tensor: TensorInfo) -> str:
    """The tensor's block number; "" if it is outside the blocks."""
    match = BLOCK.match(tensor.name)
    return match[1].lstrip("0") or "0" if match else ""


def _groups(page: PageContext, name: str, tensors: Iterable[TensorInfo]) -> list[Values]:
    """The tensors outside the blocks first, then each block. ``url`` loads a group's rows."""
    by_block: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        by_block.setdefault(_block_of(tensor), []).append(tensor)
    found = []
    for block in sorted(by_block, key=lambda key: int(key or -1)):
        group = by_block[block]
        count = page.t("models.details.tensor_count", count=len(group))
        title = page.t("models.details.block", number=block) if block else page.t("models.details.no_block")
        shown = f"{count} · {size_text(sum(map(_bytes, group)))}"
        found.append({"title": title, "shown": shown, "url": url_for("models.tensors", name=name, block=block)})
    return found


def tensor_rows(found: Inspection, block: str | None) -> Values:
    """The tensors of one block; "" means those outside the blocks, None all. ``left_out``: how many are not shown."""
    chosen = [tensor for tensor in found.tensors if block is None or _block_of(tensor) == block]
    rows = [
        {
            "name": tensor.name,
            "shape": " × ".join(map(str, tensor.shape)) or "1",
            "dtype": dtype_text(tensor.dtype),
            "size": size_text(_bytes(tensor)),
        }
        for tensor in chosen[:MAX_ROWS]
    ]
    return {"rows": rows, "left_out": max(len(chosen) - MAX_ROWS, 0)}


def _bytes(tensor: TensorInfo) -> int:
    return tensor.numel * ITEM_BYTES.get(tensor.dtype, 0)
