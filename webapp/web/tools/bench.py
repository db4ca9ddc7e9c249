"""The pages of the tool bench, below those of tools: the form of a run, past runs, the cases, and one run with every
answer. htmx updates a running bench; the pages also work without it.

The values of the view functions are template variables. :class:`Bench` adds the tool bench's data to the context.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from msgspec import Struct
from werkzeug.wrappers import Response as BaseResponse

from webapp.chat.tool_dialects import all_dialects
from webapp.errors import BenchCaseInvalid, BenchRefused, GrammarInvalid, ModelError, RoostError, error_from_dict
from webapp.services.bench.tool_bench import (
    GREEDY,
    KIND,
    MAX_TOKENS,
    MODES,
    NO_CALL,
    OTHER,
    Answer,
    BenchRequest,
    Confusion,
    ModeReport,
    document,
    generated_cases,
    is_right,
    reports,
    wrong_first,
)
from webapp.services.chat.tool_loop import is_known_to_call
from webapp.services.jobs import Job
from webapp.services.presets.presets import TOOLS
from webapp.storage.bench import DONE, STOPPED, StoredCase, StoredRun
from webapp.tools.bench import (
    FIGURES,
    MAX_PROMPT_CHARS,
    BenchCase,
    ExpectedCall,
    arguments_from_text,
    call_to_dict,
    calls_from_text,
    cases_from_lines,
    cases_to_lines,
    checked,
)
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import ToolDefinition
from webapp.web.jobs import describes
from webapp.web.kit import page as kit

blueprint = Blueprint("bench", __name__, url_prefix="/bench")
MOMENT = re.compile(r"\d{1,12}\.\d{1,9}")
"""When cases were deleted, in seconds since 1970: what an undo of all of them names."""
MAX_IMPORT_CHARS = 5_000_000
FORM_BYTES = 8 << 20
TOASTS = ("added", "changed", "deleted", "cleared", "restored", "made", "imported", "run_deleted")
AS_CHATS = "chat"
SEVERAL = "*"
ARGUMENT_CHARS = 100_000
MAX_PER_TOOL = 20
LARGEST_SEED = 2**31 - 1
PER_TOOL, SEED = 3, 0
COMPARED = ("decision", "name", "arguments")
ANSWERS_ON_A_PAGE = 60


class Bench:
    """The tool bench of one request."""

    def __init__(self, page: kit.PageContext) -> None:
        self.page, self.t = page, page.t
        self.bench = page.tool_bench
        self.store = self.bench.store

    def definitions(self) -> tuple[ToolDefinition, ...]:
        """The tools of the Tools page; if there are none, Roost's built-in ones."""
        kept = tuple(stored.definition for stored in self.page.tools.list())
        return kept or tuple(row.definition for row in BUILTINS.values())

    def cases(self) -> tuple[BenchCase, ...]:
        return tuple(stored.case for stored in self.store.cases())

    def request(self, names: frozenset[str], mode: str, dialect: str, sampling: str) -> BenchRequest:
        functions = tuple(row.function for row in self.definitions() if row.name in names)
        modes = (mode,) if mode in MODES else MODES
        params = GREEDY
        if sampling == AS_CHATS:
            presets, info = self.page.presets, self.page.manager.model_info()
            params = presets.sampling(presets.active(), {"max_tokens": MAX_TOKENS}, info, TOOLS)
        return BenchRequest(functions, self.cases(), modes, dialect, params)

    def knows_to_call(self) -> bool:
        """Whether the chosen model's family was trained on function calling; True if none is chosen."""
        try:
            return is_known_to_call(Path(self.page.manager.model_info().path).name)
        except RoostError:
            return True

    def reason(self, error: RoostError) -> str:
        """Only the error's reason, in the user's language."""
        return self.page.reason(error) if "reason" in error.params else self.page.sentences(error)


def current_bench() -> Bench:
    return Bench(kit.current_page())


# the form of a case


