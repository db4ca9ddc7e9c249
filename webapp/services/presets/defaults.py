"""How answers are sampled where nobody said otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.engine.sampling_params import SamplingParams
from webapp.settings import Settings

CHAT_MAX_TOKENS = 2000
"""Room for an answer that thinks first; a person can stop it."""
TINY_PARAMETERS = 100_000_000


def default_sampling(settings: Settings, parameters: int = 0) -> SamplingParams:
    """The chat defaults of RWKV-Runner: temperature 1, top_p 0.3, presence 0, frequency 1, decay 0.996.

    A model known to be tiny (``parameters``, 0 = unknown) gets a mild frequency penalty instead: it has learnt few ways
    to say a thing, and the full penalty pushes it off every one of them.
    """
    is_tiny = 0 < parameters < TINY_PARAMETERS
    return SamplingParams(
        max_tokens=min(CHAT_MAX_TOKENS, settings.max_tokens_limit),
        temperature=1.0,
        top_p=0.3,
        presence_penalty=0.0,
        frequency_penalty=0.2 if is_tiny else 1.0,
        penalty_decay=0.996,
    )


def sampling_with(settings: Settings, overrides: Mapping[str, Any], parameters: int = 0) -> SamplingParams:
    """The defaults with a chat's overrides; InvalidSampling for a value or name that cannot be."""
    params = SamplingParams.from_dict(default_sampling(settings, parameters).to_dict() | dict(overrides))
    if params.max_tokens > settings.max_tokens_limit:
        return SamplingParams.from_dict(params.to_dict() | {"max_tokens": settings.max_tokens_limit})
    return params
