"""How the next token is chosen, and when to stop. Plain data; the sampler is in :mod:`webapp.engine.sampler`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from webapp.errors import InvalidSampling, Phrase

MOST_ALTERNATIVES = 20
_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 102_400),
    "temperature": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 65_536),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "penalty_decay": (0.0, 1.0),
}


@dataclass(frozen=True)
class SamplingParams:
    """One request's sampling. Ranges follow RWKV-Runner's API where it has the field, OpenAI's otherwise.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``min_p`` 0 are off. ``penalty_decay`` multiplies every count
    after each token. ``global_penalty`` counts the prompt's tokens too. ``logit_bias`` is added before the softmax.
    A generation ends with ``stop`` at a token of ``stop_token_ids`` (not part of the text) or after a run of
    ``stop_token_sequences`` (whose tokens are not part of the text either). ``seed`` None draws one.
    """

    max_tokens: int = 500
    temperature: float = 1.0
    top_p: float = 0.3
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 1.0
    penalty_decay: float = 0.996
    global_penalty: bool = False
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = (0,)
    stop_token_sequences: tuple[tuple[int, ...], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    """How many alternatives to report per token (0 to 20); None reports nothing."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            _check_range(name, getattr(self, name), low, high)
        for bias in self.logit_bias.values():
            _check_range("logit_bias", bias, -100.0, 100.0)
        if self.logprobs is not None:
            _check_range("logprobs", self.logprobs, 0, MOST_ALTERNATIVES)
        if self.seed is not None and (not isinstance(self.seed, int) or isinstance(self.seed, bool)):
            raise InvalidSampling(name="seed", value=repr(self.seed), allowed="a whole number")
        if any(not sequence for sequence in self.stop_token_sequences):
            raise InvalidSampling(name="stop_token_sequences", value="an empty sequence", allowed="non-empty")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1

    @property
    def has_penalty(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SamplingParams:
        """From :meth:`to_dict`'s form, or any subset of it; unknown names are an InvalidSampling."""
        known = {f.name for f in fields(cls)}
        for name in data:
            if name not in known:
                raise InvalidSampling(
                    name=name, value="given", allowed=Phrase("one of {names}", names=", ".join(sorted(known)))
                )
        return cls(**{name: _read(name, value) for name, value in data.items()})


_FORMS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "logit_bias": ("token ids with a number each", lambda value: {int(k): float(v) for k, v in value.items()}),
    "stop_token_ids": ("a list of token ids", lambda value: tuple(map(int, value))),
    "stop_token_sequences": ("a list of lists of token ids", lambda value: tuple(tuple(map(int, s)) for s in value)),
}
"""What JSON has another form for, in words and as a reader."""


def _read(name: str, value: Any) -> Any:
    if name not in _FORMS:
        return value
    allowed, read = _FORMS[name]
    try:
        return read(value)
    except (TypeError, ValueError, AttributeError) as exc:
        raise InvalidSampling(name=name, value=repr(value), allowed=allowed) from exc


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    whole = isinstance(low, int)
    ok = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not ok or not math.isfinite(value) or not low <= value <= high:
        bounds = {"least": low, "most": high}
        if whole:
            allowed = Phrase("a whole number from {least} to {most}", **bounds)
        else:
            allowed = Phrase("a number from {least} to {most}", **bounds)
        raise InvalidSampling(name=name, value=repr(value), allowed=allowed)
