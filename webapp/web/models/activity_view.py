"""What is going on with models: one being loaded, files on their way in, what is in the trash."""

from __future__ import annotations

import time

from webapp.errors import ModelDoesNotFit, error_from_dict
from webapp.services.library.disk_space import size_text
from webapp.services.library.imports import MODES, ImportJob
from webapp.web.models.contexts import (
    Activity,
    ImportForm,
    ImportView,
    KindChoice,
    LoadView,
    TrashRow,
    TrashView,
    UploadView,
)
from webapp.web.models.desk import Desk


def activity(desk: Desk) -> Activity:
    jobs = desk.files.imports.jobs()
    load = load_view(desk)
    return Activity(
        revision=f"{desk.status.revision}-{desk.files.activity()}",
        is_busy=any(job.phase == "running" for job in jobs) or (load is not None and load.phase != "failed"),
        load=load,
        imports=tuple(_import(desk, job) for job in jobs),
        uploads=tuple(
            UploadView(upload.id, upload.name, _of(desk, upload.done_bytes, upload.size_bytes))
            for upload in desk.files.unfinished_uploads()
        ),
    )


def load_view(desk: Desk) -> LoadView | None:
    """None when nothing is loaded or unloaded now and the last load did not fail."""
    status = desk.status
    if status.phase == "loading":
        share = 100 * status.done_bytes // status.total_bytes if status.total_bytes else 0
        shown = _of(desk, status.done_bytes, status.total_bytes) if status.total_bytes else ""
        return LoadView("loading", desk.t("models.loading", name=status.model), shown, share)
    if status.phase == "unloading":
        return LoadView("unloading", desk.t("models.unloading", name=status.model))
    told = status.error or status.notice
    if told is None or told.get("code") == "load_cancelled":
        return None
    message, hint = desk.said(error_from_dict(told))
    can_load_anyway = told.get("code") == ModelDoesNotFit.code
    return LoadView("failed", message, hint=hint, can_load_anyway=can_load_anyway)


def _import(desk: Desk, job: ImportJob) -> ImportView:
    share = 100 * job.done_bytes // job.total_bytes if job.total_bytes else 0
    error, hint = desk.said(error_from_dict(job.error), job.name) if job.error else ("", "")
    word = desk.t(f"models.import.{job.phase}", name=job.name)
    return ImportView(job.id, job.name, job.phase, word, _of(desk, job.done_bytes, job.total_bytes), share, error, hint)


def _of(desk: Desk, done: int, total: int) -> str:
    return str(desk.t("models.of", done=size_text(done), total=size_text(total)))


def import_form(desk: Desk, path: str = "", mode: str = "copy", error: str = "", hint: str = "") -> ImportForm:
    modes = tuple(KindChoice(name, desk.t(f"models.import.mode.{name}")) for name in MODES)
    return ImportForm(path, mode if mode in MODES else "copy", modes, error, hint)


def trash_view(desk: Desk) -> TrashView:
    items = desk.files.trashed()
    rows = (TrashRow(item.id, item.name, (size_text(item.size_bytes), _age(desk, item.deleted_at))) for item in items)
    return TrashView(tuple(rows), size_text(sum(item.size_bytes for item in items)))


def _age(desk: Desk, at: float) -> str:
    """Such as "3 hours ago"."""
    seconds = max(time.time() - at, 0)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return str(desk.t(f"models.ago.{unit}", count=int(seconds // length)))
    return str(desk.t("models.ago.now"))
