"""Whether a request can be run at all: asked before anything is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from webapp.engine.model_config import ModelConfig
from webapp.engine.outputs import GenerationRequest
from webapp.errors import InvalidSampling, Phrase, PromptEmpty, PromptTooLong, RequestError, TokenOutOfRange
from webapp.settings import Settings

LOGITS_LIMIT_BYTES = 1 << 30


def check_request(request: GenerationRequest, config: ModelConfig, settings: Settings) -> None:
    """Raises a RequestError, or StateMismatch for a state of its own that does not fit."""
    check_prompt(request.prompt_token_ids, config, settings)
    if request.params.max_tokens > settings.max_tokens_limit:
        allowed = Phrase("at most {limit} here", limit=settings.max_tokens_limit)
        raise InvalidSampling(name="max_tokens", value=request.params.max_tokens, allowed=allowed)
    check_token_ids(tuple(request.params.logit_bias), config, param="logit_bias")
    _check_boundaries(request)
    if request.initial_state is not None:
        request.initial_state.check(config)


def check_prompt(token_ids: Sequence[int], config: ModelConfig, settings: Settings) -> None:
    if not token_ids:
        raise PromptEmpty()
    if len(token_ids) > settings.max_prompt_tokens:
        raise PromptTooLong(found=len(token_ids), limit=settings.max_prompt_tokens)
    check_token_ids(token_ids, config)


def check_logits_size(positions: int, config: ModelConfig) -> None:
    """A row of logits for each position goes through memory and pipe at once."""
    most = LOGITS_LIMIT_BYTES // (4 * config.vocab_size)
    if positions > most:
        raise RequestError(reason=f"it asks for logits at {positions} positions, and at most {most} are given at once")


def check_token_ids(token_ids: Sequence[int], config: ModelConfig, **where: str) -> None:
    if not token_ids:
        return
    for extreme in (min(token_ids), max(token_ids)):
        if not 0 <= extreme < config.vocab_size:
            raise TokenOutOfRange(found=extreme, vocab_size=config.vocab_size, **where)


def _check_boundaries(request: GenerationRequest) -> None:
    limits = (0, *request.boundaries, len(request.prompt_token_ids))
    if any(second < first for first, second in pairwise(limits)):
        raise RequestError(reason="its boundaries are not ascending positions within the prompt")
