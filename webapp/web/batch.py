"""Batches: from a list or a table to one answer per row, as a job that can be stopped and continued."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError, error_from_dict
from webapp.services.batch import KIND, LINE, TEMPLATE_CHARS, table_in
from webapp.services.jobs import RUNNING, WAITING, Job
from webapp.storage.batches import Batch, BatchRow
from webapp.web.jobs import describes, job_list, person_of
from webapp.web.kit import page as kit
from webapp.web.presets.form import shown_name

KINDS = ("lines", "csv", "jsonl")
ENDINGS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "lines"}
MAX_BYTES = 16 << 20
NAME_CHARS = 120
SHOWN_ROWS = 100
AT_ONCE = 8
MAX_TOKENS = 500

blueprint = Blueprint("batch", __name__, url_prefix="/notebook/batch")


@blueprint.get("")
def index() -> Response:
    return kit.render_page("batch/page.html", batch_page(kit.current_page()))


def batch_page(page: kit.PageContext, form: kit.Values | None = None, error: RoostError | None = None) -> kit.Values:
    t = page.t
    given = {"template": f"{{{LINE}}}", "kind": "lines", "is_chat": "1", "preset": "", "text": "", "name": ""}
    most_at_once = page.batches.most_at_once
    given |= {"max_tokens": str(MAX_TOKENS), "at_once": str(min(AT_ONCE, most_at_once)), **(form or {})}
    active = t("chat.options.preset_active", name=shown_name(page.presets.active(), t))
    return {
        "page_title": t("batch.title"),
        "toasts": page.done_toast("batch.said", ("deleted", "restored")),
        "form": given,
        "kinds": [kit.Choice(kind, t(f"batch.kind.{kind}")) for kind in KINDS],
        "forms": [kit.Choice("1", t("batch.as_chat")), kit.Choice("", t("batch.as_text"))],
        "presets": [kit.Choice("", active), *(kit.Choice(row.id, shown_name(row, t)) for row in page.presets.list())],
        "most_at_once": most_at_once,
        "error": {"code": error.code, "text": page.sentences(error)} if error else None,
        "jobs": job_list(page, KIND),
        "rows": [
            {
                "id": batch.id,
                "name": batch.name,
                "at": kit.moment_text(batch.created_at),
                "facts": _facts(page, batch),
            }
            for batch in page.batches.store.list(page.person.id)
        ],
    }


def _facts(page: kit.PageContext, batch: Batch) -> list[str]:
    found = [page.t("batch.done", done=batch.done, count=batch.total)]
    return [*found, page.t("batch.failed", count=batch.failed)] if batch.failed else found


@blueprint.post("")
def start() -> Response | BaseResponse:
    """``text`` or a ``file`` of a ``kind``, and how to answer each row."""
    request.max_content_length = request.max_form_memory_size = MAX_BYTES
    page = kit.current_page()
    names = ("name", "template", "kind", "is_chat", "preset", "max_tokens", "at_once", "text")
    form = {name: request.form.get(name, "").replace("\r\n", "\n") for name in names}
    upload = request.files.get("file")
    file_name = (upload.filename or "") if upload is not None else ""
    ending = re.search(r"\.\w+$", file_name.lower())
    kind = ENDINGS.get(ending[0] if ending else "", form["kind"] if form["kind"] in KINDS else "lines")
    try:
        columns, rows = table_in(kit.posted_text(MAX_BYTES), kind)
        settings = {
            "template": form["template"][:TEMPLATE_CHARS],
            "is_chat": form["is_chat"] == "1",
            "preset": form["preset"][:64],
            "max_tokens": _number(form["max_tokens"], MAX_TOKENS, page.settings.max_tokens_limit),
            "at_once": _number(form["at_once"], AT_ONCE, page.batches.most_at_once),
        }
        name = " ".join(form["name"].split())[:NAME_CHARS] or file_name[:NAME_CHARS] or page.t("batch.unnamed")
        batch = page.batches.start(name, columns, rows, settings, page.person.id)
    except RoostError as exc:
        return kit.render_page("batch/page.html", batch_page(kit.fresh_page(), form, exc), status=422)
    return redirect(url_for("batch.show", batch_id=batch.id), 303)


def _number(text: str, usual: int, most: int) -> int:
    return min(max(int(text), 1), most) if text.isdecimal() and len(text) < 10 else min(usual, most)


@blueprint.get("/<batch_id>")
def show(batch_id: str) -> Response:
    """From row ``from`` on. As a fragment, only the results."""
    page = kit.current_page()
    batch = page.batches.store.get(batch_id)
    first = max(0, request.args.get("from", 0, type=int))
    rows = page.batches.store.rows(batch_id, first, SHOWN_ROWS)
    job = page.batches.job_of(batch_id)
    values = {
        "page_title": batch.name,
        "batch": batch,
        "facts": _facts(page, batch),
        "rows": [_row(page, row) for row in rows],
        "first": first,
        "previous": max(0, first - SHOWN_ROWS) if first else None,
        "next": first + SHOWN_ROWS if first + SHOWN_ROWS < batch.total else None,
        "is_busy": job is not None and job.status in (WAITING, RUNNING),
        "can_resume": batch.done < batch.total and (job is None or job.status not in (WAITING, RUNNING)),
        "jobs": job_list(page, KIND, batch=batch_id),
    }
    return kit.render_page("batch/show.html", values, "batch/_results.html")


def _row(page: kit.PageContext, row: BatchRow) -> kit.Values:
    error = row.about.get("error")
    return {
        "number": row.place + 1,
        "values": row.values,
        "answer": row.answer,
        "error": page.sentences(error_from_dict(error)) if error else "",
        "is_cut": row.about.get("finish_reason") == "length",
    }


@blueprint.post("/<batch_id>/resume")
def resume(batch_id: str) -> BaseResponse:
    kit.current_page().batches.resume(batch_id)
    return redirect(url_for("batch.show", batch_id=batch_id), 303)


@blueprint.post("/<batch_id>/delete")
def delete(batch_id: str) -> BaseResponse:
    batch = kit.current_page().batches.delete(batch_id)
    return redirect(url_for("batch.index", said="deleted", about=batch.name, undo=batch.id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo command of a toast."""
    store, batch_id = kit.current_page().batches.store, kit.undone_id()
    store.check(batch_id, g.person.id)
    return redirect(url_for("batch.index", said="restored", about=store.restore(batch_id).name), 303)


