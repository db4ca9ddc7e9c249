"""What a person can choose about an engine besides its model, as data for pages, presets and the command line: the
options of every engine, then those that a backend declares and that a strategy contains.

The texts of a backend's options (``label``, ``help``, ``text``) are catalogue keys. A text that is not a key is shown
as it is, so that a backend needs no other file. Imports nothing heavy.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from webapp.errors import InvalidOption, StrategyError
from webapp.i18n import Text

MAX_THREADS = 4096
MAX_PREFILL_CHUNK = 65536
MAX_ALPHA = 1e6
ADAPTER = ("adapter_file", "adapter_alpha", "adapter_start")
NEEDS_RELOAD = ("threads", "prefill_chunk", "custom_cuda", "tokenizer", *ADAPTER)
"""These take effect only with a new load; ``idle_unload_s`` takes effect at once."""


class EngineOptions(Struct, frozen=True):
    """``threads``: CPU threads. ``prefill_chunk``: prompt tokens per step. ``idle_unload_s``: seconds without a request
    before the model is unloaded; 0 means never. ``custom_cuda``: the backend's own CUDA kernels. ``tokenizer``:
    ``world``, ``byte`` or a vocabulary file. ``adapter_file``: a LoRA or similar, merged into the model while it loads.
    ``adapter_alpha``: the alpha of its training if the file does not contain it. ``adapter_start``: the initial weights
    of a PiSSA training.

    0 (``idle_unload_s``: None, ``tokenizer``: "") means the server's settings decide, then the backend or the model.
    Without ``adapter_file`` there is no adapter. Raises InvalidOption for a value out of range.
    """

    threads: int = 0
    prefill_chunk: int = 0
    idle_unload_s: float | None = None
    custom_cuda: bool = False
    tokenizer: str = ""
    adapter_file: str = ""
    adapter_alpha: float = 0.0
    adapter_start: str = ""

    def __post_init__(self) -> None:
        for name, most in (("threads", MAX_THREADS), ("prefill_chunk", MAX_PREFILL_CHUNK)):
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
            self._require(name, is_whole, Text("reason.engine.whole_number_between", least=0, most=most))
        seconds, alpha = self.idle_unload_s, self.adapter_alpha
        is_time = seconds is None or (_is_number(seconds) and math.isfinite(seconds) and seconds >= 0)
        self._require("idle_unload_s", is_time, Text("reason.engine.seconds"))
        self._require("custom_cuda", isinstance(self.custom_cuda, bool), Text("reason.engine.true_or_false"))
        self._require("tokenizer", isinstance(self.tokenizer, str), Text("reason.engine.name_of_a_vocabulary"))
        for name in ("adapter_file", "adapter_start"):
            self._require(name, isinstance(getattr(self, name), str), Text("reason.engine.name_of_an_adapter"))
        is_alpha = _is_number(alpha) and 0 <= alpha <= MAX_ALPHA
        self._require("adapter_alpha", is_alpha, Text("reason.engine.number_between", least=0, most=MAX_ALPHA))

    def _require(self, name: str, is_fine: bool, allowed: Text) -> None:
        if not is_fine:
            raise InvalidOption(name=name, value=repr(getattr(self, name)), allowed=allowed)

    def over(self, defaults: EngineOptions) -> EngineOptions:
        """These options, with ``defaults`` for what they leave open; an adapter never comes from the defaults."""
        names = ("threads", "prefill_chunk", "custom_cuda", "tokenizer")
        given = {name: getattr(self, name) or getattr(defaults, name) for name in names}
        idle_s = defaults.idle_unload_s if self.idle_unload_s is None else self.idle_unload_s
        return replace(self, idle_unload_s=idle_s, **given)

    def with_adapter(self, file: str, alpha: float = 0.0, start: str = "") -> EngineOptions:
        """The same options with this adapter instead of any other; "" for none."""
        return replace(self, adapter_file=file, adapter_alpha=alpha, adapter_start=start)

    def reload_differences(self, other: EngineOptions) -> tuple[str, ...]:
        """The names of the options that require a reload of an engine that was loaded with ``other``."""
        return tuple(name for name in NEEDS_RELOAD if getattr(self, name) != getattr(other, name))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


AUTOMATIC = "auto"
"""The strategy that lets Roost choose, as an empty one does (:class:`.registry.Candidates`)."""


def is_automatic(strategy: str) -> bool:
    """Whether the strategy lets Roost choose."""
    return strategy.strip().lower() in ("", AUTOMATIC)


OptionValue = str | int | float | bool
Options = Mapping[str, OptionValue]
"""Values by option name. A backend's classmethods and ``load`` receive every declared option, checked."""

BY_STRATEGY = "strategy"
"""Name of an option whose value is the whole strategy string, for a backend with its own grammar."""
SWITCH_WORDS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
OF_ENGINE = set(EngineOptions.__struct_fields__)
"""Options with these names take the value of the engine option: presets have their own fields for them."""


