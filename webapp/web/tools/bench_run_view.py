"""One run of the tool bench: its figures, its confusions, and every answer with all that was read and written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flask import url_for

from webapp.errors import error_from_dict, sentences
from webapp.i18n import translate_error
from webapp.services.bench.report import (
    NO_CALL,
    OTHER,
    Confusion,
    ModeReport,
    is_right,
    reports,
    wrong_first,
)
from webapp.services.bench.runner import Answer
from webapp.storage.tool_bench import STOPPED, StoredRun
from webapp.tools.call_score import FIGURES
from webapp.web.kit.page import Toast
from webapp.web.tools.bench_contexts import AnswerRow, Cell, Figure, ModePart, Progress, RunPage
from webapp.web.tools.bench_desk import BenchDesk
from webapp.web.tools.bench_words import percent, stored_text

AT_ONCE = 60
"""Answers on one page."""


def run_page(desk: BenchDesk, run_id: str, first: int = 0, toasts: tuple[Toast, ...] = ()) -> RunPage:
    """``first``: how many answers to pass over."""
    t = desk.desk.t
    run = desk.bench.store.run(run_id)
    answers = wrong_first(desk.bench.store.answers(run_id)) if run.is_over else []
    shown = answers[first : first + AT_ONCE]
    kind, title, text = _note(desk, run)
    return RunPage(
        page_title=t("tool_bench.run.title"),
        commands_url=url_for("tools.bench.do"),
        run_id=run.id,
        title=str(run.setup["model"]),
        facts=_facts(desk, run),
        note_kind=kind,
        note_title=title,
        note_text=text,
        progress=progress(desk, run),
        parts=tuple(_part(desk, report) for report in reports(run.setup, answers)),
        offer=str(run.setup["offer"]),
        answers=tuple(_row(desk, answer, len(run.setup["modes"]) > 1) for answer in shown),
        shown=t("tool_bench.run.shown", first=first + 1, last=first + len(shown), total=len(answers)) if shown else "",
        previous_url=_page_url(run_id, first - AT_ONCE) if first > 0 else "",
        next_url=_page_url(run_id, first + AT_ONCE) if first + AT_ONCE < len(answers) else "",
        toasts=toasts,
    )


def progress(desk: BenchDesk, run: StoredRun) -> Progress:
    asked = max(1, int(run.setup["asked"]))
    right = sum(map(is_right, desk.bench.store.answers(run.id))) if not run.is_over else 0
    t = desk.desk.t
    return Progress(
        run_url=url_for("tools.bench.show_run", run_id=run.id),
        is_running=not run.is_over,
        shown=t("tool_bench.run.progress", done=run.answers, total=asked),
        share=round(100 * run.answers / asked, 1),
        right=t("tool_bench.run.right", right=right, total=run.answers) if run.answers else t("tool_bench.run.begins"),
    )


def verdict(answer: Answer) -> str:
    """A key of ``tool_bench.verdict``: the first thing that is wrong."""
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


def _note(desk: BenchDesk, run: StoredRun) -> tuple[str, str, str]:
    """What has to be said of how it ended: (kind, title, text), all "" for nothing."""
    t = desk.desk.t
    if run.error is not None:
        message, hint = translate_error(error_from_dict(dict(run.error)), desk.desk.locale)
        return "bad", message, f"{hint} {t('tool_bench.run.kept')}"
    if run.status == STOPPED:
        return "warn", t("tool_bench.status.stopped"), t("tool_bench.run.kept")
    left_out = int(run.setup.get("left_out", 0))
    return ("warn", t("tool_bench.run.left_out", count=left_out), "") if left_out else ("", "", "")


def _facts(desk: BenchDesk, run: StoredRun) -> tuple[str, ...]:
    setup, t = run.setup, desk.desk.t
    return tuple(
        filter(
            None,
            (
                time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at)),
                setup["strategy"],
                setup["state"],
                t(f"tools.dialect.{setup['dialect']}"),
                t("tool_bench.sampling.greedy" if setup["is_greedy"] else "tool_bench.sampling.chat"),
                t("tool_bench.tool_count", count=len(setup["tools"])),
            ),
        )
    )


def _part(desk: BenchDesk, report: ModeReport) -> ModePart:
    t = desk.desk.t
    figures = tuple(
        Figure(
            t(f"tool_bench.figure.{name}.label"),
            percent(report.shares[name]) or "–",
            t("tool_bench.of", right=report.counts[name][0], total=report.counts[name][1]),
            t(f"tool_bench.figure.{name}.help"),
        )
        for name in FIGURES
    )
    called, rows = _table(desk, report.confusion)
    return ModePart(report.mode, t(f"tool_bench.mode.{report.mode}"), figures, called, rows)


def _table(desk: BenchDesk, found: Confusion) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[Cell, ...]], ...]]:
    """Without the tools that were neither expected nor called."""
    seen = {name for pair, count in found.counts.items() if count for name in pair}
    called = [name for name in found.called if name in seen]
    expected = [name for name in found.expected if any(found.count(name, other) for other in found.called)]
    rows = tuple(
        (_name(desk, name), tuple(_cell(desk, name, other, found.count(name, other)) for other in called))
        for name in expected
    )
    return tuple(_name(desk, name) for name in called), rows


def _cell(desk: BenchDesk, expected: str, called: str, count: int) -> Cell:
    if not count:
        return Cell("·", "", desk.desk.t("tool_bench.confusion.none"))
    names = {"expected": _name(desk, expected), "called": _name(desk, called), "times": count}
    kind = "right" if expected == called else "wrong"
    return Cell(str(count), kind, desk.desk.t("tool_bench.confusion.cell", **names))


def _name(desk: BenchDesk, name: str) -> str:
    keys: Mapping[str, str] = {NO_CALL: "tool_bench.no_call", OTHER: "tool_bench.confusion.other"}
    return str(desk.desk.t(keys[name])) if name in keys else name


def _row(desk: BenchDesk, answer: Answer, has_modes: bool) -> AnswerRow:
    t, key = desk.desk.t, verdict(answer)
    note = t("tool_bench.run.cut") if answer.get("finish_reason") == "length" else ""
    if "error" in answer:
        note = sentences(*translate_error(error_from_dict(answer["error"]), desk.desk.locale))
    return AnswerRow(
        number=answer["place"] + 1,
        prompt=answer["prompt"],
        is_right=is_right(answer),
        verdict=t(f"tool_bench.verdict.{key}"),
        mode=t(f"tool_bench.mode.{answer['mode']}") if has_modes else "",
        expected=stored_text(answer["expected"]) or t("tool_bench.no_call"),
        called=stored_text(answer["called"]) or _no_calls(t, answer),
        sent=answer["sent"],
        raw=answer.get("raw", ""),
        note=note,
    )


def _no_calls(t: Any, answer: Answer) -> str:
    return str(t("tool_bench.verdict.unreadable" if answer["sets_out"] else "tool_bench.no_call"))


def _page_url(run_id: str, first: int) -> str:
    return url_for("tools.bench.show_run", run_id=run_id, first=max(0, first), _anchor="answers")
