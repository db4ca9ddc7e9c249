"""The part of a request that says how tokens are chosen: OpenAI's names and Roost's, shared by chat and text."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from webapp.errors import ParameterInvalid

MAX_STOPS = 64
MAX_STOP_CHARS = 1000

Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class StreamOptions(msgspec.Struct, kw_only=True):
    """``include_usage``: one more chunk before the end, with the token counts and no choices."""

    include_usage: bool | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """What is left out, or null, is as the active preset has it. Names not listed here are ignored."""

    model: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=5, description="0 always takes the likeliest token.")] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=65536, description="0 or -1 is off.")] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    penalty_decay: Annotated[float, Meta(ge=0, le=1, description="Multiplies every count after each token.")] | None = (
        None
    )
    global_penalty: Annotated[bool, Meta(description="Penalties count the prompt's tokens too.")] | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(description="Token id -> number added to its logit.")] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[int], Meta(max_length=64)] | None = None
    n: Annotated[int, Meta(ge=1, le=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    state: Annotated[str, Meta(max_length=500, description='A state file; "" is none.')] | None = None


SAMPLING_NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "penalty_decay",
    "global_penalty",
    "seed",
)


def sampling_of(fields: SamplingFields, max_tokens: int | None, logprobs: int | None) -> dict[str, Any]:
    """Names of SamplingParams, only what was asked for."""
    given: dict[str, Any] = {name: getattr(fields, name) for name in SAMPLING_NAMES}
    if fields.top_k == -1:
        given["top_k"] = 0
    given |= {"max_tokens": max_tokens, "logprobs": logprobs}
    if fields.logit_bias:
        given["logit_bias"] = biases_of(fields.logit_bias)
    if fields.stop_token_ids is not None:
        given["stop_token_ids"] = tuple({0, *fields.stop_token_ids})
    return {name: value for name, value in given.items() if value is not None}


def biases_of(biases: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): bias for token_id, bias in biases.items()}
    except ValueError as exc:
        raise ParameterInvalid(param="logit_bias", reason="its names must be token ids") from exc


def stops_of(stop: str | list[str] | None) -> tuple[str, ...] | None:
    if stop is None:
        return None
    return (stop,) if isinstance(stop, str) else tuple(stop)


def includes_usage(fields: SamplingFields) -> bool:
    if fields.stream_options is not None and not fields.stream:
        raise ParameterInvalid(param="stream_options", reason="it is only for streams")
    return fields.stream_options is not None and bool(fields.stream_options.include_usage)
