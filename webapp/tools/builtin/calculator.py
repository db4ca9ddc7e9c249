"""Evaluates arithmetic from an expression's syntax tree: only the functions below are allowed, no code is evaluated."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from webapp.i18n import Text

PARAMETERS = {
    "type": "object",
    "properties": {"expression": {"type": "string", "description": "Such as (3 + 4) * 2 or sqrt(2)"}},
    "required": ["expression"],
}
MAX_CHARS = 500
MAX_NODES = 200
MAX_DIGITS = 1_000
"""The most digits of an integer: `9 ** 9 ** 9` is refused before it is calculated."""
EXACT_DIGITS = 15
"""Digits of a fraction, so that 0.1 + 0.2 is 0.3."""
FULL_WIDTH = {full: chr(full - 0xFEE0) for full in range(0xFF01, 0xFF5F)}
"""Characters that Chinese keyboards type."""
SIGNS = {"^": "**", "×": "*", "÷": "/", "−": "-", "–": "-", "²": "**2", "³": "**3", "π": "pi"}
WRITTEN = {**FULL_WIDTH, **{ord(sign): text for sign, text in SIGNS.items()}}
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
CALL_OR_BRACKET = re.compile(r"[A-Za-z_]\w*\s*\(|[()]")

Number = int | float

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def _rounded(value: Any, digits: Any = 0) -> Any:
    """Returns an integer without ``digits``. ``digits`` is limited, because Python calculates 10 ** -digits."""
    if not isinstance(digits, int) or abs(digits) > MAX_DIGITS:
        raise TypeError("no number of digits")
    return round(value, digits) if digits else round(value)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("sqrt", "sin", "cos", "tan", "exp", "log", "log10", "floor", "ceil")},
    "abs": abs,
    "round": _rounded,
    "min": min,
    "max": max,
}
CONSTANTS = {"pi": math.pi, "e": math.e}


def calculate(arguments: Mapping[str, Any]) -> dict[str, Any]:
    result = value_of(str(arguments["expression"]).translate(WRITTEN).strip(" ="))
    shown = float(f"{result:.{EXACT_DIGITS}g}") if isinstance(result, float) else result
    return {"expression": arguments["expression"], "result": shown}


def value_of(expression: str) -> Number:
    """Raises ValueError with a sentence if it is not arithmetic, too long or too large."""
    expression = _without_thousands(expression.strip())
    if len(expression) > MAX_CHARS:
        raise ValueError(Text("reason.tools.expression_too_long", limit=MAX_CHARS))
    try:
        tree = ast.parse(expression, mode="eval")
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise ValueError(Text("reason.tools.expression_too_large"))
        result = _value(tree.body)
    except ZeroDivisionError as exc:
        raise ValueError(Text("reason.tools.division_by_zero")) from exc
    except OverflowError as exc:
        raise ValueError(Text("reason.tools.result_not_finite")) from exc
    except (SyntaxError, TypeError, RecursionError, MemoryError) as exc:
        raise ValueError(Text("reason.tools.no_arithmetic_expression", expression=repr(expression))) from exc
    if isinstance(result, float) and not math.isfinite(result):
        raise ValueError(Text("reason.tools.result_not_finite"))
    return _bounded(result)


def _without_thousands(expression: str) -> str:
    """Removes commas between groups of three digits. In the brackets of a function, commas separate its arguments."""
    parts: list[str] = []
    place, is_call = 0, [False]
    for found in CALL_OR_BRACKET.finditer(expression):
        parts.append(_plain(expression[place : found.start()], is_call[-1]) + found[0])
        place = found.end()
        if found[0].endswith("("):
            is_call.append(found[0] != "(")
        elif len(is_call) > 1:
            is_call.pop()
    return "".join(parts) + _plain(expression[place:], is_call[-1])


def _plain(text: str, is_call: bool) -> str:
    return text if is_call else THOUSANDS.sub("", text)


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return _bounded(node.value)
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        return CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return _bounded(UNARY[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _power(_value(node.left), _value(node.right))
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        return _bounded(BINARY[type(node.op)](_value(node.left), _value(node.right)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        values = [_value(argument) for argument in node.args]
        try:
            result = FUNCTIONS[node.func.id](*values)
        except ValueError as exc:  # for example sqrt(-1)
            raise ValueError(Text("reason.tools.result_not_real")) from exc
        return _bounded(result)
    raise ValueError(Text("reason.tools.unknown_in_expression", names=", ".join(FUNCTIONS)))


def _power(base: Number, exponent: Number) -> Number:
    is_whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if is_whole and abs(base) > 1 and exponent * math.log10(abs(base)) > MAX_DIGITS:
        raise ValueError(Text("reason.tools.result_too_long", limit=MAX_DIGITS))
    result: Number = base**exponent
    if isinstance(result, complex):
        raise ValueError(Text("reason.tools.result_not_real"))
    return _bounded(result)


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_DIGITS * 4:
        raise ValueError(Text("reason.tools.result_too_long", limit=MAX_DIGITS))
    return value


UNIT_PARAMETERS = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "from_unit": {"type": "string", "description": "Such as km, lb, celsius"},
        "to_unit": {"type": "string"},
    },
    "required": ["value", "from_unit", "to_unit"],
}

# The size of each unit in base units, by legal definitions if there are any. 斤 is jin.
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
        raise ValueError(Text("reason.tools.unit_mismatch", source=source, target=target))
    else:
        result = value * FACTORS[source][1] / FACTORS[target][1]
    if not math.isfinite(result):
        raise ValueError(Text("reason.tools.result_not_finite"))
    return {"value": float(f"{result:.10g}"), "unit": target}


def unit(name: object) -> str:
    """The unit's short name. Raises ValueError if it is unknown."""
    wanted = str(name).strip().replace("℃", "°C").replace("℉", "°F").lower().replace("²", "2").replace("³", "3")
    for candidate in (wanted, wanted.removesuffix("s"), OTHER_NAMES.get(wanted), OTHER_NAMES.get(wanted[:-1])):
        if candidate in FACTORS or candidate in TO_KELVIN:
            return str(candidate)
    raise ValueError(Text("reason.tools.unit_is_not_known", name=repr(str(name)[:40])))
