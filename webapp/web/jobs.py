"""Jobs on all pages: one list, one fragment, one page with all of them.

A page area registers the details of its kind of job with :func:`describes`: facts, texts, buttons.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import size_text
from webapp.services.jobs import PAUSED, RUNNING, WAITING, Job
from webapp.storage.records import OWNER_ID
from webapp.web.guard import current_role
from webapp.web.kit.page import PageContext, Values, current_page, render_page, wants_fragment
from webapp.web.login import page_before
from webapp.web.roles import Role

Describe = Callable[[PageContext, Job], Values]
ICONS = {
    "waiting": "history",
    "running": "refresh-cw",
    "paused": "square",
    "done": "circle-check",
    "failed": "circle-x",
    "cancelled": "x",
}
blueprint = Blueprint("jobs", __name__, url_prefix="/jobs")
_described: dict[str, Describe] = {}


def describes(kind: str) -> Callable[[Describe], Describe]:
    """The function returns any of ``facts`` (texts), ``word`` (while it runs), ``text`` (a sentence below) and
    ``actions`` (dicts with ``url``, ``label``, ``icon``, and ``is_main`` or ``is_link`` if it is not a button)."""

    def keep(function: Describe) -> Describe:
        _described[kind] = function
        return function

    return keep


def person_of(job: Job) -> str:
    """The job's owner; "" for the server's own."""
    return str(job.details.get("person", OWNER_ID if "batch" in job.details else ""))


def _shown_jobs(page: PageContext, *kinds: str) -> list[Job]:
    """The server's jobs and the reader's own; the server's owner sees all, to be able to end them."""
    is_owner = current_role() is Role.OWNER
    return [job for job in page.jobs.jobs(*kinds) if is_owner or person_of(job) in ("", page.person.id)]


def job_list(page: PageContext, *kinds: str, batch: str = "") -> Values:
    """``_jobs.html``. No ``kinds`` means all; ``batch``: only those of this batch."""
    jobs = [job for job in _shown_jobs(page, *kinds) if batch in ("", job.details.get("batch"))]
    rows = [_row(page, job) for job in jobs]
    return {
        "url": url_for("jobs.index", kind=kinds, batch=batch or None),
        "rows": rows,
        "is_busy": any(row["status"] in (WAITING, RUNNING) for row in rows),
    }


def strip_jobs(page: PageContext) -> Values:
    """``jobs/_strip.html``, on every page: the running job, and the number of running and waiting jobs."""
    busy = [job for job in _shown_jobs(page) if job.status in (WAITING, RUNNING)]
    busy.sort(key=lambda job: (job.status != RUNNING, not job.total))
    first = _row(page, busy[0]) if busy else {}
    more = page.t("jobs.more", count=len(busy) - 1) if len(busy) > 1 else ""
    return {"is_busy": bool(busy), "more": more, **{key: first.get(key) for key in ("title", "shown", "share", "word")}}


@blueprint.get("/strip")
def show_strip() -> Response:
    return render_page("jobs/_strip.html", {"strip_jobs": strip_jobs(current_page())})


@blueprint.get("")
def index() -> Response:
    """All jobs as a page, or those of the given ``kind``s as a fragment."""
    page = current_page()
    shown = {"page_title": page.t("jobs.title"), "jobs": job_list(page, *request.args.getlist("kind")[:9])}
    return _fragment(page) if wants_fragment() else render_page("jobs/page.html", shown)


@blueprint.post("/<job_id>/<action>")
def act(job_id: str, action: str) -> Response | BaseResponse:
    page = current_page()
    jobs = page.jobs
    actions = {"cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume, "remove": jobs.remove}
    if action not in actions:
        raise RoostError("job_not_found")
    actions[action](job_id)
    if wants_fragment():
        return _fragment(page)
    return redirect(page_before(url_for("jobs.index")), 303)


def _fragment(page: PageContext) -> Response:
    jobs = job_list(page, *request.args.getlist("kind")[:9], batch=request.args.get("batch", ""))
    return render_page("jobs/_jobs.html", {"jobs": jobs, "news_of_strip": strip_jobs(page)})


def without_folders(error: RoostError) -> RoostError:
    """The same error with only the file's name, without the server's folders."""
    path = str(error.params.get("path", ""))
    if "/" not in path and "\\" not in path:
        return error
    return error.with_params(path=path.replace("\\", "/").rpartition("/")[2])


def time_text(page: PageContext, seconds: float) -> str:
    """For example "2 h 5 min", "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return str(page.t("jobs.time.seconds", seconds=max(round(seconds), 1)))
    if minutes < 60:
        return str(page.t("jobs.time.minutes", minutes=minutes))
    return str(page.t("jobs.time.hours", hours=minutes // 60, minutes=minutes % 60))


def _row(page: PageContext, job: Job) -> Values:
    """``share`` is in per cent, None if unknown."""
    t = page.t
    about = {"facts": [], "word": "", "text": "", "actions": []}
    about |= _described[job.kind](page, job) if job.kind in _described else {}
    error, hint = page.explain(without_folders(job.error)) if job.error else ("", "")
    return {
        **about,
        "id": job.id,
        "status": job.status,
        "icon": ICONS[job.status],
        "title": job.title,
        "word": about["word"] if job.status == RUNNING and about["word"] else t(f"jobs.status.{job.status}"),
        "shown": _shown(page, job),
        "share": round(100 * job.done / job.total, 1) if job.total else None,
        "has_bar": job.status in (RUNNING, PAUSED) and bool(job.unit),
        "error": error,
        "error_code": job.error.code if job.error else "",
        "hint": hint,
        "log": job.log,
        "can_cancel": not job.is_over,
        "can_pause": job.can_pause and job.status in (WAITING, RUNNING),
        "can_resume": page.jobs.can_resume(job),
    }


def _shown(page: PageContext, job: Job) -> str:
    """For example "1.2 GB of 3.06 GB · 25 MB/s · 1 min left"."""
    t = page.t
    if job.unit == "bytes":
        done, total = size_text(job.done), size_text(job.total)
        parts = [t("jobs.of", done=done, total=total) if job.total else done]
    else:
        parts = [t("jobs.of", done=job.done, total=job.total)]
    if job.status == RUNNING and job.speed and job.unit == "bytes":
        parts.append(t("jobs.speed", speed=size_text(job.speed)))
    if job.seconds_left is not None:
        parts.append(t("jobs.left", time=time_text(page, job.seconds_left)))
    return " · ".join(parts)
