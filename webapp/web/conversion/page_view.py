"""The conversion page and its parts in the reader's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flask import current_app, url_for

from webapp.errors import RoostError, error_from_dict
from webapp.i18n import translate_error
from webapp.manager.model_manager import ModelManager
from webapp.services.conversion.conversions import ConversionJob, Conversions
from webapp.services.conversion.order import ConversionOrder
from webapp.services.library.disk_space import check_free, free_bytes, size_text
from webapp.web.conversion.contexts import ConversionPage, Field, JobRow, Jobs, Option, PlanNote
from webapp.web.conversion.order_form import STRATEGIES, convertible, read_order
from webapp.weights.convert.registry import CONVERSIONS

Words = Callable[..., str]
ICONS = {"waiting": "history", "running": "refresh-cw", "done": "circle-check", "failed": "circle-x", "cancelled": "x"}


class View:
    """One request's look at the conversions."""

    def __init__(self, conversions: Conversions, manager: ModelManager, locale: str, t: Words) -> None:
        self._conversions = conversions
        self._library = manager.library
        self._locale = locale
        self._t = t

    def order(self, form: Mapping[str, str]) -> ConversionOrder:
        return read_order(form, convertible(self._library)[0])

    def page(self, form: Mapping[str, str], refusal: RoostError | None = None) -> ConversionPage:
        """``refusal``: of the order that was just sent."""
        t = self._t
        models, loras = convertible(self._library)
        given = {
            name: form.get(name, "")[:1000] for name in ("model", "target", "strategy", "name", "lora", "lora_alpha")
        }
        known = {option.value for option in models}
        if given["model"] in {option.value for option in loras}:  # the models page sends a LoRA here to be merged
            given["lora"], given["model"] = given["model"], ""
        plan = self.plan({**form, **given})
        if refusal is not None:
            plan = replace(plan, kind="bad", title=self.said(refusal)[0], text=self.said(refusal)[1])
        return ConversionPage(
            page_title=t("conversion.title"),
            commands_url=url_for("conversion.index"),
            models_url=url_for("models.index") if "models.index" in current_app.view_functions else "",
            models=models,
            loras=(Option("", t("conversion.no_lora")), *loras),
            targets=self._targets(),
            strategies=STRATEGIES,
            target=given["target"] if given["target"] in CONVERSIONS else "st",
            overwrite=bool(form.get("overwrite")),
            has_lora=bool(loras),
            model=self._field("model", given["model"] if given["model"] in known else ""),
            strategy=self._field("strategy", given["strategy"] or STRATEGIES[1]),
            name=self._field("name", given["name"]),
            lora=self._field("lora", given["lora"]),
            lora_alpha=self._field("lora_alpha", given["lora_alpha"]),
            plan=plan,
            jobs=self.jobs(),
        )

    def plan(self, form: Mapping[str, str]) -> PlanNote:
        t = self._t
        try:
            order = self.order(form)
            if not order.model:
                return PlanNote("", t("conversion.no_models"), t("conversion.no_models_hint"))
            ready = self._conversions.check(order)
            free = free_bytes(ready.target_path.parent)
            check_free(ready.target_path.parent, ready.planned_bytes)
        except RoostError as exc:
            return PlanNote("bad", *self.said(exc))
        title = t("conversion.plan", name=ready.name, needed=size_text(ready.planned_bytes), free=size_text(free))
        if ready.is_name_taken and not order.overwrite:
            return PlanNote("warn", title, t("conversion.taken"), ready.target_path.name, is_name_taken=True)
        text = t("conversion.state_kept") if self._has_state(order.model) else ""
        return PlanNote("", title, text, ready.target_path.name, ready.is_name_taken, order.overwrite)

    def jobs(self) -> Jobs:
        jobs = self._conversions.jobs()
        return Jobs(tuple(self._row(job) for job in jobs), any(not job.is_over for job in jobs))

    def said(self, error: RoostError) -> tuple[str, str]:
        """(sentence, way out), without the server's folders."""
        path = str(error.params.get("path", ""))
        if "/" in path or "\\" in path:
            short = {**error.params, "path": path.replace("\\", "/").rpartition("/")[2]}
            error = error_from_dict({**error.to_dict(), "params": short})
        return translate_error(error, self._locale)

    def _row(self, job: ConversionJob) -> JobRow:
        t, order, progress = self._t, job.order, job.progress
        word = t(f"conversion.status.{job.status}")
        if job.status == "running" and progress is not None:
            word = t(f"conversion.phase.{progress.phase}")
        done = progress.done_bytes if progress else 0
        error, hint = self.said(job.error) if job.error and job.status == "failed" else ("", "")
        facts = [order.model, t(f"conversion.target.{order.target}.label"), order.strategy, order.lora]
        if job.status == "done":
            facts += [size_text(job.size_bytes), t("conversion.seconds", seconds=f"{job.seconds:.0f}")]
        is_here = job.status == "done" and job.path.is_file()
        return JobRow(
            id=job.id,
            status=job.status,
            icon=ICONS[job.status],
            title=job.name,
            facts=tuple(fact for fact in facts if fact),
            word=word,
            shown=t("conversion.of", done=size_text(done), total=size_text(job.planned_bytes)),
            share=round(100 * done / max(job.planned_bytes, 1), 1),
            error=error,
            hint=hint,
            can_load=is_here,
            can_preset=is_here and "presets" in current_app.extensions,
        )

    def _targets(self) -> tuple[Option, ...]:
        t = self._t
        words = [
            (target, t(f"conversion.target.{target}.label"), t(f"conversion.target.{target}.text"))
            for target in CONVERSIONS
        ]
        return tuple(Option(*row) for row in words)

    def _field(self, name: str, value: str) -> Field:
        t: Any = self._t
        return Field(name, t(f"conversion.field.{name}.label"), value, t(f"conversion.field.{name}.help"))

    def _has_state(self, model: str) -> bool:
        found = self._library.entry(model).inspection
        return found is not None and found.has_time_state
