"""Random whole numbers from the system's own source."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

MOST = 10**12
PARAMETERS = {
    "type": "object",
    "properties": {
        "minimum": {"type": "integer", "minimum": -MOST, "maximum": MOST},
        "maximum": {"type": "integer", "minimum": -MOST, "maximum": MOST},
    },
    "required": ["minimum", "maximum"],
}


def random_number(arguments: Mapping[str, Any]) -> dict[str, Any]:
    least, most = int(arguments["minimum"]), int(arguments["maximum"])
    if least > most:
        raise ValueError("minimum is larger than maximum")
    return {"number": least + secrets.randbelow(most - least + 1)}
