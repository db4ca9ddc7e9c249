"""A posted form of one preset: read, checked against the model it names, saved; or brought back with what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from webapp.errors import PresetChanged, PresetNameTaken, RoostError, WeightsError
from webapp.services.presets.presets import SaveOutcome
from webapp.services.strategy.choice import validate
from webapp.storage.presets import Preset
from webapp.web.presets.builder_input import AUTO, CUSTOM, BuilderInput, built, fitted, input_of, is_posted, read_input
from webapp.web.presets.builder_view import Ground
from webapp.web.presets.drawn import drawn_with, following
from webapp.web.presets.edit_view import Draft
from webapp.web.presets.fields import PostedForm, read_form
from webapp.web.presets.house import House


@dataclass(frozen=True)
class Submission:
    """One form. ``expected`` None: whatever the preset was when it was saved last."""

    posted: PostedForm
    builder: BuilderInput | None
    strategy: str | None
    expected: float | None

    def draft(self, problems: Mapping[str, RoostError] | None = None, refusal: RoostError | None = None) -> Draft:
        return Draft(
            posted=replace(self.posted, problems={**self.posted.problems, **(problems or {})}),
            builder=self.builder,
            strategy=self.strategy,
            refusal=refusal,
            is_conflict=isinstance(refusal, PresetChanged),
            is_unsaved=True,
        )


def read_submission(house: House, preset: Preset, form: Mapping[str, str], shown: Mapping[str, str]) -> Submission:
    """``shown`` are the name and note as the page shows them: a translated name that was left alone is no change."""
    model = str(form.get("model", preset.model))
    defaults = house.defaults(preset, model)
    drawn = drawn_with(form, defaults)
    posted = following(read_form(form, drawn), drawn, defaults)
    for name, text in shown.items():
        if posted.raw.get(name) == text:
            posted.changes.pop(name, None)
    if not is_posted(form):
        return Submission(posted, None, None, _date(form))
    ground = house.ground(model)
    given, _ = fitted(read_input(form, ground.n_layer), ground.found)
    strategy = _strategy(given, preset, ground)
    is_as_before = (strategy, model) == (
        preset.strategy,
        preset.model,
    )  # what it had does not keep the rest from saving
    problem = None if is_as_before else _strategy_problem(house, model, strategy)
    if problem is not None:
        posted.problems["strategy"] = problem
    return Submission(posted, given, strategy, _date(form))


def _strategy(given: BuilderInput, preset: Preset, ground: Ground) -> str:
    """The builder's string; what the preset has stays as it was written while the fields say the same."""
    before, _ = fitted(input_of(preset.strategy, ground.n_layer), ground.found)
    if given.kind != CUSTOM and replace(given, text="") == replace(before, text=""):
        return preset.strategy
    return "" if given.kind == AUTO else built(given, ground.n_layer, "")


def _strategy_problem(house: House, model: str, strategy: str) -> RoostError | None:
    """What only another machine could run may be saved: presets travel."""
    if not strategy:
        return None
    found = house.inspection(model)
    check = validate(strategy, found.config if found else None)
    return None if check.is_valid or check.is_elsewhere else check.error


def _date(form: Mapping[str, str]) -> float | None:
    try:
        return float(form.get("expected", ""))
    except ValueError:
        return None


def save(house: House, preset: Preset, submission: Submission) -> SaveOutcome | Draft:
    """The outcome, or the draft that says why nothing was saved."""
    if submission.posted.problems:
        return submission.draft()
    changes = dict(submission.posted.changes)
    if submission.strategy is not None:
        changes["strategy"] = submission.strategy
    try:
        return house.presets.save(preset.id, changes, submission.expected)
    except PresetNameTaken as exc:
        return submission.draft({"name": exc})
    except WeightsError as exc:  # the state of the active preset is tried on the running model
        return submission.draft({"state": exc})
    except RoostError as exc:
        return submission.draft(refusal=exc)
