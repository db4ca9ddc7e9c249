"""Small named items that a person creates, of one kind each: prompts and personas."""

from __future__ import annotations

import functools
import json
import sqlite3
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from webapp.errors import RoostError
from webapp.storage.database import Database
from webapp.storage.records import insert, later_than, row_of, storable, to_json, update

MAX_ITEMS = 2000
"""Per kind."""
NOT_FOUND = functools.partial(RoostError, "item_not_found")


class SavedItem(Struct, frozen=True):
    """``body`` is JSON; ``updated_at`` (Unix seconds) must equal the form's value when it is saved."""

    id: str
    name: str
    body: Mapping[str, Any] = field(default_factory=dict)
    updated_at: float = 0.0
    has_picture: bool = False


Items = list[SavedItem]  # inside the class `list` is the method
_COLUMNS = "id, name, body, updated_at, picture IS NOT NULL AS has_picture"


class SavedItems:
    """The items of one kind. Cheap to create, thread-safe; every method is one transaction. Names are unique, ignoring
    case. Raises ``item_name_taken``, ``item_not_found``, ``too_many_items``, and ``item_changed`` if another form saved
    meanwhile."""

    def __init__(self, database: Database, kind: str) -> None:
        self._database = database
        self._kind = kind

    def list(self) -> Items:
        """By name."""
        query = f"SELECT {_COLUMNS} FROM saved_items WHERE kind = ? AND deleted_at IS NULL ORDER BY name COLLATE NOCASE"
        with self._database.connect() as connection:
            return [_item(row) for row in connection.execute(query, (self._kind,))]

    def get(self, item_id: str) -> SavedItem:
        query = f"SELECT {_COLUMNS} FROM saved_items WHERE id = ? AND kind = ? AND deleted_at IS NULL"
        with self._database.connect() as connection:
            row = connection.execute(query, (item_id, self._kind)).fetchone()
        if row is None:
            raise NOT_FOUND()
        return _item(row)

    def picture(self, item_id: str) -> bytes:
        with self._database.connect() as connection:
            row = row_of(connection, "saved_items", item_id, NOT_FOUND)
        if row["kind"] != self._kind or row["picture"] is None:
            raise NOT_FOUND()
        return bytes(row["picture"])

    def create_all(self, made: Sequence[tuple[str, Mapping[str, Any], bytes | None]]) -> Items:
        """(name, body, picture) for each, all or none; adds a number to a name that is in use."""
        now, found = time.time(), []
        with self._database.transaction() as connection:
            taken = {row["name"].casefold() for row in self._living(connection)}
            if len(taken) + len(made) > MAX_ITEMS:
                raise RoostError("too_many_items", limit=MAX_ITEMS)
            for name, body, picture in made:
                free = _free(storable(name), taken)
                taken.add(free.casefold())
                values = {"id": uuid.uuid4().hex, "name": free, "body": to_json(body), "updated_at": now}
                insert(connection, "saved_items", {**values, "kind": self._kind, "picture": picture})
                found.append(SavedItem(str(values["id"]), free, body, now, picture is not None))
        return found

    def save(
        self,
        item_id: str,
        name: str,
        body: Mapping[str, Any],
        picture: bytes | None = None,
        keeps_picture: bool = True,
        seen: float | None = None,
    ) -> SavedItem:
        """Creates an item for "". ``picture`` None keeps the existing one, unless ``keeps_picture`` is False."""
        with self._database.transaction() as connection:
            living = {row["id"]: row for row in self._living(connection)}
            if any(row["name"].casefold() == name.casefold() for key, row in living.items() if key != item_id):
                raise RoostError("item_name_taken", name=name)
            if not item_id:
                if len(living) >= MAX_ITEMS:
                    raise RoostError("too_many_items", limit=MAX_ITEMS)
                item_id, before = uuid.uuid4().hex, 0.0
                insert(connection, "saved_items", {"id": item_id, "kind": self._kind, "name": "", "updated_at": before})
            elif item_id not in living:
                raise NOT_FOUND()
            else:
                before = living[item_id]["updated_at"]
                if seen is not None and before != seen:
                    raise RoostError("item_changed", name=living[item_id]["name"])
            values: dict[str, Any] = {"name": storable(name), "body": to_json(body), "updated_at": later_than(before)}
            if picture is not None or not keeps_picture:
                values["picture"] = picture
            update(connection, "saved_items", item_id, **values)
            query = f"SELECT {_COLUMNS} FROM saved_items WHERE id = ?"
            return _item(connection.execute(query, (item_id,)).fetchone())

    def delete(self, item_id: str) -> SavedItem:
        """Hides it until :meth:`restore`."""
        item = self.get(item_id)
        with self._database.transaction() as connection:
            update(connection, "saved_items", item_id, deleted_at=time.time())
        return item

    def restore(self, item_id: str) -> SavedItem:
        """Adds a number to its name if another item has it now."""
        with self._database.transaction() as connection:
            row = row_of(connection, "saved_items", item_id, NOT_FOUND, with_deleted=True)
            if row["kind"] != self._kind:
                raise NOT_FOUND()
            if row["deleted_at"] is not None:
                name = _free(row["name"], {other["name"].casefold() for other in self._living(connection)})
                update(connection, "saved_items", item_id, deleted_at=None, name=name)
        return self.get(item_id)

    def _living(self, connection: sqlite3.Connection) -> Sequence[sqlite3.Row]:
        query = "SELECT id, name, updated_at FROM saved_items WHERE kind = ? AND deleted_at IS NULL"
        return connection.execute(query, (self._kind,)).fetchall()


def _free(name: str, taken: set[str]) -> str:
    wanted, number = name, 1
    while wanted.casefold() in taken:
        number += 1
        wanted = f"{name}-{number}"
    return wanted


def _item(row: sqlite3.Row) -> SavedItem:
    return SavedItem(row["id"], row["name"], json.loads(row["body"]), row["updated_at"], bool(row["has_picture"]))
