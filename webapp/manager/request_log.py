"""What each request was run with, for who wants to prove it: two lines a request at INFO, and never what it says."""

from __future__ import annotations

import json
import logging
from typing import Any

from webapp.engine.outputs import SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.handles import Service

logger = logging.getLogger("webapp.requests")
CONTENTS = ("stop_token_sequences", "logit_bias")
"""Parameters that hold words of the request; their number is logged."""


def log_begin(request_id: str, params: SamplingParams, service: Service) -> None:
    """When the engine is asked. ``digest`` is of the state it is to begin with, "" for the model's own."""
    if logger.isEnabledFor(logging.INFO):
        served = {"model": service.model, "strategy": service.strategy, **_state(service)}
        logger.info("%s", _line("begins", request_id, served | {"sampling": sampling_fields(params)}))


def log_end(output: TokenOutput, service: Service) -> None:
    """``digest`` is what the engine says the sequence began with: never "" here."""
    if logger.isEnabledFor(logging.INFO):
        stats = output.stats or SequenceStats()
        reason = output.finish_reason.value if output.finish_reason else ""
        found = {"state": service.state.name, "digest": stats.initial_state_digest, "seed": stats.seed}
        counts = {"prompt_tokens": stats.prompt_tokens, "decoded_tokens": stats.decoded_tokens}
        error = {"error": output.error["code"]} if output.error else {}
        logger.info("%s", _line("ends", output.request_id, {"finish_reason": reason, **found, **counts, **error}))


def sampling_fields(params: SamplingParams) -> dict[str, Any]:
    return {name: len(value) if name in CONTENTS else value for name, value in params.to_dict().items()}


def _state(service: Service) -> dict[str, str]:
    return {"state": service.state.name, "digest": service.state.digest}


def _line(event: str, request_id: str, fields: dict[str, Any]) -> str:
    return json.dumps({"event": event, "request": request_id, **fields}, ensure_ascii=False)
