"""What is done to whole presets; each answers with the address to show next."""

from __future__ import annotations

from collections.abc import Callable

from flask import Request, url_for

from webapp.errors import BadFrame, Phrase, PresetFileInvalid, PresetUnnamed
from webapp.services.presets.files import FILE_CHARS
from webapp.web.kit.page import current_locale, translator
from webapp.web.presets.house import House
from webapp.web.presets.names import shown_name

Command = Callable[[House, str, Request], str]


def perform(house: House, command: str, target: str, request: Request) -> str:
    """The address of the next page; raises the typed error of whatever did not work."""
    if command not in COMMANDS:
        raise BadFrame(reason=Phrase("there is no command {name}", name=repr(command[:40])))
    return COMMANDS[command](house, target, request)


def create(house: House, target: str, request: Request) -> str:
    """From a template, or from nothing; without a name it is called like its template."""
    template = request.form.get("from", "")[:64]
    name = request.form.get("name", "").strip()
    if template:
        original = house.presets.get(template)
        made = house.presets.duplicate(template, name or shown_name(original, translator(current_locale())))
    elif not name:
        raise PresetUnnamed(name="name")
    else:
        made = house.presets.create(name)
    return edit_url(made.id)


def duplicate(house: House, target: str, request: Request) -> str:
    original = house.presets.get(target)
    return edit_url(house.presets.duplicate(target, shown_name(original, translator(current_locale()))).id)


def rename(house: House, target: str, request: Request) -> str:
    house.presets.rename(target, request.form.get("name", ""))
    return url_for("presets.index")


def delete(house: House, target: str, request: Request) -> str:
    house.presets.delete(target)
    return url_for("presets.index", done="deleted", undo=f"restore:{target}")


def restore(house: House, target: str, request: Request) -> str:
    house.presets.restore(target)
    return url_for("presets.index")


def use(house: House, target: str, request: Request) -> str:
    """Makes it the active one; its model is loaded when it is another than what runs."""
    house.presets.apply(target)
    return edit_url(target) if request.form.get("back") == "edit" else url_for("presets.index", done="used")


def reset(house: House, target: str, request: Request) -> str:
    house.presets.reset(target)
    return edit_url(target)


def import_presets(house: House, target: str, request: Request) -> str:
    """A chosen file, else pasted text."""
    made = house.presets.import_text(imported_text(request))
    return url_for("presets.index", done="imported", count=len(made))


def imported_text(request: Request) -> str:
    file = request.files.get("file")
    if file is None or not file.filename:
        return request.form.get("text", "")
    data = file.stream.read(4 * FILE_CHARS + 1)
    if len(data) > 4 * FILE_CHARS:
        raise PresetFileInvalid(reason="it is too large")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise PresetFileInvalid(reason="it is no text") from exc


def edit_url(preset_id: str) -> str:
    return url_for("presets.edit", preset_id=preset_id)


COMMANDS: dict[str, Command] = {
    "create": create,
    "duplicate": duplicate,
    "rename": rename,
    "delete": delete,
    "restore": restore,
    "use": use,
    "reset": reset,
    "import": import_presets,
}
