"""The notebook: a plain text that the model continues. The page's scripts save while a person types and read the
generated text as lines of JSON; without scripts, each button posts the form and shows the page again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from flask import Blueprint, Response, g, jsonify, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.chat.formats import fills_gaps
from webapp.chat.messages import Finished, Waiting
from webapp.errors import RoostError
from webapp.services.chat.probes import AnswerToken
from webapp.services.notebook import Fork, Steps, Written, settings_of
from webapp.services.presets.fields import SAMPLING, overrides, read_fields
from webapp.services.presets.presets import PLAIN
from webapp.storage.notebooks import Notebook
from webapp.storage.records import storable
from webapp.web.chat.views import CLASSES, alternative_rows, chance_text, token_view, waiting_text, written_text
from webapp.web.guard import asker, current_role
from webapp.web.kit import page as kit
from webapp.web.presets.form import Controls, Draft, shown_name
from webapp.web.roles import least_role
from webapp.weights.inspection import model_name

TEXT_CHARS = 1_000_000
NAME_CHARS = 120
FORM_BYTES = 8 << 20
SHOWN_TOKENS = 2000
TOASTS = ("deleted", "restored")

blueprint = Blueprint("notebook", __name__, url_prefix="/notebook")


# pages


@blueprint.get("")
def index() -> Response | BaseResponse:
    """The last changed notebook."""
    page = kit.current_page()
    rows = page.notebooks.store.list(page.person.id)
    if rows:
        kept: kit.Values = {
            name: request.args[name] for name in ("said", "about", "undo", "lang") if name in request.args
        }
        return redirect(url_for("notebook.show", notebook_id=rows[0][0], **kept), 303)
    return kit.render_page("notebook/page.html", notebook_page(page, None, page.done_toast("notebook.said", TOASTS)))


@blueprint.post("")
def create() -> BaseResponse:
    page = kit.current_page()
    made = page.notebooks.store.create(page.t("notebook.unnamed"), page.person.id)
    return redirect(url_for("notebook.show", notebook_id=made.id), 303)


@blueprint.get("/<notebook_id>")
def show(notebook_id: str) -> Response:
    page = kit.current_page()
    notebook = page.notebooks.store.get(notebook_id)
    return kit.render_page(
        "notebook/page.html", notebook_page(page, notebook, page.done_toast("notebook.said", TOASTS))
    )


def notebook_page(page: kit.PageContext, notebook: Notebook | None, toasts: tuple[kit.Toast, ...] = ()) -> kit.Values:
    """``notebook/page.html``; None if there is no notebook yet."""
    notebooks, t = page.notebooks, page.t
    shown: kit.Values = {
        "page_title": notebook.name if notebook else t("nav.notebook"),
        "toasts": toasts,
        "rows": [
            {
                "id": row_id,
                "name": name,
                "at": kit.moment_text(changed),
                "is_current": notebook is not None and row_id == notebook.id,
            }
            for row_id, name, changed in notebooks.store.list(page.person.id)
        ],
        "notebook": notebook,
        "can_batch": current_role() >= least_role("batch.index"),
    }
    if notebook is None:
        return shown
    preset = notebooks.preset(notebook)
    base = page.presets.sampling(preset, {}, page.model, PLAIN).to_dict()
    controls = Controls(page, preset, base, Draft({name: str(v) for name, v in _shown_sampling(notebook).items()}))
    rows = [(row, controls.of(row)) for row in SAMPLING]
    own, active = notebook.settings.get("preset", ""), page.presets.active()
    follow = kit.Choice("", t("chat.options.preset_active", name=shown_name(active, t)))
    return shown | {
        "text": notebook.draft.text,
        "is_running": notebooks.is_running(notebook.id),
        "can_fill": page.model is not None and fills_gaps(model_name(page.model)),
        "drawn_preset": preset.id,
        "preset": own if any(row.id == own for row in page.presets.list()) else "",
        "presets": [follow, *(kit.Choice(row.id, shown_name(row, t)) for row in page.presets.list())],
        "knobs": [control for row, control in rows if row.is_common],
        "more_knobs": [control for row, control in rows if not row.is_common],
        "views": [kit.Choice(name, t(f"notebook.view_{name}")) for name in ("text", "tokens")],
    }


def _shown_sampling(notebook: Notebook) -> kit.Values:
    """In the form's representation."""
    found = notebook.settings.get("sampling", {})
    return {name: ("1" if value else "0") if isinstance(value, bool) else value for name, value in found.items()}


# what is posted


