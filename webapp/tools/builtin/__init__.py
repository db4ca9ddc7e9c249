"""Tools that come with Roost. Each module has its definitions and the functions that answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.tools.builtin import attachment_search, calculator, chance, clock, units
from webapp.tools.builtin.context import BuiltinContext
from webapp.tools.definition import Approval, Behaviour, ToolDefinition

BuiltinFunction = Callable[[Mapping[str, Any], BuiltinContext | None], object]
"""A JSON value of the arguments and the chat it is called in (None outside any); ValueError with a sentence for the
model."""


@dataclass(frozen=True)
class Builtin:
    definition: ToolDefinition
    run: BuiltinFunction


def _builtin(name: str, description: str, parameters: Mapping[str, Any], run: BuiltinFunction) -> Builtin:
    definition = ToolDefinition(name, description, parameters, Behaviour.BUILTIN, builtin=name, approval=Approval.NEVER)
    return Builtin(definition, run)


def _alone(run: Callable[[Mapping[str, Any]], object]) -> BuiltinFunction:
    """For a tool that needs nothing of a chat."""
    return lambda arguments, context: run(arguments)


BUILTINS = {
    row.definition.name: row
    for row in (
        _builtin("calculate", "Work out an arithmetic expression", calculator.PARAMETERS, _alone(calculator.calculate)),
        _builtin("current_time", "Date and time now, in a time zone", clock.PARAMETERS, _alone(clock.current_time)),
        _builtin("convert_units", "Convert a quantity to another unit", units.PARAMETERS, _alone(units.convert)),
        _builtin("random_number", "Draw a random whole number", chance.PARAMETERS, _alone(chance.random_number)),
        _builtin(
            attachment_search.NAME,
            "Find passages in the files attached to this chat",
            attachment_search.PARAMETERS,
            attachment_search.search_attachments,
        ),
    )
}
"""By name. None of them reaches outside this process."""