class CaseDraft(Struct, frozen=True):
    """The input of a case's form. ``expect``: a tool's name, "" for no call, "*" for several as JSON."""

    prompt: str = ""
    expect: str = ""
    arguments: str = ""


def draft_of(case: BenchCase) -> CaseDraft:
    if not case.calls:
        return CaseDraft(case.prompt)
    if len(case.calls) == 1:
        [call] = case.calls
        return CaseDraft(case.prompt, call.name, json.dumps(call.arguments, ensure_ascii=False))
    calls = [call_to_dict(call) for call in case.calls]
    return CaseDraft(case.prompt, SEVERAL, json.dumps(calls, ensure_ascii=False, indent=1))


def read_draft(form: Mapping[str, str]) -> CaseDraft:
    """Never raises. Long text keeps one character too many, so that :func:`case_of` refuses it."""
    return CaseDraft(
        form.get("prompt", "").replace("\r\n", "\n")[: MAX_PROMPT_CHARS + 1],
        form.get("expect", "")[:100],
        form.get("arguments", "")[:ARGUMENT_CHARS],
    )


def case_of(draft: CaseDraft) -> BenchCase:
    """Raises BenchCaseInvalid with the invalid field."""
    calls: tuple[ExpectedCall, ...] = ()
    if draft.expect == SEVERAL:
        try:
            calls = calls_from_text(draft.arguments)
        except BenchCaseInvalid as exc:
            raise exc.with_params(field="arguments") from exc
    elif draft.expect:
        calls = (ExpectedCall(draft.expect, arguments_from_text(draft.arguments)),)
    return checked(BenchCase(draft.prompt.strip(), calls))


def read_count(text: str, usual: int, least: int, most: int) -> int:
    """The nearest number in the range; ``usual`` if it is not a number."""
    try:
        return min(max(int(text), least), most)
    except ValueError:
        return usual


# the page of the bench


def bench_page(
    bench: Bench,
    form: Mapping[str, Any] | None = None,
    draft: CaseDraft | None = None,
    error: BenchCaseInvalid | None = None,
    toasts: tuple[kit.Toast, ...] = (),
    **problems: str,
) -> kit.Values:
    """``form``: the submitted run. ``problems``: ``run_problem``, ``problem`` (of making cases), ``import_error`` and
    ``import_text``."""
    t, form = bench.t, form or {}
    running = bench.bench.running
    return {
        "page_title": t("tool_bench.title"),
        "run": _run_form(bench, form, problems.pop("run_problem", "")),
        "running_url": url_for("tools.bench.show_run", run_id=running) if running else "",
        "heads": [t(f"tool_bench.figure.{name}.label") for name in COMPARED],
        "runs": [row for run in bench.store.runs() for row in _run_rows(bench, run)],
        "cases": _case_rows(bench, bench.store.cases()),
        "case": _case_form(bench, draft or CaseDraft(), error=error),
        "make": {name: bench.page.field(f"tool_bench.make.{name}") for name in ("seed", "per_tool")},
        "seed": str(form.get("seed", SEED)),
        "per_tool": str(form.get("per_tool", PER_TOOL)),
        "toasts": toasts,
        **problems,
    }


def case_page(bench: Bench, case_id: str, draft: CaseDraft, error: BenchCaseInvalid | None = None) -> kit.Values:
    form = _case_form(bench, draft, case_id, error)
    return {"page_title": bench.t("tool_bench.case.edit"), "case": form}