@blueprint.get("/<batch_id>/export.<kind>")
def export(batch_id: str, kind: str) -> Response:
    """``csv`` (with a BOM, so that spreadsheets read it as UTF-8) or ``jsonl``: all rows with their results, also
    during the run."""
    store = kit.current_page().batches.store
    batch = store.get(batch_id)
    if kind not in ("csv", "jsonl"):
        raise RoostError("batch_not_found")
    rows = store.all_rows(batch_id)
    lines = _csv(batch, rows) if kind == "csv" else _jsonl(batch, rows)
    return kit.download(
        lines, "text/csv" if kind == "csv" else kit.JSON_LINES, f"{kit.file_stem(batch.name, 'batch')}.{kind}"
    )


RESULTS = ("answer", "finish_reason", "prompt_tokens", "tokens", "error")


def _names(batch: Batch) -> list[str]:
    """Column names of the results; an input column with the same name keeps it."""
    return [f"{name}_" if name in batch.columns else name for name in RESULTS]


def _result(row: BatchRow) -> list[Any]:
    about, error = row.about, row.about.get("error")
    figures = [about.get(name) for name in ("finish_reason", "prompt_tokens", "tokens")]
    return [row.answer if about else None, *figures, error["message"] if error else None]


def _csv(batch: Batch, rows: Iterator[BatchRow]) -> Iterator[bytes]:
    out = io.StringIO()
    writer = csv.writer(out)

    def written(cells: list[Any]) -> bytes:
        out.seek(0)
        out.truncate()
        writer.writerow(cells)
        return out.getvalue().encode()

    yield b"\xef\xbb\xbf" + written([*batch.columns, *_names(batch)])
    for row in rows:
        yield written([*row.values, *("" if cell is None else cell for cell in _result(row))])


def _jsonl(batch: Batch, rows: Iterator[BatchRow]) -> Iterator[bytes]:
    names = _names(batch)
    for row in rows:
        found = zip(names, _result(row), strict=True)
        values = {**dict(zip(batch.columns, row.values, strict=False)), **{k: v for k, v in found if v is not None}}
        yield json.dumps(values, ensure_ascii=False).encode() + b"\n"


@describes(KIND)
def _describe(page: kit.PageContext, job: Job) -> kit.Values:
    url, t = url_for("batch.show", batch_id=job.details["batch"]), page.t
    action = {"url": url, "label": t("batch.results"), "icon": "file-text", "is_link": True}
    is_mine = person_of(job) == page.person.id
    return {"word": t("batch.answering") if job.status == RUNNING else "", "actions": [action] if is_mine else []}
