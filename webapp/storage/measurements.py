"""Results of the speed bench in the database."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.errors import RoostError
from webapp.storage.database import Database
from webapp.storage.records import insert, to_json

KEPT = 200


@dataclass(frozen=True)
class Measurement:
    """``document``: the output of ``roost bench``; ``measured_at``: Unix seconds."""

    id: str
    machine: str
    measured_at: float
    document: dict[str, Any]


class MeasurementStore:
    """Cheap to create, thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, machine: str, document: Mapping[str, Any]) -> Measurement:
        """Deletes the oldest if there are more than :data:`KEPT`."""
        made = Measurement(uuid.uuid4().hex, machine, time.time(), dict(document))
        row = {"id": made.id, "machine": machine, "measured_at": made.measured_at, "body": to_json(made.document)}
        with self._database.transaction() as connection:
            insert(connection, "measurements", row)
            newest = "SELECT id FROM measurements ORDER BY measured_at DESC, rowid DESC LIMIT ?"
            connection.execute(f"DELETE FROM measurements WHERE id NOT IN ({newest})", (KEPT,))
        return made

    def of_machine(self, machine: str) -> list[Measurement]:
        """Newest first."""
        query = "SELECT * FROM measurements WHERE machine = ? ORDER BY measured_at DESC, rowid DESC"
        with self._database.newest() as connection:  # speeds are computed from them and cached
            rows = connection.execute(query, (machine,)).fetchall()
        return [Measurement(row["id"], row["machine"], row["measured_at"], json.loads(row["body"])) for row in rows]

    def delete(self, measurement_id: str) -> None:
        """Raises ``measurement_not_found`` for an unknown or deleted one."""
        with self._database.transaction() as connection:
            found = connection.execute("DELETE FROM measurements WHERE id = ?", (measurement_id,))
            if found.rowcount == 0:
                raise RoostError("measurement_not_found")