def _case_form(bench: Bench, draft: CaseDraft, case_id: str = "", error: BenchCaseInvalid | None = None) -> kit.Values:
    t = bench.t
    names = [row.name for row in bench.definitions()]
    if draft.expect and draft.expect not in (*names, SEVERAL):
        names.append(draft.expect)
    tools = [kit.Choice(name, name) for name in names]
    wrong = str(error.params.get("field", "")) if error is not None else ""
    wrong = "arguments" if wrong == "calls" else wrong  # calls are typed in the field for arguments
    reason = bench.reason(error) if error is not None else ""
    return {
        "fields": {
            name: bench.page.field(f"tool_bench.case.{name}", error=reason if wrong == name else "")
            for name in ("prompt", "expect", "arguments")
        },
        "draft": draft,
        "expectations": [
            kit.Choice("", t("tool_bench.no_call")),
            *tools,
            kit.Choice(SEVERAL, t("tool_bench.case.several")),
        ],
        "action": url_for("tools.bench.change_case", case_id=case_id) if case_id else url_for("tools.bench.add_case"),
        "case_id": case_id,
    }


def _run_form(bench: Bench, form: Mapping[str, Any], problem: str) -> kit.Values:
    t = bench.t
    names = [row.name for row in bench.definitions()]
    dialects = [kit.Choice(row.name, t(f"tools.dialect.{row.name}")) for row in all_dialects()]
    return {
        "tools": [kit.Choice(name, name) for name in names],
        "chosen": frozenset(form.get("tools", names)),
        "are_shipped": not bench.page.tools.list(),
        "mode": str(form.get("mode", "both")),
        "modes": [kit.Choice(name, t(f"tool_bench.mode.{name}")) for name in ("both", *MODES)],
        "dialect": bench.page.field("tool_bench.dialect"),
        "dialects": [kit.Choice("", t("tools.dialect.auto")), *dialects],
        "dialect_value": str(form.get("dialect", "")),
        "sampling": bench.page.field("tool_bench.sampling"),
        "samplings": [kit.Choice(name, t(f"tool_bench.sampling.{name}")) for name in ("greedy", AS_CHATS)],
        "sampling_value": str(form.get("sampling", "greedy")),
        "case_count": t("tool_bench.count", count=len(bench.store.cases())),
        "problem": problem,
        "warning": "" if bench.knows_to_call() else t("tool_bench.unknown_caller"),
    }


def _run_rows(bench: Bench, run: StoredRun) -> list[kit.Values]:
    """One row per mode; a run without answers also has one. ``figures`` are in the order of the head, "" for none."""
    setup, t = run.setup, bench.t
    figures: Mapping[str, Mapping[str, Any]] = setup.get("figures", {})
    return [
        {
            "url": url_for("tools.bench.show_run", run_id=run.id),
            "when": kit.moment_text(run.started_at),
            "model": setup["model"],
            "strategy": setup["strategy"],
            "dialect": t(f"tools.dialect.{setup['dialect']}"),
            "mode": t(f"tool_bench.mode.{mode}"),
            "cases": str(figures.get(mode, {}).get("cases", "")),
            "figures": [_percent(figures.get(mode, {}).get(name)) for name in COMPARED],
            "status": "" if run.status == DONE else t(f"tool_bench.status.{run.status}"),
        }
        for mode in setup["modes"]
    ]


def _case_rows(bench: Bench, cases: list[StoredCase]) -> list[kit.Values]:
    """``is_unavailable``: it expects a tool that does not exist."""
    names = {row.name for row in bench.definitions()}
    no_call = bench.t("tool_bench.no_call")
    return [
        {
            "id": stored.id,
            "prompt": stored.case.prompt,
            "expected": ", ".join(_call_text(call.name, call.arguments) for call in stored.case.calls) or no_call,
            "is_generated": stored.case.is_generated,
            "is_unavailable": not stored.case.tool_names <= names,
        }
        for stored in cases
    ]


# one run


