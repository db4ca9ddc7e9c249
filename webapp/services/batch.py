"""Batch: one prompt for each line of a list or row of a table, answered as a job, several at once so that the engine
computes them together. Each complete answer is stored; an interrupted batch continues with the remaining rows."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from webapp.chat.messages import Finished, Message, Role, ThinkMode
from webapp.errors import ModelError, QueueFull, RequestError, RoostError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.generation.completions import Completion, Completions
from webapp.services.generation.request import AnswerRequest, ChatPrompt, Prompt, TextPrompt
from webapp.services.jobs import PAUSED, WAITING, Job, Jobs, Running
from webapp.services.presets.presets import PLAIN, Presets, mode_of
from webapp.storage.batches import Batch, BatchRow, BatchStore
from webapp.storage.records import OWNER_ID

KIND = "batch"
LINE = "line"
"""The column name of a list without columns."""
MAX_ROWS = 50_000
MAX_AT_ONCE = 32
TEMPLATE_CHARS = 100_000
NAMED = re.compile(r"\{([^{}\n]{1,200})\}")
DELETED_KEPT_S = 86_400.0
POLL_S = 0.25
STOP_WAIT_S = 10.0
RETRY_S = 1.0
"""Seconds until the next attempt after the queue was full."""


class BatchRuns:
    """``app.extensions["batches"]``. Lists unfinished batches of an earlier server as paused jobs."""

    def __init__(
        self,
        manager: ModelManager,
        presets: Presets,
        completions: Completions,
        store: BatchStore,
        jobs: Jobs,
        most_at_once: int,
    ) -> None:
        self.store = store
        self.most_at_once = min(MAX_AT_ONCE, most_at_once)
        self._manager, self._presets, self._completions, self._jobs = manager, presets, completions, jobs
        store.purge_deleted(time.time() - DELETED_KEPT_S)
        for batch in store.unfinished():
            self._list(batch, PAUSED)

    def start(
        self,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        settings: Mapping[str, Any],
        person_id: str = OWNER_ID,
    ) -> Batch:
        """``settings``: ``template`` (text with ``{column}``), ``is_chat`` (each text is a message, with the preset's
        system prompt and format; otherwise a text to continue), ``preset`` ("" is the active one), ``max_tokens``,
        ``at_once``. Raises ``batch_invalid`` for no rows, too many rows, or an unknown column."""
        if not rows or len(rows) > MAX_ROWS:
            reason = Text("reason.services.batch_rows", found=len(rows), limit=MAX_ROWS)
            raise RoostError("batch_invalid", reason=reason)
        template = str(settings["template"])
        unknown = [name for name in NAMED.findall(template) if name not in columns]
        if unknown or not any(name in columns for name in NAMED.findall(template)):
            reason = Text("reason.services.batch_columns", found=", ".join(unknown) or "–", known=", ".join(columns))
            raise RoostError("batch_invalid", reason=reason)
        batch = self.store.create(name, columns, rows, settings, person_id)
        self._list(batch, WAITING)
        return batch

    def job_of(self, batch_id: str) -> Job | None:
        """The batch's newest job."""
        return next((job for job in self._jobs.jobs(KIND) if job.details.get("batch") == batch_id), None)

    def resume(self, batch_id: str) -> None:
        """Continues with the remaining rows, even after a final stop."""
        batch, job = self.store.get(batch_id), self.job_of(batch_id)
        if job is not None and self._jobs.can_resume(job):
            self._jobs.resume(job.id)
        elif batch.done < batch.total and (job is None or job.is_over):
            self.store.end(batch_id, is_over=False)
            self._list(batch, WAITING)

    def delete(self, batch_id: str) -> Batch:
        """Stops the batch and removes its jobs from the list, because they have no result any more."""
        batch = self.store.delete(batch_id)
        for job in self._jobs.jobs(KIND):
            if job.details.get("batch") == batch_id:
                self._jobs.cancel(job.id)
                self._jobs.wait(job.id, STOP_WAIT_S)
                self._jobs.remove(job.id)
        return batch

    def _list(self, batch: Batch, status: str) -> None:
        self._jobs.start(
            KIND,
            batch.name,
            lambda running: self._run(batch.id, running),
            {"batch": batch.id, "person": batch.person_id},
            unit="steps",
            total=batch.total,
            can_pause=True,
            done=batch.done,
            status=status,
            clean=lambda: self.store.end(batch.id),
        )

    def _run(self, batch_id: str, running: Running) -> None:
        """Runs in threads, one row at a time in each. An error that concerns more than one row ends all."""
        batch = self.store.get(batch_id)
        rows, lock = self.store.waiting(batch_id), threading.Lock()
        failures: list[Exception] = []
        live: set[Completion] = set()
        done = batch.done

        def stop() -> None:
            for completion in list(live):
                completion.close()

        def work() -> None:
            nonlocal done
            try:
                while not running.stop_status and not failures:
                    with lock:
                        row = next(rows, None)
                    if row is None:
                        return
                    answered = self._answered(batch, row, running, live)
                    if answered is None:
                        return
                    with lock:
                        self.store.answer(batch_id, row.place, *answered)
                        done += 1
                        running.report(done, batch.total)
            except Exception as exc:  # reported as the job's error
                failures.append(exc)
                stop()

        running.report(done, batch.total)
        running.on_stop(stop)
        count = min(self.most_at_once, max(1, int(batch.settings.get("at_once", 1))))
        threads = [threading.Thread(target=work, name=f"roost-batch-{n}", daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        if running.stop_status and done < batch.total:
            raise ModelError("load_cancelled")  # the job is already paused or cancelled
        self.store.end(batch_id)

    def _answered(
        self, batch: Batch, row: BatchRow, running: Running, live: set[Completion]
    ) -> tuple[str, dict[str, Any]] | None:
        """(answer, metadata); None if the job was asked to stop meanwhile."""
        completion = None
        try:
            while completion is None:
                try:
                    completion = self._completions.start(self._request(batch, row))
                except QueueFull:
                    if _waited(running, RETRY_S):
                        return None
            live.add(completion)
            for _ in completion.events(POLL_S):
                if running.stop_status:
                    return None
        except RequestError as exc:  # concerns this row only: the others can be answered
            return "", {"error": exc.to_dict()}
        finally:
            if completion is not None:
                completion.close()
                live.discard(completion)
        answer = completion.answers[0]
        if running.stop_status or not isinstance(answer.end, Finished) or answer.finish_reason == "abort":
            return None
        usage = answer.end.usage
        about = {"finish_reason": answer.finish_reason, "prompt_tokens": usage.prompt, "tokens": usage.completion}
        return answer.text.content, about

    def _request(self, batch: Batch, row: BatchRow) -> AnswerRequest:
        settings = batch.settings
        preset = self._presets.chosen(settings.get("preset", ""))
        text = filled(str(settings["template"]), dict(zip(batch.columns, row.values, strict=False)))
        mode = PLAIN
        prompt: Prompt = TextPrompt(text)
        if settings.get("is_chat"):
            think_mode = ThinkMode(preset.think_mode or "none")
            mode = mode_of(think_mode, False)
            system = (Message(Role.SYSTEM, preset.system_prompt),) if preset.system_prompt.strip() else ()
            prompt = ChatPrompt((*system, Message(Role.USER, text)), think_mode, template=preset.template)
        given = {"max_tokens": settings["max_tokens"]} if settings.get("max_tokens") else {}
        sampling = self._presets.sampling(preset, given, self._manager.model_info(), mode).to_dict()
        state = self._presets.state_of(preset)
        return AnswerRequest((prompt,), sampling, preset.stop, state=state, client=f"batch {batch.id}")


def _waited(running: Running, seconds: float) -> bool:
    """Waits at most this long; returns whether to stop."""
    for _ in range(int(seconds / POLL_S)):
        if running.stop_status:
            return True
        threading.Event().wait(POLL_S)
    return bool(running.stop_status)


def filled(template: str, values: Mapping[str, str]) -> str:
    return NAMED.sub(lambda found: values.get(found[1], found[0]), template)


def table_in(text: str, kind: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Parses a text to (columns, rows). ``kind``: "lines" (each non-empty line), "csv" (the first row names the
    columns; separated by comma, semicolon or tab) or "jsonl" (objects). Raises ``batch_invalid``."""
    if kind == "csv":
        return _csv(text)
    if kind == "jsonl":
        return _jsonl(text)
    return (LINE,), [(line.strip(),) for line in text.splitlines() if line.strip()]


def _csv(text: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if any(row)]
    except csv.Error as exc:
        raise RoostError("batch_invalid", reason=Text("reason.services.no_table", error=str(exc))) from exc
    columns = tuple(name.strip() for name in rows[0]) if rows else ()
    if not columns or len(set(columns)) < len(columns) or not all(columns):
        raise RoostError("batch_invalid", reason=Text("reason.services.no_columns"))
    width = len(columns)
    return columns, [tuple([*row, *[""] * width][:width]) for row in rows[1:]]


def _jsonl(text: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    found: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise RoostError("batch_invalid", reason=Text("reason.services.no_object", line=number))
        found.append(value)
    columns = tuple(dict.fromkeys(name for value in found for name in value))
    if not columns:
        raise RoostError("batch_invalid", reason=Text("reason.services.no_columns"))
    as_text = lambda cell: cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)  # noqa: E731
    return columns, [tuple(as_text(value.get(name, "")) for name in columns) for value in found]
