"""The page "Measure this machine": the speed bench as a job, and charts of its history.

Charts are SVG with coordinates computed here: a bar per number of simultaneous answers, a line over the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.engine.options import AUTOMATIC
from webapp.engine.registry import suggestions
from webapp.errors import RoostError
from webapp.services.bench.measurements import KIND, PLANS
from webapp.services.jobs import DONE, Job
from webapp.services.presets.fields import STRATEGY_CHARS
from webapp.storage.bench import Measurement
from webapp.web.jobs import describes, job_list, without_folders
from webapp.web.kit import page as kit
from webapp.web.presets.builder import machine_facts

NAME_CHARS = 1000
WIDTH, BAR_HEIGHT, ROW_HEIGHT = 320, 14, 34
LINE_HEIGHT, LINE_TOP = 96, 20
MAX_POINTS = 24

blueprint = Blueprint("measure", __name__, url_prefix="/measure")


@blueprint.get("")
def index() -> Response:
    """As a fragment, only the results."""
    page = kit.current_page()
    if kit.wants_fragment():
        return kit.render_page("measure/_results.html", {"results": results(page)})
    return kit.render_page("measure/page.html", measure_page(page))


@blueprint.post("")
def start() -> Response | BaseResponse:
    """``model``, ``strategy`` and ``plan``."""
    page = kit.current_page()
    form = {name: request.form.get(name, "").strip() for name in ("model", "strategy", "plan")}
    form["plan"] = form["plan"] if form["plan"] in PLANS else "quick"
    try:
        page.measurements.start(form["model"][:NAME_CHARS], form["strategy"][:STRATEGY_CHARS], form["plan"])
    except RoostError as exc:
        return kit.render_page("measure/page.html", measure_page(kit.fresh_page(), form, exc), status=422)
    return redirect(url_for("measure.index", _anchor="jobs"), 303)


@blueprint.post("/<measurement_id>/delete")
def delete(measurement_id: str) -> BaseResponse:
    kit.current_page().measurements.delete(measurement_id)
    return redirect(url_for("measure.index", _anchor="results"), 303)


def measure_page(
    page: kit.PageContext, form: kit.Values | None = None, refusal: RoostError | None = None
) -> kit.Values:
    library = page.manager.library
    entries = [
        entry for entry in library.list() if entry.inspection is not None and entry.inspection.config is not None
    ]
    given = form or {"model": page.status.model, "strategy": AUTOMATIC, "plan": "quick"}
    chosen = next((entry for entry in entries if entry.name == given["model"]), entries[0] if entries else None)
    message, hint = page.explain(without_folders(refusal)) if refusal else ("", "")
    suggested = suggestions(chosen.inspection) if chosen and chosen.inspection else []
    return {
        "page_title": page.t("measure.title"),
        "machine": machine_facts(page),
        "models": [kit.Choice(entry.name, entry.name) for entry in entries],
        "model": page.field("measure.field.model", chosen.name if chosen else ""),
        "strategy": page.field("measure.field.strategy", given["strategy"]),
        "strategies": [AUTOMATIC, *(one.strategy for one in suggested)],
        "plan": given["plan"],
        "plans": [kit.Choice(name, page.t(f"measure.plan.{name}")) for name in PLANS],
        "error": message,
        "error_code": refusal.code if refusal else "",
        "hint": hint,
        "jobs": job_list(page, KIND),
        "results": results(page),
    }


def results(page: kit.PageContext) -> kit.Values:
    """A group per model and strategy, the newest measurement first. ``is_busy``: the page should ask again soon."""
    history = page.measurements.history()
    order = list(dict.fromkeys(map(_group_of, history)))
    ordered = sorted(history, key=lambda one: order.index(_group_of(one)))
    groups = [_group(page, list(found)) for _, found in groupby(ordered, _group_of)]
    return {"groups": groups, "is_busy": job_list(page, KIND)["is_busy"]}


def _group_of(one: Measurement) -> tuple[str, int, str]:
    model = one.document["model"]
    return model["name"], model["file_bytes"], model["strategy"]


def _group(page: kit.PageContext, found: Sequence[Measurement]) -> kit.Values:
    """``found``: for one model and strategy, newest first."""
    newest, t = found[0].document, page.t
    share = newest["bandwidth"] or {}
    facts = [t("measure.fact.load", seconds=f"{newest['load_s']:.2f}")]
    facts.append(t("measure.fact.first", cold=kit.rate_text(newest["first_token"]["cold_ms"]), warm=_warm(newest)))
    facts += [
        t("measure.fact.read", count=row["tokens"], rate=kit.rate_text(row["tokens_per_s"]))
        for row in newest["prefill"]
    ]
    if newest["engine_peak_mb"]:
        facts.append(t("measure.fact.memory", size=f"{newest['engine_peak_mb']:.0f} MB"))
    if share.get("share_of_one_answer"):
        per_cent = f"{100 * share['share_of_one_answer']:.0f}"
        facts.append(t("measure.fact.bandwidth", per_cent=per_cent, rate=share["gb_per_s"]))
    return {
        "model": newest["model"]["name"],
        "strategy": newest["model"]["strategy"],
        "facts": facts,
        "bars": bars(page, newest["runs"]),
        "line": line(page, found),
        "rows": [_row(page, one) for one in found],
    }


def _row(page: kit.PageContext, one: Measurement) -> kit.Values:
    runs = one.document["runs"]
    best = max(runs, key=lambda run: run["decode_tokens_per_s"], default=None)
    alone = _alone(one)
    load, cores = one.document["machine"]["load"][0], one.document["machine"]["cores"]
    return {
        "id": one.id,
        "at": kit.moment_text(one.measured_at),
        "alone": kit.rate_text(alone) if alone else "–",
        "best": page.t("measure.at_once", rate=kit.rate_text(best["decode_tokens_per_s"]), count=best["sequences"])
        if best
        else "–",
        "first": page.t("measure.milliseconds", number=_warm(one.document)),
        "load": page.t("measure.load", load=f"{load:.1f}", count=cores),
        "delete_url": url_for("measure.delete", measurement_id=one.id),
    }


def _warm(document: kit.Values) -> str:
    return kit.rate_text(document["first_token"]["warm_ms"])


def _alone(one: Measurement) -> float | None:
    return next((run["decode_tokens_per_s"] for run in one.document["runs"] if run["sequences"] == 1), None)


def bars(page: kit.PageContext, runs: Sequence[kit.Values]) -> kit.Values | None:
    """One per number of simultaneous answers: its median, and the range from the slowest to the fastest run."""
    if not runs:
        return None
    most = max(run["spread"]["decode_tokens_per_s"][1] for run in runs) or 1.0
    scale = WIDTH / most
    rows = []
    for number, run in enumerate(runs):
        rate, (low, high) = run["decode_tokens_per_s"], run["spread"]["decode_tokens_per_s"]
        top = number * ROW_HEIGHT
        rows.append(
            {
                "label": page.t("measure.answers", count=run["sequences"]),
                "value": page.t("unit.tokens_per_s", rate=kit.rate_text(rate)),
                "text_y": top + 12,
                "y": top + 17,
                "middle": top + 17 + BAR_HEIGHT / 2,
                "width": round(max(1.0, rate * scale), 1),
                "low": round(low * scale, 1),
                "high": round(min(high * scale, WIDTH - 1), 1),
            }
        )
    return {"width": WIDTH, "height": len(runs) * ROW_HEIGHT, "bar": BAR_HEIGHT, "rows": rows}


def line(page: kit.PageContext, found: Sequence[Measurement]) -> kit.Values | None:
    """Tokens/s of a single answer over the measurements, oldest on the left; None if there are fewer than two."""
    known = [(one, rate) for one in reversed(found[:MAX_POINTS]) if (rate := _alone(one))]
    if len(known) < 2:
        return None
    most = max(rate for _, rate in known)
    step = (WIDTH - 12) / (len(known) - 1)
    points = [
        {
            "x": round(6 + number * step, 1),
            "y": round(LINE_TOP + (LINE_HEIGHT - LINE_TOP) * (1 - rate / most), 1),
            "title": f"{kit.moment_text(one.measured_at)}: {page.t('unit.tokens_per_s', rate=kit.rate_text(rate))}",
        }
        for number, (one, rate) in enumerate(known)
    ]
    return {
        "width": WIDTH,
        "height": LINE_HEIGHT + 20,
        "floor": LINE_HEIGHT,
        "top": LINE_TOP,
        "most": page.t("unit.tokens_per_s", rate=kit.rate_text(most)),
        "first": kit.moment_text(known[0][0].measured_at)[:10],
        "last": kit.moment_text(known[-1][0].measured_at)[:10],
        "points": points,
        "path": " ".join(f"{point['x']},{point['y']}" for point in points),
    }


@describes(KIND)
def _describe(page: kit.PageContext, job: Job) -> kit.Values:
    t, about = page.t, job.details
    facts = [about["strategy"], t(f"measure.plan.{about['plan']}")]
    word = t(f"measure.phase.{job.phase}") if job.phase else ""
    action = {"url": url_for("measure.index", _anchor="results"), "label": t("measure.show"), "icon": "gauge"}
    return {"facts": facts, "word": word, "actions": [{**action, "is_link": True}] if job.status == DONE else []}