def run_page(bench: Bench, run_id: str, first: int = 0) -> kit.Values:
    """``first``: how many answers to skip."""
    t, run = bench.t, bench.store.run(run_id)
    answers = wrong_first(bench.store.answers(run_id)) if run.is_over else []
    shown, after = answers[first : first + ANSWERS_ON_A_PAGE], first + ANSWERS_ON_A_PAGE
    kind, title, text = _note(bench, run)
    numbers = {"first": first + 1, "last": first + len(shown), "total": len(answers)}
    return {
        "page_title": t("tool_bench.run.title"),
        "run_id": run.id,
        "title": str(run.setup["model"]),
        "facts": _facts(bench, run),
        "note_kind": kind,
        "note_title": title,
        "note_text": text,
        "progress": progress(bench, run),
        "parts": [_mode_part(bench, report) for report in reports(run.setup, answers)],
        "offer": str(run.setup["offer"]),
        "answers": [_answer_row(bench, answer, len(run.setup["modes"]) > 1) for answer in shown],
        "shown": t("tool_bench.run.shown", **numbers) if shown else "",
        "previous_url": _page_url(run_id, first - ANSWERS_ON_A_PAGE) if first > 0 else "",
        "next_url": _page_url(run_id, after) if after < len(answers) else "",
    }


def progress(bench: Bench, run: StoredRun) -> kit.Values:
    """``share`` is in per cent."""
    t, asked = bench.t, max(1, int(run.setup["asked"]))
    right = sum(map(is_right, bench.store.answers(run.id))) if not run.is_over else 0
    return {
        "run_url": url_for("tools.bench.show_run", run_id=run.id),
        "is_running": not run.is_over,
        "shown": t("tool_bench.run.progress", done=run.answers, total=asked),
        "share": round(100 * run.answers / asked, 1),
        "right": t("tool_bench.run.right", right=right, total=run.answers)
        if run.answers
        else t("tool_bench.run.begins"),
    }


@describes(KIND)
def _describe_job(page: kit.PageContext, job: Job) -> kit.Values:
    url = url_for("tools.bench.show_run", run_id=job.details["run_id"])
    link = {"url": url, "label": page.t("action.open"), "icon": "gauge", "is_link": True}
    return {"facts": [page.t("tool_bench.title")], "actions": [link]}


def verdict(answer: Answer) -> str:
    """A key of ``tool_bench.verdict``: the first mistake."""
    score = answer["score"]
    if "error" in answer:
        return "error"
    if not answer["expected"]:
        return "right" if score["decision"] else "called"
    wrong = {
        "decision": "no_call",
        "readable": "unreadable",
        "name": "wrong_name",
        "arguments": "wrong_arguments",
    }
    return next((key for figure, key in wrong.items() if not score[figure]), "right")


def _note(bench: Bench, run: StoredRun) -> tuple[str, str, str]:
    """A note on how the run ended: (kind, title, text), all "" for none."""
    t = bench.t
    if run.error is not None:
        message, hint = bench.page.explain(error_from_dict(dict(run.error)))
        return "bad", message, f"{hint} {t('tool_bench.run.kept')}"
    if run.status == STOPPED:
        return "warn", t("tool_bench.status.stopped"), t("tool_bench.run.kept")
    left_out = int(run.setup.get("left_out", 0))
    return ("warn", t("tool_bench.run.left_out", count=left_out), "") if left_out else ("", "", "")


def _facts(bench: Bench, run: StoredRun) -> list[str]:
    setup, t = run.setup, bench.t
    found = [
        kit.moment_text(run.started_at),
        setup["strategy"],
        setup["state"],
        t(f"tools.dialect.{setup['dialect']}"),
        t("tool_bench.sampling.greedy" if setup["is_greedy"] else "tool_bench.sampling.chat"),
        t("tool_bench.tool_count", count=len(setup["tools"])),
    ]
    return [fact for fact in found if fact]


def _mode_part(bench: Bench, report: ModeReport) -> kit.Values:
    """One mode of a run: its figures, and the table of tools that were confused."""
    t = bench.t
    figures = [
        {
            "label": t(f"tool_bench.figure.{name}.label"),
            "value": _percent(report.shares[name]) or "–",
            "counted": t("tool_bench.of", right=report.counts[name][0], total=report.counts[name][1]),
            "help": t(f"tool_bench.figure.{name}.help"),
        }
        for name in FIGURES
    ]
    called, rows = _table(bench, report.confusion)
    title = t(f"tool_bench.mode.{report.mode}")
    return {"mode": report.mode, "title": title, "figures": figures, "called": called, "rows": rows}