def _saved(page: kit.PageContext, notebook_id: str) -> Notebook:
    """Saves the form's text, name and settings, if present, to the notebook."""
    request.max_form_memory_size = FORM_BYTES
    form, notebooks = request.form, page.notebooks
    notebook = notebooks.store.get(notebook_id)
    if "text" not in form:
        return notebook
    text = storable(form["text"].replace("\r\n", "\n"))
    if len(text) > TEXT_CHARS:
        raise RoostError("too_large", found=len(text), limit=TEXT_CHARS)
    name = " ".join(form.get("name", notebook.name).split())[:NAME_CHARS] or notebook.name
    settings = _settings(page, notebook) if "drawn_preset" in form else notebook.settings
    draft = notebooks.draft_with(notebook, text)
    if (draft, name, settings) == (notebook.draft, notebook.name, notebook.settings):
        return notebook
    return notebooks.store.write(notebook_id, draft, form.get("seen", type=float), name=name, settings=settings)


def _settings(page: kit.PageContext, notebook: Notebook) -> kit.Values:
    """The differences from the preset with which the page was rendered; invalid values do not change."""
    form, known = request.form, {preset.id: preset for preset in page.presets.list()}
    drawn = known.get(form["drawn_preset"]) or page.presets.active()
    base = page.presets.sampling(drawn, {}, page.model, PLAIN).to_dict()
    given = {row.name: form.getlist(row.name)[-1] for row in SAMPLING if row.name in form}
    values, problems = read_fields(given)
    before = notebook.settings.get("sampling", {})
    values |= {name: before.get(name, base[name]) for name in problems}
    preset = form.get("preset", "")
    return settings_of(preset if preset in known else "", overrides(values, base))


def _state(page: kit.PageContext, notebook: Notebook) -> kit.Values:
    """The notebook's state for the page's scripts."""
    return {
        "seen": repr(notebook.updated_at),
        "name": notebook.name,
        "text": notebook.draft.text,
        "can_undo": notebook.can_undo,
        "can_redo": notebook.can_redo,
    }


def _refused(page: kit.PageContext, notebook_id: str, error: RoostError) -> Response | tuple[Response, int]:
    if kit.wants_json():
        return jsonify(error=page.error_values(error)), error.status
    page = kit.fresh_page()
    shown = notebook_page(page, page.notebooks.store.get(notebook_id), (page.error_toast(error),))
    if "text" in request.form:
        shown["text"] = request.form["text"]
    return kit.render_page("notebook/page.html", shown, status=kit.refused_status(error))


def _changing(
    notebook_id: str, change: Callable[[kit.PageContext, Notebook], Notebook]
) -> Response | BaseResponse | tuple[Response, int]:
    page = kit.current_page()
    try:
        notebook = change(page, _saved(page, notebook_id))
    except RoostError as exc:
        if exc.status == 404:
            raise
        return _refused(page, notebook_id, exc)
    if kit.wants_json():
        return jsonify(_state(page, notebook))
    return redirect(url_for("notebook.show", notebook_id=notebook_id), 303)


@blueprint.post("/<notebook_id>/save")
def save(notebook_id: str) -> Any:
    return _changing(notebook_id, lambda page, notebook: notebook)


@blueprint.post("/<notebook_id>/undo")
def undo(notebook_id: str) -> Any:
    return _changing(notebook_id, lambda page, one: page.notebooks.store.step(one.id, one.draft, is_back=True))


@blueprint.post("/<notebook_id>/redo")
def redo(notebook_id: str) -> Any:
    return _changing(notebook_id, lambda page, one: page.notebooks.store.step(one.id, one.draft, is_back=False))


@blueprint.post("/<notebook_id>/stop")
def stop(notebook_id: str) -> BaseResponse:
    kit.current_page().notebooks.stop(notebook_id)
    return redirect(url_for("notebook.show", notebook_id=notebook_id), 303)


@blueprint.post("/<notebook_id>/continue")
def continue_(notebook_id: str) -> Any:
    """``fork`` (``POSITION:TOKEN``): continues from another token; ``gap``: fills in text at that character."""
    page, is_gone = kit.current_page(), request.environ.get("waitress.client_disconnected", lambda: False)
    try:
        notebook = _saved(page, notebook_id)
        fork = re.fullmatch(r"fork:(\d{1,7}):(\d{1,7})", request.form.get("fork", ""))
        gap = request.form.get("gap", type=int)
        steps = page.notebooks.continued(
            notebook_id,
            notebook.draft.text,
            asker(),
            gap if gap is not None and 0 <= gap <= len(notebook.draft.text) else None,
            Fork(int(fork[1]), int(fork[2])) if fork else None,
        )
        if not kit.wants_json():
            for _ in steps:
                if is_gone():
                    break
            steps.close()
    except RoostError as exc:
        if exc.status == 404 and exc.code.startswith("notebook"):
            raise
        return _refused(page, notebook_id, exc)
    if kit.wants_json():
        return kit.json_lines(_lines(page, notebook_id, steps, is_gone))
    return redirect(url_for("notebook.show", notebook_id=notebook_id), 303)


