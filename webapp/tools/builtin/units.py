"""Quantities in other units: factors to a base unit a dimension, temperature by its own formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from webapp.errors import Phrase

PARAMETERS = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "from_unit": {"type": "string", "description": "Such as km, lb, celsius"},
        "to_unit": {"type": "string"},
    },
    "required": ["value", "from_unit", "to_unit"],
}

# How many of the base unit each is: the legal definitions where there are any. 斤 is jin.
DIMENSIONS: dict[str, dict[str, float]] = {
    "length": {
        "mm": 1e-3, "cm": 0.01, "m": 1.0, "km": 1e3,
        "in": 0.0254, "ft": 0.3048, "yd": 0.9144, "mi": 1609.344, "nmi": 1852.0,
    },
    "mass": {"mg": 1e-6, "g": 1e-3, "kg": 1.0, "t": 1e3, "oz": 0.028349523125, "lb": 0.45359237, "jin": 0.5},
    "time": {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0, "week": 604800.0},
    "volume": {
        "ml": 1e-3, "l": 1.0, "m3": 1e3,
        "gal": 3.785411784, "qt": 0.946352946, "cup": 0.2365882365, "floz": 0.0295735295625,
    },
    "speed": {"m/s": 1.0, "km/h": 1 / 3.6, "mph": 0.44704, "kn": 1852 / 3600},
    "area": {"m2": 1.0, "km2": 1e6, "ha": 1e4, "acre": 4046.8564224, "ft2": 0.09290304},
    "data": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    "energy": {"j": 1.0, "kj": 1e3, "cal": 4.184, "kcal": 4184.0, "wh": 3600.0, "kwh": 3.6e6},
    "pressure": {"pa": 1.0, "kpa": 1e3, "bar": 1e5, "atm": 101325.0, "psi": 6894.757293168},
}  # fmt: skip
FACTORS = {name: (kind, factor) for kind, units in DIMENSIONS.items() for name, factor in units.items()}
OTHER_NAMES = {
    "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "centimeter": "cm", "millimeter": "mm",
    "inch": "in", "inches": "in", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi", "gram": "g",
    "kilogram": "kg", "ton": "t", "tonne": "t", "ounce": "oz", "pound": "lb", "second": "s", "minute": "min",
    "hour": "h", "days": "day", "weeks": "week", "liter": "l", "litre": "l", "milliliter": "ml", "gallon": "gal",
    "cups": "cup", "kmh": "km/h", "kph": "km/h", "knot": "kn", "byte": "b", "joule": "j", "calorie": "cal",
    "c": "celsius", "°c": "celsius", "f": "fahrenheit", "°f": "fahrenheit", "k": "kelvin",
    "公里": "km", "千米": "km", "米": "m", "厘米": "cm", "英里": "mi", "英尺": "ft", "英寸": "in",
    "公斤": "kg", "千克": "kg", "克": "g", "斤": "jin", "磅": "lb", "小时": "h", "分钟": "min", "秒": "s",
    "天": "day", "升": "l", "毫升": "ml",
    "摄氏度": "celsius", "华氏度": "fahrenheit",
}  # fmt: skip
TO_KELVIN = {
    "celsius": lambda value: value + 273.15,
    "fahrenheit": lambda value: (value + 459.67) * 5 / 9,
    "kelvin": float,
}
FROM_KELVIN = {
    "celsius": lambda value: value - 273.15,
    "fahrenheit": lambda value: value * 9 / 5 - 459.67,
    "kelvin": float,
}


def convert(arguments: Mapping[str, Any]) -> dict[str, Any]:
    value, source, target = float(arguments["value"]), unit(arguments["from_unit"]), unit(arguments["to_unit"])
    if source in TO_KELVIN and target in FROM_KELVIN:
        result = FROM_KELVIN[target](TO_KELVIN[source](value))
    elif source in TO_KELVIN or target in TO_KELVIN or FACTORS[source][0] != FACTORS[target][0]:
        raise ValueError(Phrase("{source} and {target} do not measure the same thing", source=source, target=target))
    else:
        result = value * FACTORS[source][1] / FACTORS[target][1]
    if not math.isfinite(result):
        raise ValueError("the result is no finite number")
    return {"value": float(f"{result:.10g}"), "unit": target}


def unit(name: object) -> str:
    """The short name; ValueError for one that is not known."""
    wanted = str(name).strip().replace("℃", "°C").replace("℉", "°F").lower().replace("²", "2").replace("³", "3")
    for candidate in (wanted, wanted.removesuffix("s"), OTHER_NAMES.get(wanted), OTHER_NAMES.get(wanted[:-1])):
        if candidate in FACTORS or candidate in TO_KELVIN:
            return str(candidate)
    raise ValueError(Phrase("the unit {name} is not known", name=repr(str(name)[:40])))