def _table(bench: Bench, found: Confusion) -> tuple[list[str], list[tuple[str, list[kit.Values]]]]:
    """Without tools that were neither expected nor called."""
    seen = {name for pair, count in found.counts.items() if count for name in pair}
    called = [name for name in found.called if name in seen]
    expected = [name for name in found.expected if any(found.count(name, other) for other in found.called)]
    rows = [
        (_name(bench, name), [_cell(bench, name, other, found.count(name, other)) for other in called])
        for name in expected
    ]
    return [_name(bench, name) for name in called], rows


def _cell(bench: Bench, expected: str, called: str, count: int) -> kit.Values:
    if not count:
        return {"shown": "·", "kind": "", "label": bench.t("tool_bench.confusion.none")}
    names = {"expected": _name(bench, expected), "called": _name(bench, called), "times": count}
    kind = "right" if expected == called else "wrong"
    return {"shown": str(count), "kind": kind, "label": bench.t("tool_bench.confusion.cell", **names)}


def _name(bench: Bench, name: str) -> str:
    keys: Mapping[str, str] = {NO_CALL: "tool_bench.no_call", OTHER: "tool_bench.confusion.other"}
    return str(bench.t(keys[name])) if name in keys else name


def _answer_row(bench: Bench, answer: Answer, has_modes: bool) -> kit.Values:
    t = bench.t
    note = t("tool_bench.run.cut") if answer.get("finish_reason") == "length" else ""
    if "error" in answer:
        note = bench.page.sentences(error_from_dict(answer["error"]))
    no_calls = t("tool_bench.verdict.unreadable" if answer["sets_out"] else "tool_bench.no_call")
    return {
        "prompt": answer["prompt"],
        "is_right": is_right(answer),
        "verdict": t(f"tool_bench.verdict.{verdict(answer)}"),
        "mode": t(f"tool_bench.mode.{answer['mode']}") if has_modes else "",
        "expected": _stored_calls(answer["expected"]) or t("tool_bench.no_call"),
        "called": _stored_calls(answer["called"]) or no_calls,
        "sent": answer["sent"],
        "raw": answer.get("raw", ""),
        "note": note,
    }


def _page_url(run_id: str, first: int) -> str:
    return url_for("tools.bench.show_run", run_id=run_id, first=max(0, first), _anchor="answers")


# calls and figures in words


def _call_text(name: str, arguments: object) -> str:
    """``get_weather(city: "Paris")``."""
    pairs = arguments.items() if isinstance(arguments, Mapping) else ()
    return f"{name}({', '.join(f'{key}: {json.dumps(value, ensure_ascii=False)}' for key, value in pairs)})"


