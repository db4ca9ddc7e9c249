"""A reason inside an error that can still be said in another language after it was filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Blank(dict[str, Any]):
    """Says ``?`` for a value that is missing."""

    def __missing__(self, key: str) -> str:
        return "?"


def fill(template: str, params: Mapping[str, Any]) -> str:
    """``template.format`` that never raises over a missing value."""
    return template.format_map(Blank(params))


def sentences(message: str, hint: str) -> str:
    """Sentence and way out in one line; a reason that came from elsewhere may lack its full stop."""
    if message.endswith(("。", "！", "？")):
        return message + hint
    if message.endswith((".", "!", "?", "…")) or not hint:
        return f"{message} {hint}".rstrip()
    is_chinese = any("\u4e00" <= char <= "\u9fff" for char in hint)
    return f"{message}。{hint}" if is_chinese else f"{message}. {hint}"


class Phrase(str):
    """``Phrase("it has {found} characters", found=9)``: its English text, and what the text was made of.

    The template is the key of its translation (``phrase.<template>`` in the catalogues), so it is a literal wherever
    one is made; tests/i18n/test_phrases.py holds every one to having Chinese words. Values are texts, numbers or
    phrases. A part of it, or a text with it inside, is a plain string again.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Phrase:
        self = super().__new__(cls, fill(template, values))
        self.template = template
        self.values = values
        return self

    def __reduce__(self) -> Any:
        return (phrase_from_dict, (self.to_dict(),))

    def to_dict(self) -> dict[str, Any]:
        """``{"template", "values"}``, all JSON."""
        return {"template": self.template, "values": {name: _plain(value) for name, value in self.values.items()}}


def phrase_from_dict(data: Mapping[str, Any]) -> Phrase:
    """What :meth:`Phrase.to_dict` described."""
    told = data["values"].items()
    return Phrase(data["template"], **{name: _rich(value) for name, value in told})


def _rich(value: Any) -> Any:
    return phrase_from_dict(value) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Phrase):
        return value.to_dict()
    return value if isinstance(value, (str, int, float)) else str(value)
