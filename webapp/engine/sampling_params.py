"""The parameters for sampling the next token and for stopping. Plain data; see :mod:`webapp.engine.sampler`.

:class:`SamplingParams` is also the table of sampling parameters: a field's :func:`limits` are its range, step and
names in the APIs. The API bodies, the preset form, the chat's panel, the command line and the import of RWKV-Runner's
presets use it. To add a parameter: a field here, its part in the sampler, its texts in ``presets.json``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_origin

from msgspec import Struct, field
from msgspec.structs import asdict, fields

from webapp.errors import RequestError
from webapp.i18n import Text

MAX_ALTERNATIVES = 20
JS_SAFE_INTEGER = 2**53 - 1


class SamplingParameter(Struct, frozen=True):
    """One row of the table.

    ``kind``: float, int or bool. ``least`` and ``most``: its range, inclusive. Forms use ``step`` and ``slider`` (its
    ends); ``is_common`` shows it among the first. ``names``: API -> its name there, for the APIs that accept it.
    ``api_ranges``: API -> (least, most) if that API's range differs (a value below 0 then means "off" or "no limit").
    ``default`` None: not set.
    """

    name: str
    kind: type
    default: Any
    least: float
    most: float
    step: float = 1
    slider: tuple[float, float] = (0, 0)
    is_common: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    api_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def limits(least: float = 0, most: float = 1, *, apis: str, **row: Any) -> dict[str, Any]:
    """The metadata of a field of :class:`SamplingParams` that people set: its row, without name, type and default.
    ``apis``: the APIs that accept it, ``api:name`` if its name there is different."""
    return {"least": least, "most": most, "apis": apis, **row}


OPENAI_LIKE = "openai ollama runner"


class SamplingParams(Struct, frozen=True):
    """One request's sampling. Ranges follow RWKV-Runner's API where it has the field, OpenAI's otherwise.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``min_p`` 0 are off. ``penalty_decay`` multiplies every count
    after each token. ``global_penalty`` counts the prompt's tokens too. ``logit_bias`` is added before the softmax.
    A generation ends with ``stop`` at a token of ``stop_token_ids`` (not part of the text) or after a run of
    ``stop_token_sequences`` (whose tokens are not part of the text either). ``seed`` None: a random seed.
    """

    temperature: Annotated[
        float,
        limits(
            0, 5, step=0.05, slider=(0, 2), is_common=True,
            apis="openai ollama anthropic runner runner_preset", api_ranges={"runner": (0, 3)},
        ),
    ] = 1.0  # fmt: skip
    top_p: Annotated[
        float,
        limits(
            0, 1, step=0.01, slider=(0, 1), is_common=True, apis="openai ollama anthropic runner runner_preset:topP"
        ),
    ] = 0.3
    presence_penalty: Annotated[
        float,
        limits(-2, 2, step=0.05, slider=(-2, 2), is_common=True, apis=OPENAI_LIKE + " runner_preset:presencePenalty"),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        limits(-2, 2, step=0.05, slider=(-2, 2), is_common=True, apis=OPENAI_LIKE + " runner_preset:frequencyPenalty"),
    ] = 1.0
    max_tokens: Annotated[
        int,
        limits(
            1, 102_400, slider=(1, 8000), is_common=True,
            apis="ollama:num_predict runner runner_preset:maxResponseToken", api_ranges={"ollama": (-2, 2**31 - 1)},
        ),
    ] = 500  # fmt: skip
    penalty_decay: Annotated[
        float, limits(step=0.001, slider=(0.9, 1), apis=OPENAI_LIKE + " runner_preset:penaltyDecay")
    ] = 0.996
    global_penalty: Annotated[bool, limits(apis="openai runner runner_preset:globalPenalty")] = False
    top_k: Annotated[
        int,
        limits(
            0, 65_536, slider=(0, 200), apis="openai ollama anthropic runner",
            api_ranges=dict.fromkeys(("openai", "ollama", "anthropic"), (-1, 2**31 - 1)),
        ),
    ] = 0  # fmt: skip
    min_p: Annotated[float, limits(step=0.01, slider=(0, 0.5), apis="openai ollama")] = 0.0
    seed: Annotated[
        int | None,
        limits(
            0, JS_SAFE_INTEGER, apis="openai ollama",
            api_ranges={"openai": (-(2**63), 2**63 - 1), "ollama": (-(2**63), 2**63 - 1)},
        ),
    ] = None  # fmt: skip
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = (0,)
    stop_token_sequences: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    """Before this many tokens, only a complete grammar can end the answer."""
    ignore_eos: bool = False
    """Nothing ends the answer before ``max_tokens``."""
    count_weights: tuple[tuple[int, int, float], ...] = ()
    """(first id, last id + 1, weight): how much one use of such a token counts for the frequency penalty; 1 by default.
    Music models count waits less than notes."""
    rising_bias: tuple[tuple[int, float, float], ...] = ()
    """(token id, bias of its logit at the first token, growth per token): makes an ending more likely the longer a text
    is."""
    logprobs: int | None = None
    """How many alternatives to report per token (0 to 20); None reports nothing."""

    def __post_init__(self) -> None:
        for row in PARAMETERS:
            if row.kind is not bool and row.name != "seed":
                _check_range(row, getattr(self, row.name))
        for bias in self.logit_bias.values():
            _check_range(_BIAS, bias)
        _check_range(_MIN_TOKENS, self.min_tokens)
        for _, first, growth in self.rising_bias:
            _check_range(_BIAS, first)
            _check_range(_BIAS, growth)
        for _, _, weight in self.count_weights:
            _check_range(_WEIGHT, weight)
        if self.logprobs is not None:
            _check_range(_LOGPROBS, self.logprobs)
        if self.seed is not None and (not isinstance(self.seed, int) or isinstance(self.seed, bool)):
            raise _invalid("seed", repr(self.seed), Text("reason.engine.whole_number"))
        if any(not sequence for sequence in self.stop_token_sequences):
            empty = Text("reason.engine.empty_sequence")
            raise _invalid("stop_token_sequences", empty, Text("reason.engine.non_empty"))

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1

    @property
    def least_tokens(self) -> int:
        return self.max_tokens if self.ignore_eos else self.min_tokens

    @property
    def has_penalty(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SamplingParams:
        """From the form of :meth:`to_dict`, or any subset of it. Raises ``sampling_invalid`` for unknown names."""
        known = cls.__struct_fields__
        for name in data:
            if name not in known:
                allowed = Text("reason.engine.one_of", names=", ".join(sorted(known)))
                raise _invalid(name, Text("reason.engine.given"), allowed)
        return cls(**{name: _read(name, value) for name, value in data.items()})


def _rows() -> tuple[SamplingParameter, ...]:
    kinds = {float: float, int: int, int | None: int, bool: bool}
    table = [(each, each.type) for each in fields(SamplingParams) if get_origin(each.type) is Annotated]
    return tuple(_row(row.name, kinds[kind.__origin__], row.default, **kind.__metadata__[0]) for row, kind in table)


def _row(name: str, kind: type, default: Any, least: float, most: float, apis: str, **row: Any) -> SamplingParameter:
    pairs = [entry.partition(":") for entry in apis.split()]
    names = {api: there or name for api, _, there in pairs}
    bounds = (least, most) if kind is int else (float(least), float(most))
    return SamplingParameter(name, kind, default, *bounds, names=names, **row)


PARAMETERS: tuple[SamplingParameter, ...] = _rows()
"""The table, in the order of the forms."""
_BIAS = SamplingParameter("logit_bias", float, 0.0, -100, 100)
_WEIGHT = SamplingParameter("count_weights", float, 1.0, 0, 100)
_MIN_TOKENS = SamplingParameter("min_tokens", int, 0, 0, 102_400)
_LOGPROBS = SamplingParameter("logprobs", int, None, 0, MAX_ALTERNATIVES)

_FORMS: dict[str, tuple[Text, Callable[[Any], Any]]] = {
    "logit_bias": (
        Text("reason.engine.token_id_numbers"),
        lambda value: {int(k): float(v) for k, v in value.items()},
    ),
    "stop_token_ids": (Text("reason.engine.token_id_list"), lambda value: tuple(map(int, value))),
    "stop_token_sequences": (
        Text("reason.engine.token_id_lists"),
        lambda value: tuple(tuple(map(int, s)) for s in value),
    ),
    "count_weights": (
        Text("reason.engine.token_id_numbers"),
        lambda value: tuple((int(first), int(end), float(weight)) for first, end, weight in value),
    ),
    "rising_bias": (
        Text("reason.engine.token_id_numbers"),
        lambda value: tuple((int(token_id), float(first), float(growth)) for token_id, first, growth in value),
    ),
}
"""Fields with another form in JSON: a description for errors, and a reader."""


def _read(name: str, value: Any) -> Any:
    if name not in _FORMS:
        return value
    allowed, read = _FORMS[name]
    try:
        return read(value)
    except (TypeError, ValueError, AttributeError) as exc:
        raise _invalid(name, repr(value), allowed) from exc


def _check_range(row: SamplingParameter, value: Any) -> None:
    whole = row.kind is int
    ok = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not ok or not math.isfinite(value) or not row.least <= value <= row.most:
        key = "whole_number_between" if whole else "number_between"
        raise _invalid(row.name, repr(value), Text(f"reason.engine.{key}", least=row.least, most=row.most))


def _invalid(name: str, value: Text | str, allowed: Text) -> RequestError:
    return RequestError("sampling_invalid", name=name, value=value, allowed=allowed)
