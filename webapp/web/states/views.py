"""The content of the states pages. The values of each function are template variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flask import url_for

from webapp.errors import RoostError
from webapp.i18n import size_text
from webapp.manager.target import ZERO_STATE
from webapp.services.downloads.catalogue import trained_context
from webapp.services.jobs import DONE, Job
from webapp.services.states import MAKING, StateEntry, snapshot_use
from webapp.web.jobs import describes, job_list
from webapp.web.kit.page import PageContext, Toast, Values, html_id, moment_text
from webapp.web.presets.form import shown_name
from webapp.weights.state_sheet import DOCUMENT, PROMPT, PrefixSheet

MOST_NAMED = 3
CHART_HEIGHT = 40.0
CHART_PITCH, CHART_WIDTH = 10.0, 7.0
LEAST_HEIGHT = 0.6
"""Height of a column for a norm near zero, so that it can be seen; a norm of 0 has none."""


def states_page(
    page: PageContext,
    toasts: tuple[Toast, ...] = (),
    refusal: Mapping[str, str] | None = None,
    typed: Mapping[str, str] | None = None,
) -> Values:
    """The list with its forms. ``refusal``: the ``form`` that was refused (upload, import, blend, make or copy), with
    ``message``, ``hint`` and ``code``. ``typed``: what stood in it (path, text, make_name, blend_name)."""
    states = page.states
    jobs = job_list(page, MAKING)  # before the states: what a job has made is then among them
    entries = states.list()
    return {
        "page_title": page.t("nav.states"),
        "commands_url": url_for("states.do"),
        "toasts": toasts,
        "in_use": in_use(page),
        "rows": [state_row(page, entry) for entry in entries],
        "merged": [
            {"model": entry.name, "url": page.model_url(entry.name), "new_name": f"{Path(entry.name).stem}-state"}
            for entry in states.merged()
        ],
        "parts": _blend_parts(page, entries),
        "jobs": jobs,
        "chats": chats_on_disk(page),
        "folder": str(states.folder),
        "model": page.status.model,
        "can_make": _can_make(page),
        "refusal": refusal,
        "typed": typed or {},
        "bake_kinds": [{"value": kind, "label": page.t(f"states.bake.as_{kind}")} for kind in (DOCUMENT, PROMPT)],
        "presets": bakeable_presets(page),
    }


def details_page(
    page: PageContext, entry: StateEntry, toasts: tuple[Toast, ...] = (), rename_error: str = ""
) -> Values:
    message, hint = page.explain(entry.error, entry.name) if entry.error else ("", "")
    norms = entry.sheet.norms if entry.sheet else ()
    most = max(norms, default=0.0) or 1.0
    return {
        "page_title": entry.name,
        "commands_url": url_for("states.do"),
        "toasts": toasts,
        "row": state_row(page, entry),
        "pairs": _facts_of_file(page, entry),
        "norms": [(layer, short(norm), f"{100 * norm / most:.0f}") for layer, norm in enumerate(norms)],
        "fits": [(name, page.model_url(name)) for name in entry.fits],
        "error_message": message,
        "error_hint": hint,
        "warning": page.t("states.unknown_version") if entry.has_unknown_version else "",
        "rename_error": rename_error,
    }


def chats_on_disk(page: PageContext) -> Values:
    """``states/_chats.html``: what the states of chats take of the room they may have. ``share`` in percent."""
    count, used = snapshot_use(page.settings)
    limit = page.settings.snapshot_limit_bytes
    key = "states.chats.of" if limit else "states.chats.off"
    return {
        "count": count,
        "shown": page.t(key, used=size_text(used), limit=size_text(limit), count=count),
        "share": min(100, round(100 * used / limit)) if limit else 0,
        "folder": str(page.settings.snapshot_dir),
    }


def bakeable_presets(page: PageContext) -> list[Values]:
    """Those with a system prompt or tools, to be chosen from."""
    rows = page.presets.list()
    return [{"value": row.id, "label": shown_name(row, page.t)} for row in rows if row.system_prompt or row.tools]


def prefix_part(page: PageContext, sheet: PrefixSheet | None) -> Values | None:
    """What was read into a state, and whether by the chosen model."""
    if sheet is None:
        return None
    is_stale, model = page.prefixes.is_stale(sheet), page.status.model
    made = moment_text(sheet.made_at)
    words = {"kind": page.t(f"states.prefix.{sheet.kind}"), "title": sheet.title, "model": sheet.model}
    trained = trained_context(sheet.model)
    told = {"tokens": sheet.tokens, "trained": trained, "model": sheet.model}
    return {
        "beyond": page.t("states.view.beyond", **told) if trained is not None and sheet.tokens > trained else "",
        "name": sheet.title,
        "title": page.t("states.prefix.titled" if sheet.title else "states.prefix.untitled", **words),
        "facts": [page.t("states.prefix.tokens", count=sheet.tokens), page.t("states.prefix.by", **words), made],
        "is_stale": is_stale,
        "stale": page.t("states.prefix.stale", made_by=sheet.model, model=model) if is_stale else "",
        "again": page.t("states.prefix.again", model=model) if is_stale and _can_make(page) else "",
        "help": page.t(f"states.prefix.help_{sheet.kind}"),
    }


def in_use(page: PageContext) -> Values:
    """What new answers begin with. ``others``: (name, label) of what can stand in place of a file."""
    name, has_own = page.status.state, page.model is not None and page.model.has_time_state
    is_file = bool(name) and name != ZERO_STATE
    if is_file:
        title, text = name, page.t("states.in_use.file_text")
    elif not name and has_own:
        title, text = page.t("states.in_use.own"), page.t("states.in_use.own_text")
    else:
        title, text = page.t("states.in_use.none"), page.t("states.in_use.none_text")
    others = [("", page.t("states.in_use.use_own" if has_own else "states.in_use.use_none"))] if name else []
    if has_own and name != ZERO_STATE:
        others.append((ZERO_STATE, page.t("states.in_use.use_none")))
    return {
        "title": title,
        "text": text,
        "model": page.status.model,
        "state_url": url_for("states.details", name=name) if is_file and name in page.states.names() else "",
        "digest": page.status.state_digest[:12] if is_file else "",
        "others": others,
    }


def state_row(page: PageContext, entry: StateEntry) -> Values:
    """``why_not`` says why the chosen model cannot use the state, "" if it can."""
    sheet, is_used = entry.sheet, entry.name == page.status.state
    prefix = prefix_part(page, sheet.prefix if sheet else None)
    why_not = "" if is_used or entry.error else _why_not(page, entry)
    return {
        "name": entry.name,
        "html_id": html_id(entry.name),
        "url": url_for("states.details", name=entry.name),
        "file_url": url_for("states.file", name=entry.name),
        "badges": _badges(page, entry, is_used),
        "text": page.explain(entry.error, entry.name)[0] if entry.error else _fits_text(page, entry),
        "error_code": entry.error.code if entry.error else "",
        "facts": _facts(page, entry),
        "is_used": is_used,
        "can_use": sheet is not None and not is_used and not why_not,
        "why_not": "" if prefix and prefix["again"] else why_not,
        "prefix": prefix,
        "chat_url": _chat_url(page, entry) if sheet is not None and not why_not else "",
        "chart": norm_chart(page, sheet.norms) if sheet else None,
    }


@describes(MAKING)
def _describe_making(page: PageContext, job: Job) -> Values:
    words = {"running": "states.making.running_text", "done": "states.making.done_text"}
    text = page.t(words[job.status], **job.details) if job.status in words else ""
    actions = []
    if job.status == DONE:
        url = url_for("states.details", name=job.details["name"])
        actions = [{"url": url, "label": page.t("states.making.show"), "icon": "layers", "is_link": True}]
    return {"text": text, "actions": actions}


def norm_chart(page: PageContext, norms: Sequence[float]) -> Values:
    """The norm of each layer as columns of an SVG: the page needs no script and no inline style for it.
    The highest column is the largest norm."""
    most = max(norms, default=0.0)
    columns = []
    for layer, norm in enumerate(norms):
        height = max(CHART_HEIGHT * norm / most, LEAST_HEIGHT) if norm > 0 and most > 0 else 0.0
        columns.append(
            {
                "x": f"{CHART_PITCH * layer:g}",
                "y": f"{CHART_HEIGHT - height:.2f}",
                "width": f"{CHART_WIDTH:g}",
                "height": f"{height:.2f}",
                "title": page.t("states.chart.layer", layer=layer, norm=short(norm)),
            }
        )
    least = short(min(norms, default=0.0))
    return {
        "view_box": f"0 0 {CHART_PITCH * len(norms) - (CHART_PITCH - CHART_WIDTH):g} {CHART_HEIGHT:g}",
        "label": page.t("states.chart.label", count=len(norms), least=least, most=short(most)),
        "columns": columns,
    }


def short(norm: float) -> str:
    return f"{norm:.3g}"


def _badges(page: PageContext, entry: StateEntry, is_used: bool) -> list[Values]:
    found = [{"text": page.t("states.badge.in_use"), "kind": "accent"}] if is_used else []
    if entry.error is not None:
        found.append({"text": page.t("states.badge.unusable"), "kind": "red"})
    elif entry.sheet is not None and entry.sheet.prefix is not None:
        found.append({"text": page.t(f"states.prefix.{entry.sheet.prefix.kind}"), "kind": ""})
        found.append({"text": f"RWKV-{entry.sheet.architecture}", "kind": ""})
    elif entry.has_unknown_version:
        found.append({"text": page.t("states.badge.unknown"), "kind": "amber"})
    else:
        found.append({"text": f"RWKV-{entry.sheet.architecture}" if entry.sheet else "", "kind": ""})
    return found


def _fits_text(page: PageContext, entry: StateEntry) -> str:
    if not entry.fits:
        return str(page.t("states.fits.none"))
    names = page.t("states.list_comma").join(entry.fits[:MOST_NAMED])
    more = len(entry.fits) - MOST_NAMED
    if more > 0:
        return str(page.t("states.fits.more", names=names, more=more))
    return str(page.t("states.fits.some", names=names))


def _facts(page: PageContext, entry: StateEntry) -> list[str]:
    size = size_text(entry.size_bytes)
    if entry.sheet is None:
        return [size]
    prefix = prefix_part(page, entry.sheet.prefix)
    if prefix:
        return [*prefix["facts"], size]
    layers = page.t("states.fact.layers", count=entry.sheet.n_layer)
    return [layers, page.t("states.fact.width", width=entry.sheet.n_embd), size]


def _facts_of_file(page: PageContext, entry: StateEntry) -> list[tuple[str, str]]:
    t, sheet = page.t, entry.sheet
    changed = moment_text(entry.changed_at)
    of_file = [(t("states.about.size"), size_text(entry.size_bytes)), (t("states.about.changed"), changed)]
    if sheet is None:
        return of_file
    version = t("states.version.unknown")
    if sheet.architecture:
        version = t(f"states.version.{sheet.told_by}", version=f"RWKV-{sheet.architecture}")
    return [
        (t("states.about.version"), version),
        (t("states.about.layers"), str(sheet.n_layer)),
        (t("states.about.heads"), f"{sheet.n_head} × {sheet.head_size}"),
        (t("states.about.width"), str(sheet.n_embd)),
        *of_file,
        (t("states.about.digest"), sheet.digest),
    ]


def _chat_url(page: PageContext, entry: StateEntry) -> str:
    """Of a new chat that starts from it; with the preset whose prompt and tools were read, where that still is."""
    sheet = entry.sheet.prefix if entry.sheet else None
    presets = page.presets.list() if sheet is not None and sheet.kind != DOCUMENT else ()
    found = next((row.id for row in presets if sheet is not None and shown_name(row, page.t) == sheet.title), None)
    return url_for("chat.index", state=entry.name, preset=found)


def _why_not(page: PageContext, entry: StateEntry) -> str:
    """By sizes and version alone; applying it checks everything again."""
    config = page.model.config if page.model else None
    if config is None:
        return str(page.t("states.why_not.no_model"))
    if entry.sheet is None or entry.sheet.fits(config):
        return ""
    return str(page.t("states.why_not.model", model=page.status.model))


def _blend_parts(page: PageContext, entries: Sequence[StateEntry]) -> list[Values]:
    """What can be blended, and nothing at all as the last, which weakens the rest. No parts without a usable state."""
    usable = [entry for entry in entries if entry.sheet is not None]
    rows = [(e.name, e.name, html_id(e.name), " · ".join(_facts(page, e)[:2])) for e in usable]
    if rows:
        rows.append((ZERO_STATE, page.t("states.blend.zero"), "zero", page.t("states.blend.zero_text")))
    names = ("name", "label", "html_id", "facts")
    return [{**dict(zip(names, row, strict=True)), "weight": "0"} for row in rows]


def _can_make(page: PageContext) -> bool:
    try:
        config = page.model.config if page.model else None
        return config is not None and config.major > 4 and page.manager.tokenizer() is not None
    except RoostError:
        return False
