"""Presets in the database: a person's own, and changed shipped ones.

A shipped preset is data that comes with Roost. It has a row only if it was edited or deleted, so that a new version of
Roost updates its values for everyone who did not change it. Values are not validated here: see
:mod:`webapp.services.presets.fields`.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from webapp.errors import PresetError, PresetNameTaken, PresetNotFound
from webapp.storage.database import Database
from webapp.storage.records import later_than, storable, to_json

MAX_PRESETS = 500
ACTIVE = "active_preset"


class Preset(Struct, frozen=True):
    """The settings of an answer: sampling, prompt, model. Times are Unix seconds, 0 for an unchanged shipped preset.

    ``sampling`` (names of ``SamplingParams``) and ``options`` (names of ``EngineOptions``) contain only differences
    from the defaults. "" means for ``template`` and ``tool_dialect`` the model's own, for ``model`` the chosen model,
    for ``strategy`` the best for this machine, for ``state`` the model's own initial state. ``tools`` are names, so
    that preset files work on other machines; unknown ones are ignored.
    """

    id: str
    name: str
    note: str = ""
    shipped_key: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    template: str = ""
    think_mode: str = "none"
    system_prompt: str = ""
    tools: tuple[str, ...] = ()
    tool_dialect: str = ""
    model: str = ""
    strategy: str = ""
    state: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    updated_at: float = 0.0

    @property
    def is_edited(self) -> bool:
        """Whether it is a shipped preset that a person has changed."""
        return bool(self.shipped_key) and self.updated_at > 0


COLUMNS = ("id", "name", "note", "shipped_key", "created_at", "updated_at")
BODY = tuple(name for name in Preset.__struct_fields__ if name not in COLUMNS)
Presets = list[Preset]  # inside the class `list` is the method


class PresetStore:
    """Cheap to create, thread-safe; every method is one transaction. Raises PresetNotFound for unknown presets.

    Names are unique, ignoring case, among presets that are not deleted.
    """

    def __init__(self, database: Database, shipped: Sequence[Preset] = ()) -> None:
        self.database = database
        self._shipped = {preset.id: preset for preset in shipped}

    def list(self) -> Presets:
        """A person's own by name, then the shipped ones in their order."""
        with self.database.connect() as connection:
            return self._living(connection)

    def get(self, preset_id: str) -> Preset:
        with self.database.connect() as connection:
            return self._get(connection, preset_id)

    def shipped(self, preset_id: str) -> Preset | None:
        """The shipped values, even if it was edited or deleted."""
        return self._shipped.get(preset_id)

    def create(self, name: str, **values: Any) -> Preset:
        """``values`` are fields of :class:`Preset`. Raises PresetNameTaken, ``too_many_presets``."""
        now = time.time()
        preset = Preset(uuid.uuid4().hex, _clean(name), created_at=now, updated_at=now, **values)
        with self.database.transaction() as connection:
            self._refuse_more(connection, 1)
            self._refuse_taken(connection, preset)
            _write(connection, preset)
        return preset

    def create_all(self, presets: Sequence[Preset]) -> Presets:
        """Creates all or none; adds a number to a name that is in use."""
        with self.database.transaction() as connection:
            self._refuse_more(connection, len(presets))
            return [self._add(connection, preset, preset.name) for preset in presets]

    def duplicate(self, preset_id: str, name: str = "") -> Preset:
        """Named ``name``, or like the original, with a number if the name is in use."""
        with self.database.transaction() as connection:
            self._refuse_more(connection, 1)
            original = self._get(connection, preset_id)
            return self._add(connection, original, name or original.name)

    def update(self, preset_id: str, expected_updated_at: float | None, **values: Any) -> Preset:
        """Returns the preset with these fields. Raises ``preset_changed`` if it was saved after ``expected_updated_at``
        (None: no check)."""
        with self.database.transaction() as connection:
            before = self._get(connection, preset_id)
            if expected_updated_at is not None and before.updated_at != expected_updated_at:
                raise PresetError("preset_changed", name=before.name)
            if "name" in values:
                values["name"] = _clean(values["name"])
            after = replace(before, **values, updated_at=later_than(before.updated_at))
            self._refuse_taken(connection, after)
            _write(connection, after)
            return after

    def rename(self, preset_id: str, name: str) -> Preset:
        return self.update(preset_id, None, name=name)

    def delete(self, preset_id: str) -> None:
        """Hides it until :meth:`restore`; a shipped one permanently."""
        with self.database.transaction() as connection:
            _write(connection, self._get(connection, preset_id), deleted_at=time.time())

    def restore(self, preset_id: str) -> Preset:
        """Undoes :meth:`delete`; adds a number to its name if another preset has it now."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT * FROM presets WHERE id = ?", (preset_id,)).fetchone()
            if row is None:
                return self._get(connection, preset_id)
            if row["deleted_at"] is None:
                return _from_row(row)
            preset = _from_row(row)
            preset = replace(preset, name=self._free_name(connection, preset.name))
            if preset == self._shipped.get(preset_id):  # unchanged: no row, so that new versions of Roost update it
                connection.execute("DELETE FROM presets WHERE id = ?", (preset_id,))
            else:
                _write(connection, preset)
            return preset

    def reset(self, preset_id: str) -> Preset:
        """Restores a shipped preset's original values, even if it was deleted."""
        if preset_id not in self._shipped:
            raise PresetNotFound()
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM presets WHERE id = ?", (preset_id,))
            self._refuse_taken(connection, self._shipped[preset_id])
        return self._shipped[preset_id]

    def hidden_shipped(self) -> Presets:
        """Shipped ones that were deleted, with their shipped values."""
        with self.database.connect() as connection:
            living = {preset.id for preset in self._living(connection)}
        return [preset for preset in self._shipped.values() if preset.id not in living]

    def purge_deleted(self, older_than: float) -> None:
        """Permanently removes a person's own; a deleted shipped one must stay recorded as deleted."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM presets WHERE deleted_at < ? AND shipped_key = ''", (older_than,))

    def active_id(self) -> str:
        """Of the activated preset, even if it does not exist any more; "" for none."""
        with self.database.connect() as connection:
            row = connection.execute("SELECT value FROM choices WHERE name = ?", (ACTIVE,)).fetchone()
            return str(row["value"]) if row else ""

    def set_active(self, preset_id: str) -> None:
        with self.database.transaction() as connection:
            self._get(connection, preset_id)
            connection.execute("INSERT OR REPLACE INTO choices (name, value) VALUES (?, ?)", (ACTIVE, preset_id))

    def _living(self, connection: sqlite3.Connection) -> Presets:
        rows = connection.execute("SELECT * FROM presets ORDER BY name COLLATE NOCASE, id").fetchall()
        found = {row["id"]: row for row in rows}
        own = [_from_row(row) for row in rows if row["deleted_at"] is None and row["id"] not in self._shipped]
        for preset in self._shipped.values():
            row = found.get(preset.id)
            if row is None or row["deleted_at"] is None:
                own.append(_from_row(row) if row is not None else preset)
        return own

    def _get(self, connection: sqlite3.Connection, preset_id: str) -> Preset:
        row = connection.execute("SELECT * FROM presets WHERE id = ?", (preset_id,)).fetchone()
        if row is not None and row["deleted_at"] is None:
            return _from_row(row)
        if row is None and preset_id in self._shipped:
            return self._shipped[preset_id]
        raise PresetNotFound()

    def _add(self, connection: sqlite3.Connection, original: Preset, name: str) -> Preset:
        now = time.time()
        name = self._free_name(connection, _clean(name))
        made = replace(original, id=uuid.uuid4().hex, name=name, shipped_key="", created_at=now, updated_at=now)
        _write(connection, made)
        return made

    def _free_name(self, connection: sqlite3.Connection, name: str) -> str:
        taken = {preset.name.casefold() for preset in self._living(connection)}
        wanted, number = name, 1
        while wanted.casefold() in taken:
            number += 1
            wanted = f"{name} ({number})"
        return wanted

    def _refuse_taken(self, connection: sqlite3.Connection, preset: Preset) -> None:
        name = preset.name.casefold()
        if any(other.id != preset.id and other.name.casefold() == name for other in self._living(connection)):
            raise PresetNameTaken(name=preset.name)

    def _refuse_more(self, connection: sqlite3.Connection, count: int) -> None:
        if len(self._living(connection)) + count > MAX_PRESETS:
            raise PresetError("too_many_presets", limit=MAX_PRESETS)


def _clean(name: str) -> str:
    return storable(" ".join(name.split()))


def _write(connection: sqlite3.Connection, preset: Preset, deleted_at: float | None = None) -> None:
    body = to_json({name: getattr(preset, name) for name in BODY})
    columns = [getattr(preset, name) for name in COLUMNS]
    connection.execute(
        """INSERT OR REPLACE INTO presets (id, name, note, shipped_key, created_at, updated_at, body, deleted_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        (*columns, body, deleted_at),
    )


def _from_row(row: sqlite3.Row) -> Preset:
    body = json.loads(row["body"])
    known = {name: body[name] for name in BODY if name in body}
    known |= {name: tuple(known.get(name, ())) for name in ("stop", "tools")}
    return Preset(**{name: row[name] for name in COLUMNS}, **known)
