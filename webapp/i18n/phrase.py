"""A reason inside an error that can still be said in another language after it was filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Phrase(str):
    """``Phrase("it has {found} characters", found=9)``: its English text, and what the text was made of.

    The template is the key of its translation (``phrase.<template>`` in the catalogues), so it is a literal wherever
    one is made; tests/i18n/test_phrases.py holds every one to having Chinese words. Values are texts, numbers or
    phrases. A part of it, or a text with it inside, is a plain string again.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Phrase:
        from webapp.i18n.translation import fill

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
