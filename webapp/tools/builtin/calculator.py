"""Arithmetic from an expression's syntax tree: no names but the functions below, nothing is evaluated as code."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from webapp.errors import Phrase

PARAMETERS = {
    "type": "object",
    "properties": {"expression": {"type": "string", "description": "Such as (3 + 4) * 2 or sqrt(2)"}},
    "required": ["expression"],
}
MAX_CHARS = 500
MAX_NODES = 200
MAX_DIGITS = 1_000
"""Digits a whole number may grow to: `9 ** 9 ** 9` is refused before it is worked out."""
EXACT_DIGITS = 15
"""Of a fraction's; 0.1 + 0.2 is 0.3."""
FULL_WIDTH = {full: chr(full - 0xFEE0) for full in range(0xFF01, 0xFF5F)}
"""What Chinese keyboards write."""
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
    """To a whole number without ``digits``. Bounded: Python works out 10 ** -digits."""
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
    """ValueError with a sentence for what is no arithmetic, too long or too large."""
    expression = _without_thousands(expression.strip())
    if len(expression) > MAX_CHARS:
        raise ValueError(Phrase("the expression has more than {limit} characters", limit=MAX_CHARS))
    try:
        tree = ast.parse(expression, mode="eval")
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise ValueError("the expression is too long")
        result = _value(tree.body)
    except ZeroDivisionError as exc:
        raise ValueError("division by zero") from exc
    except OverflowError as exc:
        raise ValueError("the result is no finite number") from exc
    except (SyntaxError, TypeError, RecursionError, MemoryError) as exc:
        raise ValueError(Phrase("{expression} is no arithmetic expression", expression=repr(expression))) from exc
    if isinstance(result, float) and not math.isfinite(result):
        raise ValueError("the result is no finite number")
    return _bounded(result)


def _without_thousands(expression: str) -> str:
    """Commas between groups of three digits left out; between the brackets of a function they part its arguments."""
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
        return _bounded(FUNCTIONS[node.func.id](*map(_value, node.args)))
    raise ValueError(Phrase("only numbers, + - * / // % ** ( ) and {names} are known", names=", ".join(FUNCTIONS)))


def _power(base: Number, exponent: Number) -> Number:
    is_whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if is_whole and abs(base) > 1 and exponent * math.log10(abs(base)) > MAX_DIGITS:
        raise ValueError(Phrase("the result has more than {limit} digits", limit=MAX_DIGITS))
    result: Number = base**exponent
    if isinstance(result, complex):
        raise ValueError("the result is no real number")
    return _bounded(result)


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_DIGITS * 4:
        raise ValueError(Phrase("the result has more than {limit} digits", limit=MAX_DIGITS))
    return value
