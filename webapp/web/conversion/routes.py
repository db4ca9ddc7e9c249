"""The conversion page: ask, watch, cancel, use what came of it. Works without scripts; htmx makes it follow."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ConversionNotFound, ConversionTargetExists, RoostError
from webapp.services.conversion.conversions import ConversionJob, Conversions
from webapp.services.presets.presets import Presets
from webapp.web.conversion.page_view import View
from webapp.web.fragments import current_locale, render_page, translator, wants_fragment

blueprint = Blueprint("conversion", __name__, url_prefix="/convert")


@blueprint.get("")
def index() -> Response:
    """``model``, ``target`` and the other fields may be given."""
    return render_page("conversion/page.html", the_view().page(request.args))


@blueprint.get("/plan")
def plan() -> Response | BaseResponse:
    """What the form as it stands would do."""
    if not wants_fragment():
        return redirect(url_for("conversion.index"), 303)
    return render_page("conversion/_plan.html", {"plan": the_view().plan(request.args)})


@blueprint.get("/jobs")
def jobs() -> Response | BaseResponse:
    if not wants_fragment():
        return redirect(url_for("conversion.index"), 303)
    return show_jobs()


@blueprint.post("")
def start() -> Response | BaseResponse:
    view = the_view()
    try:
        the_conversions().start(view.order(request.form))
    except RoostError as exc:
        page = view.page(request.form, exc)
        status = 409 if isinstance(exc, ConversionTargetExists) else 422
        return render_page("conversion/page.html", page, status=status)
    return redirect(url_for("conversion.index", model=request.form.get("model", "")[:1000], _anchor="jobs"), 303)


@blueprint.post("/<job_id>/cancel")
def cancel(job_id: str) -> Response | BaseResponse:
    the_conversions().cancel(job_id)
    return show_jobs() if wants_fragment() else redirect(url_for("conversion.index"), 303)


@blueprint.post("/<job_id>/remove")
def remove(job_id: str) -> Response | BaseResponse:
    the_conversions().remove(job_id)
    return show_jobs() if wants_fragment() else redirect(url_for("conversion.index"), 303)


@blueprint.post("/<job_id>/load")
def load(job_id: str) -> Response | BaseResponse:
    """Begins; the models page shows how it goes."""
    job = finished(job_id)
    current_app.extensions["model_manager"].load(model=job.name, strategy=job.order.strategy or None)
    return redirect(url_for("models.index"), 303)


@blueprint.post("/<job_id>/preset")
def preset(job_id: str) -> Response | BaseResponse:
    """A preset of the new file, for the strategy it was made for; opens it."""
    job = finished(job_id)
    presets: Presets = current_app.extensions["presets"]
    values = {"model": job.name, "strategy": job.order.strategy} if job.order.strategy else {"model": job.name}
    return redirect(f"/presets/{presets.create(job.path.stem, values).id}", 303)


def finished(job_id: str) -> ConversionJob:
    job = the_conversions().job(job_id)
    if job.status != "done":
        raise ConversionNotFound()
    return job


def show_jobs() -> Response:
    return render_page("conversion/_jobs.html", {"jobs": the_view().jobs()})


def the_view() -> View:
    locale = current_locale()
    return View(the_conversions(), current_app.extensions["model_manager"], locale, translator(locale))


def the_conversions() -> Conversions:
    conversions: Conversions = current_app.extensions["conversions"]
    return conversions
