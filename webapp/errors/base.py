"""The root of the tree, and how an error becomes a dict and back."""

from __future__ import annotations

from typing import Any

from webapp.errors.phrase import Phrase, fill, phrase_from_dict


class RoostError(Exception):
    """Base of the tree. ``params`` are the values named in the texts: strings (or Phrases) and numbers only."""

    code = "internal_error"
    status = 500
    message_text = "Something went wrong inside Roost: {reason}"
    hint_text = "Try again; if it happens twice, the log of `roost serve` says more."

    def __init__(self, **params: Any) -> None:
        self.params = params
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The sentence, in English."""
        return fill(self.message_text, self.params)

    @property
    def hint(self) -> str:
        """The way out, in English."""
        return fill(self.hint_text, self.params)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return (error_from_dict, (self.to_dict(),))

    def to_dict(self) -> dict[str, Any]:
        """``{"code", "message", "hint", "params"}``, all JSON; ``phrases`` beside them where a value is a Phrase."""
        params = {name: str(value) if isinstance(value, Phrase) else value for name, value in self.params.items()}
        told: dict[str, Any] = {"code": self.code, "message": self.message, "hint": self.hint, "params": params}
        phrases = {name: value.to_dict() for name, value in self.params.items() if isinstance(value, Phrase)}
        return {**told, "phrases": phrases} if phrases else told


def all_errors() -> dict[str, type[RoostError]]:
    """Every class of the tree by its code."""
    found: dict[str, type[RoostError]] = {}
    todo: list[type[RoostError]] = [RoostError]
    while todo:
        cls = todo.pop()
        found.setdefault(cls.code, cls)
        todo.extend(cls.__subclasses__())
    return found


def error_from_dict(data: dict[str, Any]) -> RoostError:
    """The error that :meth:`RoostError.to_dict` described; an unknown code becomes a plain RoostError.

    A value of ``params`` that was changed since stands; its phrase is that of the value as it was.
    """
    cls = all_errors().get(str(data.get("code")))
    if cls is None:
        return RoostError(reason=str(data.get("message", "unknown error")))
    params = dict(data.get("params", {}))
    for name, told in data.get("phrases", {}).items():
        phrase = phrase_from_dict(told)
        params[name] = phrase if params.get(name) == phrase else params.get(name)
    return cls(**params)


def as_roost_error(exc: BaseException) -> RoostError:
    """``exc`` itself when it is one of ours, else a RoostError that keeps its type and words."""
    if isinstance(exc, RoostError):
        return exc
    if isinstance(exc, MemoryError):
        from webapp.errors.models import OutOfMemory  # its module needs this one

        return OutOfMemory(reason=str(exc) or "the system refused more memory")
    return RoostError(reason=f"{type(exc).__name__}: {exc}")


class SettingsError(RoostError):
    code = "settings_invalid"
    status = 400
    message_text = "The setting {name} cannot be {value!r}: {reason}"
    hint_text = "`roost serve --help` lists every setting with its range."
