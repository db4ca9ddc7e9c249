"""Tools that come with Roost. Each module has its definitions and the functions that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from webapp.tools.builtin import calculator, chance, clock, units
from webapp.tools.definition import Approval, Behaviour, ToolDefinition


class BuiltinFunction(Protocol):
    def __call__(self, arguments: Mapping[str, Any]) -> object:
        """A JSON value; raises ValueError with a sentence for the model."""


@dataclass(frozen=True)
class Builtin:
    definition: ToolDefinition
    run: BuiltinFunction


def _builtin(name: str, description: str, parameters: Mapping[str, Any], run: BuiltinFunction) -> Builtin:
    definition = ToolDefinition(name, description, parameters, Behaviour.BUILTIN, builtin=name, approval=Approval.NEVER)
    return Builtin(definition, run)


BUILTINS = {
    row.definition.name: row
    for row in (
        _builtin("calculate", "Work out an arithmetic expression", calculator.PARAMETERS, calculator.calculate),
        _builtin("current_time", "Date and time now, in a time zone", clock.PARAMETERS, clock.current_time),
        _builtin("convert_units", "Convert a quantity to another unit", units.PARAMETERS, units.convert),
        _builtin("random_number", "Draw a random whole number", chance.PARAMETERS, chance.random_number),
    )
}
"""By name. None of them reaches outside this process."""
