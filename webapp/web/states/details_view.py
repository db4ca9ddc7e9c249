"""One state: what it is, which models it fits, how strong each layer is."""

from __future__ import annotations

import time

from flask import url_for

from webapp.services.library.disk_space import size_text
from webapp.services.states.library import StateEntry
from webapp.web.chat.contexts import Toast
from webapp.web.states.chart import short
from webapp.web.states.contexts import StateDetails
from webapp.web.states.desk import Desk
from webapp.web.states.page_view import state_row


def details_page(desk: Desk, entry: StateEntry, toasts: tuple[Toast, ...] = (), rename_error: str = "") -> StateDetails:
    message, hint = desk.said(entry.error, entry.name) if entry.error else ("", "")
    return StateDetails(
        page_title=entry.name,
        commands_url=url_for("states.do"),
        toasts=toasts,
        row=state_row(desk, entry),
        pairs=_pairs(desk, entry),
        norms=_norms(entry),
        fits=tuple((name, desk.model_url(name)) for name in entry.fits),
        error_message=message,
        error_hint=hint,
        warning=desk.t("states.unknown_version") if entry.has_unknown_version else "",
        rename_error=rename_error,
    )


def _pairs(desk: Desk, entry: StateEntry) -> tuple[tuple[str, str], ...]:
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed_at))
    of_file = ((desk.t("states.about.size"), size_text(entry.size_bytes)), (desk.t("states.about.changed"), changed))
    sheet = entry.sheet
    if sheet is None:
        return of_file
    return (
        (desk.t("states.about.version"), _version(desk, sheet.architecture, sheet.told_by)),
        (desk.t("states.about.layers"), str(sheet.n_layer)),
        (desk.t("states.about.heads"), f"{sheet.n_head} × {sheet.head_size}"),
        (desk.t("states.about.width"), str(sheet.n_embd)),
        *of_file,
        (desk.t("states.about.digest"), sheet.digest),
    )


def _version(desk: Desk, architecture: str, told_by: str) -> str:
    if not architecture:
        return str(desk.t("states.version.unknown"))
    return str(desk.t(f"states.version.{told_by}", version=f"RWKV-{architecture}"))


def _norms(entry: StateEntry) -> tuple[tuple[int, str, str], ...]:
    """``(layer, norm, percent of the largest)``"""
    norms = entry.sheet.norms if entry.sheet else ()
    most = max(norms, default=0.0) or 1.0
    return tuple((layer, short(norm), f"{100 * norm / most:.0f}") for layer, norm in enumerate(norms))