class BackendOption(Struct, frozen=True):
    """One thing a person can choose.

    ``kind`` is ``choice`` (one of ``choices``), ``whole`` or ``number`` (from ``low`` to ``high``), ``switch`` (true or
    false) or ``text``. A change takes effect when the model is loaded again.
    """

    name: str
    kind: Literal["choice", "whole", "number", "switch", "text"]
    default: OptionValue
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    label: str = ""
    help: str = ""

    def checked(self, value: object) -> OptionValue:
        """The value in the option's own type. Text from a strategy string or form is converted to a number or switch if
        needed. Raises InvalidOption."""
        if self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return value
            raise self._invalid(value, Text("reason.engine.one_of", names=", ".join(self.choices)))
        if self.kind == "switch":
            if isinstance(value, bool):
                return value
            if str(value).lower() in SWITCH_WORDS:
                return SWITCH_WORDS[str(value).lower()]
            raise self._invalid(value, Text("reason.engine.true_or_false"))
        if self.kind == "text":
            if isinstance(value, str):
                return value
            raise self._invalid(value, "text")
        return self._number(value)

    def nearest(self, value: object) -> OptionValue:
        """For form input: clamps a number to its range; returns the default for what cannot be parsed."""
        try:
            return self.checked(value)
        except InvalidOption:
            pass
        try:
            number = min(max(float(str(value)), self.low), self.high) if self.kind in ("whole", "number") else None
        except ValueError:
            number = None
        return self.default if number is None or number != number else self.checked(int(number))

    def _number(self, value: object) -> int | float:
        read: type[int] | type[float] = int if self.kind == "whole" else float
        bounds = {"least": self.low, "most": self.high}
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError(value)
            number = read(str(value))
            if not self.low <= number <= self.high:  # NaN is outside, too
                raise ValueError(value)
        except ValueError as exc:
            if self.kind == "whole":
                raise self._invalid(value, Text("reason.engine.whole_number_between", **bounds)) from exc
            raise self._invalid(value, Text("reason.engine.number_between", **bounds)) from exc
        return number

    def _invalid(self, value: object, allowed: Text | str) -> InvalidOption:
        return InvalidOption(name=self.name, value=repr(value), allowed=allowed)


ADAPTER_OPTIONS = (
    BackendOption("adapter_file", "text", ""),
    BackendOption("adapter_alpha", "number", 0.0, low=0, high=MAX_ALPHA),
    BackendOption("adapter_start", "text", ""),
)
"""For a backend that merges an adapter while it loads (``webapp.weights.adapter``). The files are full paths, which a
strategy cannot contain: the library finds them first."""


class BackendKind(Struct, frozen=True):
    """A way to run a model as pages show it: a card of the strategy builder, a row of the comparison.

    ``key`` is also the first word of its strategies, unless the backend has its own grammar. ``order``: its position,
    lowest first. ``hardware``: ``any`` or ``nvidia``. ``is_text``: people write its strategy by hand.
    """

    key: str
    label: str
    text: str = ""
    order: int = 50
    hardware: Literal["any", "nvidia"] = "any"
    versions: tuple[str, ...] = ("4", "5", "6", "7")
    formats: tuple[str, ...] = (".pth", ".safetensors", ".st")
    is_text: bool = False


class Builder(Struct, frozen=True):
    """What the strategy builder offers for one kind, model and choice: the ``options`` to show, their ``values`` as far
    as kind and model allow them, and the resulting ``strategy``. ``note`` says why options are missing."""

    options: tuple[BackendOption, ...] = ()
    values: Options = field(default_factory=dict)
    strategy: str = ""
    note: str = ""


class PlacedRun(Struct, frozen=True):
    """``count`` layers from ``first`` (counted from 0) with the same placement. The head is not in ``count``;
    ``has_head`` says whether it is placed with them."""

    device: str
    precision: str
    is_streamed: bool
    first: int
    count: int
    has_head: bool


def plain_builder(options: Sequence[BackendOption], kind: str, given: Mapping[str, object]) -> Builder:
    """Every option except the engine's, and the words for them: always the first choice, and the others if they differ
    from the default."""
    shown = tuple(option for option in options if option.name not in OF_ENGINE)
    values = {option.name: option.nearest(given.get(option.name, option.default)) for option in shown}
    words = [kind]
    for option in shown:
        value, is_first = values[option.name], option.kind == "choice" and len(words) == 1
        if value == option.default and not is_first:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        is_clear = option.kind == "choice" and next(one for one in options if value in one.choices) is option
        words.append(shlex.quote(text) if is_clear else f"{option.name}={shlex.quote(text)}")
    return Builder(shown, values, " ".join(words))


def read_words(options: Sequence[BackendOption], strategy: str) -> dict[str, Any]:
    """Reads the words after the first: ``name=value``, quoted as in a shell. A single word is the value of the first
    choice option that has it. Raises StrategyError."""
    names = [option.name for option in options if option.name not in ADAPTER]
    found: dict[str, Any] = {}
    try:
        words = shlex.split(strategy)[1:]
    except ValueError as exc:  # an open quote
        raise StrategyError(
            strategy=strategy,
            reason=Text("reason.engine.open_quote"),
            way_out=Text("reason.engine.close_the_quote"),
        ) from exc
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            value, name = word, next((option.name for option in options if word in option.choices), word)
        if name not in names:
            raise StrategyError(
                strategy=strategy,
                reason=Text("reason.engine.unknown_option", name=word),
                way_out=Text("reason.engine.options", names=", ".join(names)),
            )
        found[name] = value
    return found


def usage(options: Sequence[BackendOption], kind: str) -> str:
    """The syntax of a strategy with these options, such as ``native [q8|q6] [head=same|q8] [level=0..9]``."""
    words = [kind]
    for option in (option for option in options if option.name not in OF_ENGINE):
        bounds = {"whole": f"{option.low:g}..{option.high:g}", "number": f"{option.low:g}..{option.high:g}"}
        value = "|".join(option.choices) or bounds.get(option.kind, "on|off" if option.kind == "switch" else "TEXT")
        words.append(f"[{value}]" if option.choices and len(words) == 1 else f"[{option.name}={value}]")
    return " ".join(words)
