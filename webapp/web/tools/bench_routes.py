"""Routes of the tool bench, below those of the Tools pages. htmx updates a running bench; all works without it."""

from __future__ import annotations

import json
import re
import uuid
from urllib.parse import urlencode

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import BenchCaseInvalid, BenchRefused, GrammarInvalid, ModelError, RoostError
from webapp.services.bench.reports import document
from webapp.services.bench.tool_bench import made_cases
from webapp.tools.bench import cases_from_lines, cases_to_lines
from webapp.web.kit.page import Toast, download, posted_text, render_page, wants_fragment
from webapp.web.tools.bench_views import (
    LARGEST_SEED,
    MOST_PER_TOOL,
    PER_TOOL,
    SEED,
    Bench,
    bench_page,
    case_of,
    case_page,
    current_bench,
    draft_of,
    progress,
    read_count,
    read_draft,
    run_page,
)

blueprint = Blueprint("bench", __name__, url_prefix="/bench")
ID = r"[0-9a-f]{32}"
MAX_IMPORT_CHARS = 5_000_000
FORM_BYTES = 8 << 20
SAID = ("added", "changed", "deleted", "cleared", "restored", "made", "imported", "run_deleted")


@blueprint.get("")
def index() -> Response:
    bench = current_bench()
    return render_page("tools/bench/page.html", bench_page(bench, toasts=_said_toast(bench)))


@blueprint.post("/runs")
def start() -> Response | BaseResponse:
    bench = current_bench()
    asked = {name: request.form.get(name, "")[:100] for name in ("mode", "dialect", "sampling")}
    tools = frozenset(request.form.getlist("tool")[:500])
    try:
        run = bench.bench.start(bench.request(tools, asked["mode"], asked["dialect"], asked["sampling"]))
    except (BenchRefused, GrammarInvalid, ModelError) as exc:
        refused = bench.page.explain(exc)
        page = bench_page(bench, {**asked, "tools": tools}, run_problem=" ".join(refused))
        return render_page("tools/bench/page.html", page, status=exc.status)
    return redirect(url_for("tools.bench.show_run", run_id=run.id), 303)


@blueprint.get("/runs/<run_id>")
def show_run(run_id: str) -> Response:
    bench = current_bench()
    first = read_count(request.args.get("first", ""), 0, 0, 10_000)
    return render_page("tools/bench/run.html", run_page(bench, run_id, first))


@blueprint.get("/runs/<run_id>/progress")
def show_progress(run_id: str) -> Response | BaseResponse:
    """Asked every second while it runs; the end brings the whole page."""
    bench = current_bench()
    if not wants_fragment():
        return redirect(url_for("tools.bench.show_run", run_id=run_id), 303)
    run = bench.store.run(run_id)
    answer = render_page("tools/bench/_progress.html", {"progress": progress(bench, run), "run_id": run_id})
    if run.is_over:
        answer.headers["HX-Refresh"] = "true"
    return answer


@blueprint.post("/runs/<run_id>/stop")
def stop(run_id: str) -> BaseResponse:
    bench = current_bench()
    bench.bench.stop(run_id)
    bench.bench.wait(2.0)
    return redirect(url_for("tools.bench.show_run", run_id=run_id), 303)


@blueprint.get("/runs/<run_id>/export")
def export_run(run_id: str) -> Response:
    """Setup, figures, confusions and every answer, as `roost bench tools` prints them."""
    store = current_bench().store
    run = store.run(run_id)
    text = json.dumps(document(run.setup, store.answers(run_id), run.error), ensure_ascii=False, indent=1)
    return download(text, "application/json", f"tool-bench-{run_id[:8]}.json")


@blueprint.post("/runs/<run_id>/delete")
def delete_run(run_id: str) -> BaseResponse:
    bench = current_bench()
    if bench.bench.running == run_id:
        bench.bench.stop(run_id)
    bench.store.delete_run(run_id)
    return _back("run_deleted")


@blueprint.post("/cases")
def add_case() -> Response | BaseResponse:
    bench, draft = current_bench(), read_draft(request.form)
    try:
        bench.store.add_cases([case_of(draft)])
    except (BenchCaseInvalid, BenchRefused) as exc:
        error = exc if isinstance(exc, BenchCaseInvalid) else BenchCaseInvalid(field="prompt", **exc.params)
        page = bench_page(bench, draft=draft, error=error)
        return render_page("tools/bench/page.html", page, status=422)
    return _back("added")


