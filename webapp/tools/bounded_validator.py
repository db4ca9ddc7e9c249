"""jsonschema's validator, made to end soon whatever schema and arguments are: people, models and servers choose both.

What differs from JSON Schema (draft 2020-12): patterns are matched by whoever does it in linear time, or not at all;
`unevaluatedProperties` and `unevaluatedItems` are not looked at; numbers that are equal but written differently (1 and
1.0) count as unique. A schema whose references lead further than :data:`MAX_REFERENCES` steps raises TooManySteps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_REFERENCES = 5_000
"""Followed for one value: 25 levels of two references each would be 33 million."""

Matcher = Callable[[str, str], bool]
"""``(pattern, text)`` -> whether the pattern occurs in the text, in time linear in the text."""


class TooManySteps(Exception):
    """The check was given up."""


def bounded_validator(schema: Mapping[str, Any], matches: Matcher | None) -> Any:
    """A `jsonschema` validator for one value. Without ``matches`` patterns are not looked at."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    words = _Words(matches, Draft202012Validator.VALIDATORS["$ref"])
    changed = {
        "$ref": words.reference,
        "pattern": words.pattern,
        "patternProperties": words.pattern_properties,
        "additionalProperties": words.additional_properties,
        "uniqueItems": _unique_items,
        "unevaluatedProperties": _ignored,
        "unevaluatedItems": _ignored,
    }
    return extend(Draft202012Validator, changed)(schema, registry=Registry())


class _Words:
    """What keywords mean here, each ``(validator, keyword's value, instance, schema)`` -> errors."""

    def __init__(self, matches: Matcher | None, follow: Any) -> None:
        self._matches = matches
        self._follow = follow
        self._references = 0

    def reference(self, validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[Any]:
        self._references += 1
        if self._references > MAX_REFERENCES:
            raise TooManySteps(f"it refers to itself more than {MAX_REFERENCES} times")
        yield from self._follow(validator, reference, instance, schema)

    def pattern(self, validator: Any, expected: str, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        if self._matches is not None and isinstance(instance, str) and not self._matches(expected, instance):
            yield ValidationError(f"{instance[:80]!r} does not match {expected[:80]!r}")

    def pattern_properties(self, validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if self._matches is None or not isinstance(instance, dict):
            return
        for name, value in instance.items():
            for pattern in self._patterns_of(name, expected):
                yield from validator.descend(value, expected[pattern], path=name, schema_path=pattern)

    def additional_properties(self, validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        patterns = schema.get("patternProperties", {})
        if not isinstance(instance, dict) or (patterns and self._matches is None):
            return
        known = schema.get("properties", {})
        extra = [name for name in instance if name not in known and not self._patterns_of(name, patterns)]
        if expected is False and extra:
            yield ValidationError(f"there is no parameter {', '.join(map(repr, extra[:5]))[:200]}")
        elif expected is not False:
            for name in extra:
                yield from validator.descend(instance[name], expected, path=name)

    def _patterns_of(self, name: str, patterns: Mapping[str, Any]) -> list[str]:
        assert self._matches is not None or not patterns, "patterns are matched only by who can"
        return [pattern for pattern in patterns if self._matches and self._matches(pattern, name)]


def _unique_items(validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    values = instance if expected is True and isinstance(instance, list) else []
    if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
        yield ValidationError("it has the same value twice")


def _ignored(validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return iter(())
