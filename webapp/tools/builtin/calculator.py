"""Arithmetic from an expression's syntax tree: no names but the functions below, nothing is evaluated as code."""

from __future__ import annotations

import ast
import math
import operator
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
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("sqrt", "sin", "cos", "tan", "exp", "log", "log10", "floor", "ceil")},
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
}
CONSTANTS = {"pi": math.pi, "e": math.e}


def calculate(arguments: Mapping[str, Any]) -> dict[str, Any]:
    expression = str(arguments["expression"]).replace("^", "**").replace("×", "*").replace("÷", "/").replace(",", "")
    return {"expression": arguments["expression"], "result": value_of(expression)}


def value_of(expression: str) -> Number:
    """ValueError with a sentence for what is no arithmetic, too long or too large."""
    if len(expression) > MAX_CHARS:
        raise ValueError(Phrase("the expression has more than {limit} characters", limit=MAX_CHARS))
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise ValueError("the expression is too long")
        result = _value(tree.body)
    except ZeroDivisionError as exc:
        raise ValueError("division by zero") from exc
    except (SyntaxError, TypeError, OverflowError, RecursionError, MemoryError) as exc:
        raise ValueError(Phrase("{expression} is no arithmetic expression", expression=repr(expression))) from exc
    if isinstance(result, float) and not math.isfinite(result):
        raise ValueError("the result is no finite number")
    return _bounded(result)


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