@blueprint.get("/cases/<case_id>")
def edit_case(case_id: str) -> Response:
    bench = current_bench()
    return render_page("tools/bench/case.html", case_page(bench, case_id, draft_of(bench.store.case(case_id).case)))


@blueprint.post("/cases/<case_id>")
def change_case(case_id: str) -> Response | BaseResponse:
    bench, draft = current_bench(), read_draft(request.form)
    try:
        bench.store.change_case(case_id, case_of(draft))
    except BenchCaseInvalid as exc:
        return render_page("tools/bench/case.html", case_page(bench, case_id, draft, exc), status=422)
    return _back("changed")


@blueprint.post("/cases/<case_id>/delete")
def delete_case(case_id: str) -> BaseResponse:
    current_bench().store.delete_case(case_id)
    return _back("deleted", undo=case_id)


@blueprint.post("/cases/clear")
def clear_cases() -> BaseResponse:
    return _back("cleared", undo=repr(current_bench().store.delete_cases()))


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo of a toast: one case, or all that were deleted at a moment."""
    store, wanted = current_bench().store, request.form.get("do", "").removeprefix("restore:")
    if re.fullmatch(r"\d{1,12}\.\d{1,9}", wanted):
        store.restore_cases(float(wanted))
    elif re.fullmatch(ID, wanted):
        store.restore_case(wanted)
    else:
        raise RoostError("bench_not_found")
    return _back("restored")


@blueprint.post("/cases/make")
def make() -> Response | BaseResponse:
    """Cases from the schemas, in the page's language, in place of those made before."""
    bench = current_bench()
    seed = read_count(request.form.get("seed", ""), SEED, 0, LARGEST_SEED)
    per_tool = read_count(request.form.get("per_tool", ""), PER_TOOL, 1, MOST_PER_TOOL)
    functions = [row.function for row in bench.definitions()]
    made = made_cases(functions, bench.page.locale, seed, per_tool)
    try:
        bench.store.add_cases(made.cases, replaces_generated=True)
    except BenchRefused as exc:
        form = {"seed": seed, "per_tool": per_tool}
        page = bench_page(bench, form, problem=bench.page.sentences(exc))
        return render_page("tools/bench/page.html", page, status=409)
    return _back("made", count=len(made.cases), without=",".join(made.left_out)[:500])


@blueprint.post("/cases/import")
def import_() -> Response | BaseResponse:
    request.max_form_memory_size = FORM_BYTES
    bench, text = current_bench(), posted_text(MAX_IMPORT_CHARS)
    try:
        made = cases_from_lines(text)
        bench.store.add_cases(made)
    except (BenchCaseInvalid, BenchRefused) as exc:
        said = bench.page.sentences(exc) if exc.code == "bench_line_invalid" else bench.reason(exc)
        page = bench_page(bench, import_error=said, import_text=text[:20_000])
        return render_page("tools/bench/page.html", page, status=422)
    return _back("imported", count=len(made))


@blueprint.get("/cases/export")
def export_cases() -> Response:
    return download(cases_to_lines(current_bench().cases()), "application/jsonl", "tool-bench-cases.jsonl")


def _back(said: str, count: int = 0, without: str = "", undo: str = "") -> BaseResponse:
    about = {name: str(value) for name, value in (("count", count), ("without", without), ("undo", undo)) if value}
    anchor = "" if said == "run_deleted" else "cases"
    return redirect(f"{url_for('tools.bench.index')}?{urlencode({'said': said, **about})}#{anchor}", 303)


def _said_toast(bench: Bench) -> tuple[Toast, ...]:
    said, t = request.args.get("said", ""), bench.t
    if said not in SAID:
        return ()
    count = read_count(request.args.get("count", ""), 0, 0, 10_000)
    without = request.args.get("without", "")[:500]
    hint = t("tool_bench.said.without", names=without.replace(",", ", ")) if without else ""
    undo = request.args.get("undo", "")
    command = f"restore:{undo}" if re.fullmatch(rf"{ID}|\d{{1,12}}\.\d{{1,9}}", undo) else ""
    return (Toast(uuid.uuid4().hex[:8], t(f"tool_bench.said.{said}", count=count), hint, command),)
