"""The page of all states: what is in use, the files, and the forms that bring new ones."""

from __future__ import annotations

from pathlib import Path

from flask import url_for

from webapp.errors import RoostError
from webapp.manager.target import ZERO_STATE
from webapp.services.library.disk_space import size_text
from webapp.services.states.library import StateEntry
from webapp.web.chat.contexts import Toast
from webapp.web.states.chart import norm_chart
from webapp.web.states.contexts import Badge, BlendPart, InUse, Making, MergedRow, Refusal, StateRow, StatesPage, Typed
from webapp.web.states.desk import Desk, html_id

MOST_NAMED = 3


def states_page(
    desk: Desk, toasts: tuple[Toast, ...] = (), refusal: Refusal | None = None, typed: Typed | None = None
) -> StatesPage:
    entries = desk.states.list()
    return StatesPage(
        page_title=desk.t("nav.states"),
        commands_url=url_for("states.do"),
        toasts=toasts,
        in_use=in_use(desk),
        rows=tuple(state_row(desk, entry) for entry in entries),
        merged=tuple(_merged(desk, entry.name) for entry in desk.states.merged()),
        parts=_parts(desk, entries),
        making=making(desk),
        folder=str(desk.states.folder),
        model=desk.status.model,
        can_make=_can_make(desk),
        refusal=refusal,
        typed=typed or Typed(),
    )


def in_use(desk: Desk) -> InUse:
    name, has_own = desk.status.state, desk.model is not None and desk.model.has_time_state
    if name == ZERO_STATE or (not name and not has_own):
        title, text = desk.t("states.in_use.none"), desk.t("states.in_use.none_text")
    elif not name:
        title, text = desk.t("states.in_use.own"), desk.t("states.in_use.own_text")
    else:
        title, text = name, desk.t("states.in_use.file_text")
    is_file = bool(name) and name != ZERO_STATE
    others = [("", desk.t("states.in_use.use_own" if has_own else "states.in_use.use_none"))] if name else []
    if has_own and name != ZERO_STATE:
        others.append((ZERO_STATE, desk.t("states.in_use.use_none")))
    url = url_for("states.details", name=name) if is_file and name in desk.states.names() else ""
    digest = desk.status.state_digest[:12] if is_file else ""
    return InUse(title, text, desk.status.model, url, digest, tuple(others))


def state_row(desk: Desk, entry: StateEntry) -> StateRow:
    is_used = entry.name == desk.status.state
    sheet = entry.sheet
    why_not = "" if is_used or entry.error else _why_not(desk, entry)
    return StateRow(
        name=entry.name,
        html_id=html_id(entry.name),
        url=url_for("states.details", name=entry.name),
        file_url=url_for("states.file", name=entry.name),
        badges=badges(desk, entry, is_used),
        text=desk.said(entry.error, entry.name)[0] if entry.error else fits_text(desk, entry),
        facts=facts(desk, entry),
        is_used=is_used,
        can_use=sheet is not None and not is_used and not why_not,
        why_not=why_not,
        chart=norm_chart(sheet.norms, desk.t) if sheet else None,
    )


def badges(desk: Desk, entry: StateEntry, is_used: bool) -> tuple[Badge, ...]:
    found = [Badge(desk.t("states.badge.in_use"), "accent")] if is_used else []
    if entry.error is not None:
        return (*found, Badge(desk.t("states.badge.unusable"), "red"))
    if entry.has_unknown_version:
        return (*found, Badge(desk.t("states.badge.unknown"), "amber"))
    return (*found, Badge(f"RWKV-{entry.sheet.architecture}" if entry.sheet else ""))


def fits_text(desk: Desk, entry: StateEntry) -> str:
    if not entry.fits:
        return str(desk.t("states.fits.none"))
    named = entry.fits[:MOST_NAMED]
    more = len(entry.fits) - len(named)
    names = desk.t("states.list_comma").join(named)
    return str(desk.t("states.fits.more", names=names, more=more) if more else desk.t("states.fits.some", names=names))


def facts(desk: Desk, entry: StateEntry) -> tuple[str, ...]:
    size = size_text(entry.size_bytes)
    if entry.sheet is None:
        return (size,)
    layers = desk.t("states.fact.layers", count=entry.sheet.n_layer)
    return layers, desk.t("states.fact.width", width=entry.sheet.n_embd), size


def making(desk: Desk) -> Making:
    job = desk.states.making.job
    if job.phase == "running":
        return Making(job.phase, desk.t("states.making.running", name=job.name), _reading(desk, job.tokens, job.model))
    if job.phase == "failed" and job.error is not None:
        message, hint = desk.said(job.error, job.name)
        return Making(job.phase, message, hint, job.name)
    if job.phase == "done":
        return Making(
            job.phase, desk.t("states.making.done", name=job.name), desk.t("states.making.done_text"), job.name
        )
    return Making("none")


def _reading(desk: Desk, tokens: int, model: str) -> str:
    return str(desk.t("states.making.running_text", tokens=tokens, model=model))


def _why_not(desk: Desk, entry: StateEntry) -> str:
    """By sizes and version alone; applying it checks everything again."""
    config = desk.model.config if desk.model else None
    if config is None:
        return str(desk.t("states.why_not.no_model"))
    if entry.sheet is None or entry.sheet.fits(config):
        return ""
    return str(desk.t("states.why_not.model", model=desk.status.model))


def _merged(desk: Desk, model: str) -> MergedRow:
    return MergedRow(model, desk.model_url(model), f"{Path(model).stem}-state")


def _parts(desk: Desk, entries: tuple[StateEntry, ...]) -> tuple[BlendPart, ...]:
    """What can be blended, and nothing at all as the last, which weakens the rest. No parts below two states."""
    usable = [entry for entry in entries if entry.sheet is not None]
    if not usable:
        return ()
    rows = [BlendPart(e.name, e.name, html_id(e.name), "0", " · ".join(facts(desk, e)[:2])) for e in usable]
    return (*rows, BlendPart(ZERO_STATE, desk.t("states.blend.zero"), "zero", "0", desk.t("states.blend.zero_text")))


def _can_make(desk: Desk) -> bool:
    try:
        config = desk.model.config if desk.model else None
        return config is not None and config.major > 4 and desk.manager.tokenizer() is not None
    except RoostError:
        return False
