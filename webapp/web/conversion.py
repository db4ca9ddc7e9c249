"""The conversion page: parsing its form, its content, and its routes.

It works without scripts; htmx makes it follow a job. Values are template variables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ConversionError, RoostError
from webapp.i18n import Text, size_text
from webapp.manager.library import ModelLibrary
from webapp.services.conversion import KIND, ConversionRequest
from webapp.services.jobs import DONE, Job
from webapp.services.library.placing import check_free, free_bytes
from webapp.web.jobs import describes, job_list, without_folders
from webapp.web.kit.page import Choice, PageContext, Values, current_page, render_page, wants_fragment
from webapp.weights.convert.plan import BIN_TYPES, CONVERSIONS, GGUF_TYPES

FIELDS = ("model", "strategy", "type", "gguf_type", "name", "lora", "lora_alpha")
NAME_CHARS = 1000
TYPE_FIELDS = {"bin": "type", "gguf": "gguf_type"}


def read_request(page: PageContext, form: Mapping[str, str]) -> ConversionRequest:
    """Uses the first model if none is given. Raises ``conversion_refused`` for an invalid alpha."""
    text = {name: form.get(name, "")[:NAME_CHARS].strip() for name in ConversionRequest.__struct_fields__}
    models, target = convertible(page.manager.library)[0], text["target"] or "st"
    return ConversionRequest(
        model=text["model"] or (models[0] if models else ""),
        target=target,
        name=text["name"],
        strategy=text["strategy"] or page.conversions.strategies()[1] if target == "fast" else "",
        lora=text["lora"],
        lora_alpha=_alpha(text["lora_alpha"], text["lora"]) if text["lora"] else None,
        overwrite=bool(text["overwrite"]),
        type=form.get(TYPE_FIELDS.get(target, ""), "")[:NAME_CHARS].strip(),
    )


def _alpha(text: str, lora: str) -> float | None:
    try:
        alpha = float(text) if text else None
    except ValueError:
        alpha = math.nan
    if alpha is not None and not (math.isfinite(alpha) and 0 < alpha < 1e6):
        target, reason = Text("reason.common.merged_model"), Text("reason.web.alpha_not_positive")
        raise ConversionError.refused(lora, target, reason, Text("reason.web.usual_alpha"))
    return alpha


def convertible(library: ModelLibrary) -> tuple[list[str], list[str]]:
    """Names of models and of LoRAs, without files that were converted for one strategy."""
    models, loras = [], []
    formats = {name for conversion in CONVERSIONS.values() for name in conversion.formats_in}
    for entry in library.list():
        found = entry.inspection
        if found is None or found.format not in formats:
            continue
        if found.kind == "lora":
            loras.append(entry.name)
        elif found.config is not None and found.converted_strategy is None:
            models.append(entry.name)
    return models, loras


def conversion_page(page: PageContext, form: Mapping[str, str], refusal: RoostError | None = None) -> Values:
    """``refusal``: the error of the last submission."""
    t = page.t
    models, loras = convertible(page.manager.library)
    given = {name: form.get(name, "")[:NAME_CHARS] for name in ("target", *FIELDS)}
    if given["model"] in loras:  # the models page sends a LoRA here to be merged
        given["lora"], given["model"] = given["model"], ""
    plan = plan_note(page, {**form, **given})
    if refusal is not None:
        title, text = page.explain(without_folders(refusal))
        plan |= {"kind": "bad", "title": title, "text": text}
    given["model"] = given["model"] if given["model"] in models else ""
    given["strategy"] = given["strategy"] or page.conversions.strategies()[1]
    return {
        "page_title": t("conversion.title"),
        "models_url": url_for("models.index"),
        "models": [Choice(name, name) for name in models],
        "loras": [Choice("", t("conversion.no_lora")), *(Choice(name, name) for name in loras)],
        "targets": [
            {"value": name, "label": t(f"conversion.target.{name}.label"), "text": t(f"conversion.target.{name}.text")}
            for name in CONVERSIONS
        ],
        "strategies": page.conversions.strategies(),
        "types": [Choice(name, name.upper()) for name in BIN_TYPES],
        "gguf_types": [Choice(name, name.upper()) for name in GGUF_TYPES],
        "target": given["target"] if given["target"] in CONVERSIONS else "st",
        "overwrite": bool(form.get("overwrite")),
        "plan": plan,
        "jobs": job_list(page, KIND),
        **{name: page.field(f"conversion.field.{name}", given[name]) for name in FIELDS},
    }


def plan_note(page: PageContext, form: Mapping[str, str]) -> Values:
    """The effect of the current form. ``kind``: warn, bad or "". ``usual_name``: the default name."""
    t = page.t
    try:
        request = read_request(page, form)
        if not request.model:
            return {"kind": "", "title": t("conversion.no_models"), "text": t("conversion.no_models_hint")}
        ready = page.conversions.check(request)
        free = free_bytes(ready.target_path.parent)
        check_free(ready.target_path.parent, ready.planned_bytes)
    except RoostError as exc:
        title, text = page.explain(without_folders(exc))
        return {"kind": "bad", "title": title, "text": text}
    needed = size_text(ready.planned_bytes)
    found = {
        "kind": "",
        "title": t("conversion.plan", name=ready.name, needed=needed, free=size_text(free)),
        "text": t("conversion.state_kept") if _has_state(page, request.model) else "",
        "usual_name": ready.target_path.name,
        "is_name_taken": ready.is_name_taken,
        "overwrite": request.overwrite,
    }
    if ready.is_name_taken and not request.overwrite:
        found |= {"kind": "warn", "text": t("conversion.taken")}
    return found


@describes(KIND)
def _describe_job(page: PageContext, job: Job) -> Values:
    t, about = page.t, job.details
    facts = [about["model"], t(f"conversion.target.{about['target']}.label"), about["strategy"], about["lora"]]
    actions = []
    if job.status == DONE:
        facts += [size_text(about["size_bytes"]), t("conversion.seconds", seconds=f"{about['seconds']:.0f}")]
    if job.status == DONE and Path(about["path"]).exists():
        load_url, preset_url = (url_for(f"conversion.{name}", job_id=job.id) for name in ("load", "preset"))
        actions = [
            {"url": load_url, "label": t("conversion.load"), "icon": "power", "is_main": True},
            {"url": preset_url, "label": t("conversion.make_preset"), "icon": "sliders-horizontal"},
        ]
    word = t(f"conversion.phase.{job.phase}") if job.phase else t("conversion.starting")
    return {"facts": [fact for fact in facts if fact], "word": word, "actions": actions}


def _has_state(page: PageContext, model: str) -> bool:
    found = page.manager.library.entry(model).inspection
    return found is not None and found.has_time_state


blueprint = Blueprint("conversion", __name__, url_prefix="/convert")


@blueprint.get("")
def index() -> Response:
    """``model``, ``target`` and the other fields may be given."""
    return render_page("conversion/page.html", conversion_page(current_page(), request.args))


@blueprint.get("/plan")
def plan() -> Response | BaseResponse:
    """The effect of the current form."""
    if not wants_fragment():
        return redirect(url_for("conversion.index"), 303)
    return render_page("conversion/_plan.html", {"plan": plan_note(current_page(), request.args)})


@blueprint.post("")
def start() -> Response | BaseResponse:
    page = current_page()
    try:
        page.conversions.start(read_request(page, request.form))
    except RoostError as exc:
        status = 409 if exc.code == "conversion_target_exists" else 422
        return render_page("conversion/page.html", conversion_page(page, request.form, exc), status=status)
    return redirect(url_for("conversion.index", model=request.form.get("model", "")[:1000], _anchor="jobs"), 303)


@blueprint.post("/<job_id>/load")
def load(job_id: str) -> Response | BaseResponse:
    """Starts a load; the models page shows its progress."""
    job = finished(job_id)
    current_page().manager.load(model=job.title, strategy=job.details["strategy"] or None)
    return redirect(url_for("models.index"), 303)


@blueprint.post("/<job_id>/preset")
def preset(job_id: str) -> Response | BaseResponse:
    """Creates a preset of the new file with its strategy, and opens it."""
    job = finished(job_id)
    values = {"model": job.title, **({"strategy": job.details["strategy"]} if job.details["strategy"] else {})}
    return redirect(f"/presets/{current_page().presets.create(Path(job.title).stem, values).id}", 303)


def finished(job_id: str) -> Job:
    job = current_page().jobs.job(job_id)
    if job.kind != KIND or job.status != DONE:
        raise RoostError("job_not_found")
    return job
