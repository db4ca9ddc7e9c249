"""What a program's request gets where it says nothing: the active preset's values, or Roost's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from webapp.chat.messages import ThinkMode
from webapp.engine.sampling_params import SamplingParams
from webapp.services.presets.defaults import sampling_with
from webapp.settings import Settings


class Preset(Protocol):
    """The part of :class:`webapp.storage.presets.Preset` that requests are given."""

    @property
    def stop(self) -> tuple[str, ...]: ...

    @property
    def template(self) -> str: ...

    @property
    def think_mode(self) -> Any: ...

    @property
    def tool_dialect(self) -> str: ...


class Presets(Protocol):
    """The part of :class:`webapp.services.presets.presets.Presets` that requests need."""

    def active(self) -> Any: ...

    def sampling(self, preset: Any, overrides: dict[str, Any], parameters: int) -> SamplingParams: ...


class CompletionDefaults:
    """``overrides`` are what Runner's ``/update-config`` has set since the start: they come before the preset.

    The preset's system prompt is not among the defaults: a program writes its own messages.
    """

    def __init__(self, settings: Settings, presets: Presets | None = None) -> None:
        self.overrides: dict[str, Any] = {}
        self._settings = settings
        self._presets = presets

    def sampling(self, asked: Mapping[str, Any], parameters: int) -> SamplingParams:
        """InvalidSampling for a value that cannot be. The limit on max_tokens is the manager's to refuse."""
        given = {**self.overrides, **asked}
        kept = {name: value for name, value in given.items() if name != "max_tokens"}
        if self._presets is None:
            params = sampling_with(self._settings, kept, parameters)
        else:
            params = self._presets.sampling(self._presets.active(), kept, parameters)
        if "max_tokens" not in given:
            return params
        return SamplingParams.from_dict(params.to_dict() | {"max_tokens": given["max_tokens"]})

    @property
    def stop(self) -> tuple[str, ...]:
        return tuple(self._presets.active().stop) if self._presets else ()

    @property
    def template(self) -> str:
        return str(self._presets.active().template) if self._presets else ""

    @property
    def tool_dialect(self) -> str:
        return str(self._presets.active().tool_dialect) if self._presets else ""

    @property
    def think_mode(self) -> ThinkMode:
        return ThinkMode(self._presets.active().think_mode or "none") if self._presets else ThinkMode.NONE