def _lines(page: kit.PageContext, notebook_id: str, steps: Steps, is_gone: Callable[[], bool]) -> Iterator[bytes]:
    """The text before and after, then the generated text with each token's text, class and probability; finally the
    notebook's state. Ends, and stops generation, when the client has disconnected."""
    try:
        yield kit.json_line({"head": steps.head, "tail": steps.tail})
        for step in steps:
            if is_gone():
                return
            if isinstance(step, Written):
                yield kit.json_line({"text": step.text, "tokens": _brief(step)})
            elif isinstance(step, Waiting):
                yield kit.json_line({"waiting": waiting_text(step, page.t)})
            elif isinstance(step, Finished):
                at_limit = f" · {page.t('notebook.at_limit')}" if step.finish_reason == "length" else ""
                yield kit.json_line({"figures": written_text(step, page.t) + at_limit})
        steps.close()
        yield kit.json_line({"state": _state(page, page.notebooks.store.get(notebook_id))})
    except RoostError as exc:
        yield kit.json_line({"error": page.error_values(exc)})
        with contextlib.suppress(RoostError):  # it may have been deleted
            yield kit.json_line({"state": _state(page, page.notebooks.store.get(notebook_id))})
    finally:
        steps.close()


def _brief(step: Written) -> list[list[Any]]:
    """Merges tokens that form one character only together, with the lowest probability of them."""
    tokens = step.tokens
    if any("\ufffd" in token.text for token in tokens):
        tokens = (AnswerToken(0, step.text, min(token.probability for token in tokens)),)
    shown = [token_view(token, 0) for token in tokens]
    return [[token.text, view["level"], view["chance"]] for token, view in zip(tokens, shown, strict=True)]


@blueprint.post("/<notebook_id>/delete")
def delete(notebook_id: str) -> BaseResponse:
    notebooks = kit.current_page().notebooks
    name = notebooks.store.get(notebook_id).name
    notebooks.delete(notebook_id)
    return redirect(url_for("notebook.index", said="deleted", about=name, undo=notebook_id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo command of a toast."""
    store, notebook_id = kit.current_page().notebooks.store, kit.undone_id()
    store.check(notebook_id, g.person.id)
    restored = store.restore(notebook_id)
    return redirect(url_for("notebook.show", notebook_id=restored.id, said="restored", about=restored.name), 303)


# tokens


@blueprint.get("/<notebook_id>/tokens")
def tokens(notebook_id: str) -> Response:
    """The text token by token; ``at``: the alternatives to one of them."""
    page, at = kit.current_page(), request.args.get("at", type=int)
    notebook = page.notebooks.store.get(notebook_id)
    found = None if at is None else _alternatives(page, notebook_id, at)
    if found is not None and kit.wants_fragment():
        return kit.render_page("chat/_alternatives.html", {"found": found})
    pieces, has_more = page.notebooks.pieces(notebook.draft, SHOWN_TOKENS)
    values = {
        "page_title": notebook.name,
        "notebook": notebook,
        "pieces": [_piece(*piece) for piece in pieces],
        "has_more": has_more,
        "limit": SHOWN_TOKENS,
        "levels": len(CLASSES),
        "found": found,
    }
    return kit.render_page("notebook/tokens.html", values, "notebook/_tokens.html")


def _piece(place: int, text: str, chance: float | None) -> kit.Values:
    if chance is None:
        return {"place": -1, "text": text}
    return {**token_view(AnswerToken(0, text, chance), place), "chance": chance_text(chance)}


def _alternatives(page: kit.PageContext, notebook_id: str, place: int) -> kit.Values:
    view: kit.Values = {
        "id": "notebook",
        "place": place,
        "action": url_for("notebook.continue_", notebook_id=notebook_id),
        "choose": page.t("notebook.choose"),
    }
    try:
        own, best = page.notebooks.alternatives(notebook_id, place)
    except RoostError as exc:
        return {**view, "failure": page.error_values(exc)}
    rows = alternative_rows(own, best, place, "fork")
    return {**view, "rows": [{**row, "is_end": row["is_end"] or "\ufffd" in row["text"]} for row in rows]}


@blueprint.get("/<notebook_id>/export.txt")
def export(notebook_id: str) -> Response:
    notebook = kit.current_page().notebooks.store.get(notebook_id)
    return kit.download(notebook.draft.text, "text/plain", f"{kit.file_stem(notebook.name, 'notebook')}.txt")
