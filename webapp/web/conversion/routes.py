"""The conversion page: ask, watch, cancel, use the result. Works without scripts; htmx makes it follow."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ConversionTargetExists, JobNotFound, RoostError
from webapp.services.conversion import KIND
from webapp.services.jobs import DONE, Job
from webapp.services.presets.presets import Presets
from webapp.web.conversion.views import conversion_page, conversions_of, plan_note, read_request
from webapp.web.jobs import jobs_of
from webapp.web.kit.page import current_page, render_page, wants_fragment

blueprint = Blueprint("conversion", __name__, url_prefix="/convert")


@blueprint.get("")
def index() -> Response:
    """``model``, ``target`` and the other fields may be given."""
    return render_page("conversion/page.html", conversion_page(current_page(), request.args))


@blueprint.get("/plan")
def plan() -> Response | BaseResponse:
    """What the form as it stands would do."""
    if not wants_fragment():
        return redirect(url_for("conversion.index"), 303)
    return render_page("conversion/_plan.html", {"plan": plan_note(current_page(), request.args)})


@blueprint.post("")
def start() -> Response | BaseResponse:
    page = current_page()
    try:
        conversions_of(page).start(read_request(page, request.form))
    except RoostError as exc:
        status = 409 if isinstance(exc, ConversionTargetExists) else 422
        return render_page("conversion/page.html", conversion_page(page, request.form, exc), status=status)
    return redirect(url_for("conversion.index", model=request.form.get("model", "")[:1000], _anchor="jobs"), 303)


@blueprint.post("/<job_id>/load")
def load(job_id: str) -> Response | BaseResponse:
    """Begins; the models page shows how it goes."""
    job = finished(job_id)
    current_page().manager.load(model=job.title, strategy=job.details["strategy"] or None)
    return redirect(url_for("models.index"), 303)


@blueprint.post("/<job_id>/preset")
def preset(job_id: str) -> Response | BaseResponse:
    """A preset of the new file, for the strategy it was made for; opens it."""
    job = finished(job_id)
    presets: Presets = current_page().service("presets")
    values = {"model": job.title, **({"strategy": job.details["strategy"]} if job.details["strategy"] else {})}
    return redirect(f"/presets/{presets.create(Path(job.title).stem, values).id}", 303)


def finished(job_id: str) -> Job:
    job = jobs_of(current_page()).job(job_id)
    if job.kind != KIND or job.status != DONE:
        raise JobNotFound()
    return job