def _stored_calls(calls: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(_call_text(call["name"], call["arguments"]) for call in calls)


def _percent(share: float | None) -> str:
    """Empty if nothing was counted."""
    return "" if share is None else f"{100 * share:.1f} %"


# routes


@blueprint.get("")
def index() -> Response:
    bench = current_bench()
    return kit.render_page("tools/bench/page.html", bench_page(bench, toasts=_said_toast(bench)))


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
        return kit.render_page("tools/bench/page.html", page, status=exc.status)
    return redirect(url_for("tools.bench.show_run", run_id=run.id), 303)


@blueprint.get("/runs/<run_id>")
def show_run(run_id: str) -> Response:
    bench = current_bench()
    first = read_count(request.args.get("first", ""), 0, 0, 10_000)
    return kit.render_page("tools/bench/run.html", run_page(bench, run_id, first))


@blueprint.get("/runs/<run_id>/progress")
def show_progress(run_id: str) -> Response | BaseResponse:
    """Requested every second during the run; at the end, reloads the whole page."""
    bench = current_bench()
    if not kit.wants_fragment():
        return redirect(url_for("tools.bench.show_run", run_id=run_id), 303)
    run = bench.store.run(run_id)
    answer = kit.render_page("tools/bench/_progress.html", {"progress": progress(bench, run)})
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
    return kit.download(text, "application/json", f"tool-bench-{run_id[:8]}.json")


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
        return kit.render_page("tools/bench/page.html", page, status=422)
    return _back("added")


@blueprint.get("/cases/<case_id>")
def edit_case(case_id: str) -> Response:
    bench = current_bench()
    return kit.render_page("tools/bench/case.html", case_page(bench, case_id, draft_of(bench.store.case(case_id).case)))


@blueprint.post("/cases/<case_id>")
def change_case(case_id: str) -> Response | BaseResponse:
    bench, draft = current_bench(), read_draft(request.form)
    try:
        bench.store.change_case(case_id, case_of(draft))
    except BenchCaseInvalid as exc:
        return kit.render_page("tools/bench/case.html", case_page(bench, case_id, draft, exc), status=422)
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
    """The undo command of a toast: for one case, or for all that were deleted together."""
    store, wanted = current_bench().store, request.form.get("do", "").removeprefix("restore:")
    if MOMENT.fullmatch(wanted):
        store.restore_cases(float(wanted))
    elif kit.ROW_ID.fullmatch(wanted):
        store.restore_case(wanted)
    else:
        raise RoostError("bench_not_found")
    return _back("restored")


@blueprint.post("/cases/make")
def make() -> Response | BaseResponse:
    """Makes cases from the schemas in the page's language; replaces those made before."""
    bench = current_bench()
    seed = read_count(request.form.get("seed", ""), SEED, 0, LARGEST_SEED)
    per_tool = read_count(request.form.get("per_tool", ""), PER_TOOL, 1, MAX_PER_TOOL)
    functions = [row.function for row in bench.definitions()]
    made = generated_cases(functions, bench.page.locale, seed, per_tool)
    try:
        bench.store.add_cases(made.cases, replaces_generated=True)
    except BenchRefused as exc:
        form = {"seed": seed, "per_tool": per_tool}
        page = bench_page(bench, form, problem=bench.page.sentences(exc))
        return kit.render_page("tools/bench/page.html", page, status=409)
    return _back("made", count=len(made.cases), without=",".join(made.left_out)[:500])


@blueprint.post("/cases/import")
def import_() -> Response | BaseResponse:
    request.max_form_memory_size = FORM_BYTES
    bench, text = current_bench(), kit.posted_text(MAX_IMPORT_CHARS)
    try:
        made = cases_from_lines(text)
        bench.store.add_cases(made)
    except (BenchCaseInvalid, BenchRefused) as exc:
        said = bench.page.sentences(exc) if exc.code == "bench_line_invalid" else bench.reason(exc)
        page = bench_page(bench, import_error=said, import_text=text[:20_000])
        return kit.render_page("tools/bench/page.html", page, status=422)
    return _back("imported", count=len(made))


@blueprint.get("/cases/export")
def export_cases() -> Response:
    return kit.download(cases_to_lines(current_bench().cases()), "application/jsonl", "tool-bench-cases.jsonl")


def _back(said: str, count: int = 0, without: str = "", undo: str = "") -> BaseResponse:
    query: kit.Values = {"said": said, "about": count or None, "without": without or None, "undo": undo or None}
    return redirect(url_for("tools.bench.index", _anchor=None if said == "run_deleted" else "cases", **query), 303)


def _said_toast(bench: Bench) -> tuple[kit.Toast, ...]:
    without, undo = request.args.get("without", "")[:500], request.args.get("undo", "")
    hint = bench.t("tool_bench.said.without", names=without.replace(",", ", ")) if without else ""
    command = f"restore:{undo}" if kit.ROW_ID.fullmatch(undo) or MOMENT.fullmatch(undo) else ""
    return bench.page.done_toast("tool_bench.said", TOASTS, command, hint)
