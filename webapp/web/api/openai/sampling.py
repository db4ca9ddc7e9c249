"""How a request's tokens are chosen: every API's fields from the one table of sampling parameters, and what OpenAI's
chat and text share beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from webapp.engine.sampling_params import PARAMETERS, SamplingParameter
from webapp.errors import ParameterInvalid

MAX_STOPS = 64
MAX_STOP_CHARS = 1000

Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
Bias = Annotated[float, Meta(ge=-100, le=100)]


class StreamOptions(msgspec.Struct, kw_only=True):
    """``include_usage``: one more chunk before the end, with the token counts and no choices."""

    include_usage: bool | None = None


def sampling_struct(name: str, api: str, base: type[msgspec.Struct] = msgspec.Struct) -> type[msgspec.Struct]:
    """A body's base class: ``base`` and the table's parameters, under their names in ``api`` and all optional."""
    rows = [row for row in PARAMETERS if api in row.names]
    return msgspec.defstruct(
        name, [(row.names[api], _type_of(row, api), None) for row in rows], bases=(base,), kw_only=True
    )


def _type_of(row: SamplingParameter, api: str) -> Any:
    if row.kind is bool:
        return bool | None
    least, most = row.api_ranges.get(api, (row.least, row.most))
    return Annotated[row.kind, Meta(ge=least, le=most)] | None  # type: ignore[name-defined]


def asked_sampling(body: Any, api: str) -> dict[str, Any]:
    """Names of SamplingParams, only what was asked for. A number below 0 where the API means "off" by it (top_k,
    num_predict) is as if it were left out, or 0 where the parameter has that."""
    found: dict[str, Any] = {}
    for row in PARAMETERS:
        value = getattr(body, row.names[api]) if api in row.names else None
        if value is not None and row.name != "seed" and value < row.least and api in row.api_ranges:
            value = 0 if row.least == 0 else None
        if value is not None:
            found[row.name] = value
    return found


if TYPE_CHECKING:  # a type checker knows no base class that is made at run time
    OpenAiSampling = msgspec.Struct
else:
    OpenAiSampling = sampling_struct("OpenAiSampling", "openai")


class SamplingFields(OpenAiSampling, kw_only=True):
    """What is left out, or null, is as the active preset has it. Names not listed here are ignored."""

    model: str | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(description="Token id -> number added to its logit.")] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[int], Meta(max_length=64)] | None = None
    n: Annotated[int, Meta(ge=1, le=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    state: Annotated[str, Meta(max_length=500, description='A state file; "" is none.')] | None = None


def sampling_of(fields: SamplingFields, max_tokens: int | None, logprobs: int | None) -> dict[str, Any]:
    """Names of SamplingParams, only what was asked for."""
    given = {**asked_sampling(fields, "openai"), "max_tokens": max_tokens, "logprobs": logprobs}
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
