"""The command that loads a target, as the settings want it run."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from webapp.manager.messages import LoadModel, State
from webapp.manager.starts import Start
from webapp.manager.target import Target, tokenizer_or_none
from webapp.manager.token_rules import banned_token_ids, penalty_exempt_token_ids
from webapp.settings import Settings


def load_command(target: Target, settings: Settings) -> Callable[[Start], LoadModel]:
    """Takes a moment (it reads the vocabulary); the state is filled in last, because it may change until then."""
    tokenizer = tokenizer_or_none(target)
    command = LoadModel(
        path_bytes=os.fsencode(target.path),
        config=target.config,
        strategy=target.choice.strategy,
        max_sequences=settings.max_sequences,
        prefill_chunk=target.options.prefill_chunk or settings.prefill_chunk,
        state_cache_bytes=settings.state_cache_bytes,
        threads=target.options.threads,
        custom_cuda=target.options.custom_cuda,
        tokenizer_bytes=os.fsencode(target.options.tokenizer),
        banned_token_ids=banned_token_ids(tokenizer, target.inspection, target.config.vocab_size),
        penalty_exempt_token_ids=penalty_exempt_token_ids(tokenizer) if tokenizer else (),
    )

    def starting_from(start: Start) -> LoadModel:
        state = State.of(start.state) if start.state is not None else None
        return msgspec.structs.replace(command, initial_state=state, initial_state_digest=start.info.digest)

    return starting_from
