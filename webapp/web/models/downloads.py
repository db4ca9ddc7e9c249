"""Downloads on the Models page: published models and whether they fit, a hub's repositories by name, the choice of hub.

Viewing a page contacts no host; each button names the host that it contacts.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import size_text
from webapp.manager.library import STATES
from webapp.services.downloads.catalogue import FAMILIES, KnownModel, as_inspected, best, fitting, known_models
from webapp.services.downloads.downloads import KIND
from webapp.services.downloads.hubs import AUTOMATIC, HubFile
from webapp.services.jobs import DONE, Job
from webapp.services.library.placing import free_bytes
from webapp.services.strategy import strategy_on_load
from webapp.web.jobs import describes, time_text
from webapp.web.kit.page import Choice, PageContext, Values, current_page, fresh_page, refused_status, render_page

blueprint = Blueprint("downloads", __name__, url_prefix="/downloads")
TEXT_CHARS = 2000
ASSUMED_BYTES_PER_S = 10e6
"""For a first estimate of the time; the speed of the last download is better."""


# actions


@blueprint.post("")
def start() -> Response | BaseResponse:
    """``name`` of a published model, a URL or OWNER/REPOSITORY/FILE; or ``repo`` and ``file`` of ``hub``. ``folder`` is
    1 if it is a model of several files, whose list is then requested again."""
    page = current_page()
    form = {key: request.form.get(key, "")[:TEXT_CHARS].strip() for key in ("name", "hub", "repo", "file", "sha256")}
    try:
        downloads = page.downloads
        if form["repo"]:
            file = HubFile(form["file"], _number(request.form.get("size", "")), form["sha256"])
            is_folder = request.form.get("folder") == "1"
            source = (
                downloads.of_folder(form["repo"], form["file"], form["hub"])
                if is_folder
                else downloads.of_repository(form["repo"], file, form["hub"])
            )
        else:
            source = downloads.named(form["name"])
        downloads.start(source)
    except RoostError as exc:
        return _refused(exc, {"address": form["name"], **form})
    return redirect(url_for("models.index", _anchor="jobs"), 303)


@blueprint.post("/look")
def look() -> Response | BaseResponse:
    """Lists the files of ``repo`` on ``hub``."""
    page = current_page()
    hub, repo = request.form.get("hub", "")[:100], request.form.get("repo", "")[:TEXT_CHARS].strip()
    try:
        found = page.downloads.hubs.look(hub, repo)
    except RoostError as exc:
        return _refused(exc, {"hub": hub, "repo": repo})
    return _page({"hub": hub, "repo": repo, "files": found})


@blueprint.post("/hub")
def choose_hub() -> Response | BaseResponse:
    """``choice``: the hub. ``token``, if not empty, is stored for ``hub``; ``forget`` deletes it."""
    hubs = current_page().downloads.hubs
    token, hub = request.form.get("token", "").strip(), request.form.get("hub", "")[:100]
    try:
        hubs.choose(request.form.get("choice", AUTOMATIC)[:100])
        if token or request.form.get("forget"):
            hubs.set_token(hub, "" if request.form.get("forget") else token)
    except RoostError as exc:
        return _refused(exc, {})
    return redirect(url_for("models.index", _anchor="known"), 303)


@blueprint.post("/catalogue")
def refresh() -> Response | BaseResponse:
    """Downloads the list of published models from the host in the settings."""
    try:
        current_page().downloads.refresh_catalogue()
    except RoostError as exc:
        return _refused(exc, {})
    return redirect(url_for("models.index", _anchor="known"), 303)


@blueprint.post("/<job_id>/use")
def use(job_id: str) -> Response | BaseResponse:
    """Creates a preset for the downloaded model, loads it and opens the chat; for a state, opens its page."""
    page = current_page()
    job = page.jobs.job(job_id)
    if job.kind != KIND or job.status != DONE:
        raise RoostError("job_not_found")
    model = str(job.details["model"])
    library = page.manager.library
    if model.startswith(f"{STATES}/"):
        return redirect(url_for("states.details", name=model.removeprefix(f"{STATES}/")), 303)
    made = next((preset for preset in page.presets.list() if preset.model == model), None)
    if made is None:
        strategy = strategy_on_load(library, model, page.status.strategy)
        values = {"model": model, **({"strategy": strategy} if strategy else {})}
        made = page.presets.create(Path(model).stem[:60], values)
    page.presets.apply(made.id)
    return redirect("/", 303)


# page content


def known_section(page: PageContext, form: Values | None = None) -> Values:
    """The section of published models. ``form``: the last submission, with ``error`` if it was refused, and the
    ``files`` of a listed repository."""
    form, hubs = form or {}, page.downloads.hubs
    hosts = [urlsplit(hub.url).netloc for hub in hubs.order()]
    named = [Choice(hub.name, hub.host) for hub in hubs.all]
    return {
        "hosts": page.t("downloads.or").join(hosts),
        "host": hosts[0],
        "best": best_offer(page),
        "families": _families(page),
        "hubs": named,
        "hub": form.get("hub") or hubs.order()[0].name,
        "choices": [
            Choice(AUTOMATIC, page.t("downloads.automatic", hosts=", ".join(hosts)))
            if hubs.choice == AUTOMATIC
            else Choice(AUTOMATIC, page.t("downloads.automatic_short")),
            *named,
        ],
        "choice": hubs.choice,
        "catalogue_host": page.downloads.catalogue_host,
        "with_token": [hub.host for hub in hubs.all if hubs.has_token(hub.name)],
        "repo": form.get("repo", ""),
        "address": form.get("address", ""),
        "error": form.get("error", ""),
        "error_code": form.get("error_code", ""),
        "files": [
            {
                "path": file.path,
                "shown": file.path or form.get("repo", ""),
                "is_folder": bool(file.members),
                "facts": page.t("downloads.folder_facts", count=len(file.members)) if file.members else "",
                "size": size_text(file.size_bytes),
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "is_here": (file.path or form.get("repo", "")).rpartition("/")[2] in _names_here(page),
            }
            for file in form.get("files", ())
        ],
        "has_looked": "files" in form,
    }


def best_offer(page: PageContext) -> Values | None:
    """The best published model for this machine, with size and time; None if none fits or it is already here, as a file
    or a folder."""
    model, here = best(page.hardware, free_bytes(page.settings.models_dir), page.engine_bytes), _names_here(page)
    if model is None or any(_file_name(one) in here for one in known_models() if one.is_twin_of(model)):
        return None
    speed, found = ASSUMED_BYTES_PER_S, fitting(model, page.hardware, page.engine_bytes)
    return {
        "name": model.file,
        "title": page.t("downloads.best.title", parameters=model.parameters),
        "size": size_text(model.size_bytes),
        "time": time_text(page, model.size_bytes / speed),
        "speed": size_text(speed),
        "host": urlsplit(page.downloads.hubs.order()[0].url).netloc,
        "fit": page.t("downloads.best.fit", strategy=found.strategy, needed=size_text(found.needed_bytes)),
        "is_coming": any(job.details.get("name") == _file_name(model) for job in _unfinished(page)),
    }


def _families(page: PageContext) -> list[Values]:
    """By family, with the requirements of each model. ``is_here``: the library has a file with this name."""
    here, chosen = _names_here(page), best(page.hardware, free_bytes(page.settings.models_dir), page.engine_bytes)
    coming = {job.details.get("name") for job in _unfinished(page)}
    found = []
    for family in FAMILIES:
        models = sorted((one for one in known_models() if one.family == family), key=lambda one: one != chosen)
        rows = [
            _row(page, model, _file_name(model) in here, _file_name(model) in coming, model == chosen)
            for model in models
        ]
        found.append(
            {"title": page.t(f"models.family.{family}"), "text": page.t(f"models.about.{family}"), "rows": rows}
        )
    return found


def _file_name(model: KnownModel) -> str:
    return model.file.rpartition("/")[2]


def _row(page: PageContext, model: KnownModel, is_here: bool, is_coming: bool, is_best: bool) -> Values:
    t = page.t
    licence = t("models.licence", licence=model.licence) if model.licence else t("models.licence_unknown")
    return {
        "name": model.file,
        "facts": [
            t("unit.parameters", number=model.parameters),
            size_text(model.size_bytes),
            model.published,
            licence,
            *([t("downloads.folder")] if model.is_folder else [] if model.sha256 else [t("downloads.no_checksum")]),
        ],
        "uses": [t(f"models.good_for.{use}") for use in model.good_for],
        "hint": "" if model.family == "states" else _fit_text(page, model),
        "is_too_large": model.family != "states" and not fitting(model, page.hardware, page.engine_bytes).is_fitting,
        "page": model.page,
        "is_here": is_here,
        "is_coming": is_coming,
        "is_best": is_best,
    }


def _fit_text(page: PageContext, model: KnownModel) -> str:
    found = fitting(model, page.hardware, page.engine_bytes)
    words = {"strategy": found.strategy, "needed": size_text(found.needed_bytes or model.size_bytes)}
    if not found.is_fitting:
        return str(page.t("models.hint.too_large", **words))
    speed = page.speed_here(as_inspected(model), found.strategy)
    return " · ".join(filter(None, [page.t("models.hint.runs", **words), speed]))


def _names_here(page: PageContext) -> set[str]:
    return {file.path.name for file in page.manager.library.files()}


def _unfinished(page: PageContext) -> list[Job]:
    return [job for job in page.jobs.jobs(KIND) if not job.is_over]


@describes(KIND)
def _describe(page: PageContext, job: Job) -> Values:
    t, about = page.t, job.details
    word = t(f"downloads.phase.{job.phase}") if job.phase else ""
    facts = [t("downloads.from", host=about.get("host", ""))]
    if job.status != DONE or "model" not in about:
        return {"facts": facts, "word": word}
    facts += [size_text(about["size_bytes"])]
    facts += [t("downloads.checked", digest=about["sha256"][:12]) if about["sha256"] else t("downloads.no_checksum")]
    url = url_for("models.downloads.use", job_id=job.id)
    is_here = (page.manager.library.models_dir / about["model"]).exists()
    action = {"url": url, "label": t("downloads.use"), "icon": "power", "is_main": True}
    return {"facts": facts, "word": word, "actions": [action] if is_here else []}


def _refused(exc: RoostError, form: Values) -> Response:
    page = fresh_page()
    return _page({**form, "error": page.sentences(exc), "error_code": exc.code}, refused_status(exc))


def _page(form: Values, status: int = 200) -> Response:
    from webapp.web.models.views import Filter, models_page  # circular import: that page includes this section

    return render_page("models/page.html", models_page(current_page(), Filter(), known=form), status=status)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
