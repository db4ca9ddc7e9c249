"""The page of the tool bench: what to run, the runs there were, the cases."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flask import url_for

from webapp.chat.tool_dialects import all_dialects
from webapp.errors import BenchCaseInvalid
from webapp.services.bench.order import MODES
from webapp.storage.tool_bench import DONE, StoredCase, StoredRun
from webapp.web.kit.page import Toast
from webapp.web.tools.bench_contexts import BenchPage, CaseDraft, CaseForm, CasePage, CaseRow, RunForm, RunRow
from webapp.web.tools.bench_desk import AS_CHATS, BenchDesk
from webapp.web.tools.bench_input import SEVERAL
from webapp.web.tools.bench_words import case_text, percent
from webapp.web.tools.contexts import Choice, FormField

PER_TOOL, SEED = 3, 0
COMPARED = ("decision", "name", "arguments")


def bench_page(
    desk: BenchDesk,
    form: Mapping[str, Any] | None = None,
    draft: CaseDraft | None = None,
    error: BenchCaseInvalid | None = None,
    toasts: tuple[Toast, ...] = (),
    **problems: str,
) -> BenchPage:
    """``form``: the run as it was asked for. ``problems``: ``run_problem``, ``problem``, ``import_error`` and
    ``import_text``."""
    t = desk.desk.t
    run_problem = problems.pop("run_problem", "")
    running = desk.bench.running
    return BenchPage(
        page_title=t("tool_bench.title"),
        commands_url=url_for("tools.bench.do"),
        run=_run_form(desk, form or {}, run_problem),
        running_url=url_for("tools.bench.show_run", run_id=running) if running else "",
        heads=tuple(t(f"tool_bench.figure.{name}.label") for name in COMPARED),
        runs=tuple(row for run in desk.bench.store.runs() for row in _run_rows(desk, run)),
        cases=_case_rows(desk, desk.bench.store.cases()),
        case=case_form(desk, draft or CaseDraft(), error=error),
        make={name: _field(desk, f"make.{name}", name) for name in ("seed", "per_tool")},
        seed=str((form or {}).get("seed", SEED)),
        per_tool=str((form or {}).get("per_tool", PER_TOOL)),
        toasts=toasts,
        **problems,
    )


def case_page(desk: BenchDesk, case_id: str, draft: CaseDraft, error: BenchCaseInvalid | None = None) -> CasePage:
    form = case_form(desk, draft, case_id, error)
    return CasePage(desk.desk.t("tool_bench.case.edit"), url_for("tools.bench.do"), form)


def case_form(desk: BenchDesk, draft: CaseDraft, case_id: str = "", error: BenchCaseInvalid | None = None) -> CaseForm:
    t = desk.desk.t
    names = [row.name for row in desk.definitions()]
    if draft.expect and draft.expect not in (*names, SEVERAL):
        names.append(draft.expect)
    tools = [Choice(name, name) for name in names]
    choices = (Choice("", t("tool_bench.no_call")), *tools, Choice(SEVERAL, t("tool_bench.case.several")))
    wrong = _field_of(error)
    fields = {
        name: _field(desk, f"case.{name}", name, desk.reason(error) if error and wrong == name else "")
        for name in ("prompt", "expect", "arguments")
    }
    action = url_for("tools.bench.change_case", case_id=case_id) if case_id else url_for("tools.bench.add_case")
    return CaseForm(fields, draft, choices, action, case_id)


def _run_form(desk: BenchDesk, form: Mapping[str, Any], problem: str) -> RunForm:
    t = desk.desk.t
    names = [row.name for row in desk.definitions()]
    count = len(desk.bench.store.cases())
    return RunForm(
        tools=tuple(Choice(name, name) for name in names),
        chosen=frozenset(form.get("tools", names)),
        are_shipped=desk.are_shipped(),
        mode=str(form.get("mode", "both")),
        modes=tuple(Choice(name, t(f"tool_bench.mode.{name}")) for name in ("both", *MODES)),
        dialect=_field(desk, "dialect", "dialect"),
        dialects=(
            Choice("", t("tools.dialect.auto")),
            *(Choice(row.name, t(f"tools.dialect.{row.name}")) for row in all_dialects()),
        ),
        dialect_value=str(form.get("dialect", "")),
        sampling=_field(desk, "sampling", "sampling"),
        samplings=tuple(Choice(name, t(f"tool_bench.sampling.{name}")) for name in ("greedy", AS_CHATS)),
        sampling_value=str(form.get("sampling", "greedy")),
        case_count=t("tool_bench.count", count=count),
        problem=problem,
        warning="" if desk.knows_to_call() else t("tool_bench.unknown_caller"),
    )


def _run_rows(desk: BenchDesk, run: StoredRun) -> list[RunRow]:
    """One a mode; a run without answers has one too."""
    setup, t = run.setup, desk.desk.t
    figures: Mapping[str, Mapping[str, Any]] = setup.get("figures", {})
    status = "" if run.status == DONE else t(f"tool_bench.status.{run.status}")
    return [
        RunRow(
            url=url_for("tools.bench.show_run", run_id=run.id),
            when=time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at)),
            model=setup["model"],
            strategy=setup["strategy"],
            dialect=t(f"tools.dialect.{setup['dialect']}"),
            mode=t(f"tool_bench.mode.{mode}"),
            cases=str(figures.get(mode, {}).get("cases", "")),
            figures=tuple(percent(figures.get(mode, {}).get(name)) for name in COMPARED),
            status=status,
        )
        for mode in setup["modes"]
    ]


def _case_rows(desk: BenchDesk, cases: list[StoredCase]) -> tuple[CaseRow, ...]:
    names = {row.name for row in desk.definitions()}
    no_call = desk.desk.t("tool_bench.no_call")
    return tuple(
        CaseRow(
            stored.id,
            stored.case.prompt,
            case_text(stored.case.calls) or no_call,
            stored.case.is_generated,
            not stored.case.tool_names <= names,
        )
        for stored in cases
    )


def _field(desk: BenchDesk, key: str, name: str, error: str = "") -> FormField:
    t = desk.desk.t
    return FormField(name, t(f"tool_bench.{key}.label"), t(f"tool_bench.{key}.help"), error)


def _field_of(error: BenchCaseInvalid | None) -> str:
    """The form's field; calls are typed where arguments are."""
    field = str(error.params.get("field", "")) if error is not None else ""
    return {"calls": "arguments"}.get(field, field)
