"""The conversion page: ask, watch, cancel, use the result. Works without scripts; htmx makes it follow."""

from __future__ import annotations

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ConversionNotFound, ConversionTargetExists, RoostError
from webapp.services.conversion.conversions import ConversionJob
from webapp.services.presets.presets import Presets
from webapp.web.conversion.views import conversion_page, conversions_of, plan_note, read_order
from webapp.web.conversion.views import jobs as jobs_of
from webapp.web.fragments import render_page, wants_fragment
from webapp.web.kit.page import current_page

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


@blueprint.get("/jobs")
def jobs() -> Response | BaseResponse:
    if not wants_fragment():
        return redirect(url_for("conversion.index"), 303)
    return show_jobs()


@blueprint.post("")
def start() -> Response | BaseResponse:
    page = current_page()
    try:
        conversions_of(page).start(read_order(page, request.form))
    except RoostError as exc:
        status = 409 if isinstance(exc, ConversionTargetExists) else 422
        return render_page("conversion/page.html", conversion_page(page, request.form, exc), status=status)
    return redirect(url_for("conversion.index", model=request.form.get("model", "")[:1000], _anchor="jobs"), 303)


@blueprint.post("/<job_id>/cancel")
def cancel(job_id: str) -> Response | BaseResponse:
    conversions_of(current_page()).cancel(job_id)
    return show_jobs() if wants_fragment() else redirect(url_for("conversion.index"), 303)


@blueprint.post("/<job_id>/remove")
def remove(job_id: str) -> Response | BaseResponse:
    conversions_of(current_page()).remove(job_id)
    return show_jobs() if wants_fragment() else redirect(url_for("conversion.index"), 303)


@blueprint.post("/<job_id>/load")
def load(job_id: str) -> Response | BaseResponse:
    """Begins; the models page shows how it goes."""
    job = finished(job_id)
    current_page().manager.load(model=job.name, strategy=job.order.strategy or None)
    return redirect(url_for("models.index"), 303)


@blueprint.post("/<job_id>/preset")
def preset(job_id: str) -> Response | BaseResponse:
    """A preset of the new file, for the strategy it was made for; opens it."""
    job = finished(job_id)
    presets: Presets = current_page().service("presets")
    values = {"model": job.name, "strategy": job.order.strategy} if job.order.strategy else {"model": job.name}
    return redirect(f"/presets/{presets.create(job.path.stem, values).id}", 303)


def finished(job_id: str) -> ConversionJob:
    job = conversions_of(current_page()).job(job_id)
    if job.status != "done":
        raise ConversionNotFound()
    return job


def show_jobs() -> Response:
    return render_page("conversion/_jobs.html", {"jobs": jobs_of(current_page())})
