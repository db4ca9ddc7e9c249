"""One answer from start to end, for whoever wants it whole: evaluations, and requests that do not stream."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

from webapp.chat.messages import ToolCall
from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.engine.outputs import FinishReason, GenerationRequest, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import error_from_dict
from webapp.services.chat.answer_text import AnswerText
from webapp.services.chat.prompt_encoding import encode_prompt, stop_sequences
from webapp.services.completion.completions import Manager

POLL_S = 60.0


@dataclass(frozen=True)
class WholeAnswer:
    """``text`` and ``reasoning`` are split and stripped as on the page. ``tool_calls`` are those of tools the prompt
    offers, and ``raw`` is everything as it was written."""

    text: str
    reasoning: str
    finish_reason: FinishReason
    stats: SequenceStats
    tool_calls: tuple[ToolCall, ...] = ()
    raw: str = ""


def whole_answer(
    manager: Manager,
    rendered: RenderedPrompt,
    params: SamplingParams,
    client: str = "",
    constraint: dict[str, Any] | None = None,
) -> WholeAnswer:
    """Blocks until it is written. Raises what the engine raised. ``constraint`` as in ``GenerationRequest``."""
    info = manager.model_info()
    tokenizer = manager.tokenizer()
    encoded = encode_prompt(rendered, tokenizer)
    stops = stop_sequences(rendered.stop_strings, tokenizer)
    params = replace(params, stop_token_sequences=(*params.stop_token_sequences, *stops))
    request = GenerationRequest(
        uuid.uuid4().hex, encoded.token_ids, params, encoded.boundaries, client, constraint=constraint
    )
    handle, answer, was_stopped = manager.submit(request, info), AnswerText(rendered, tokenizer), False
    while True:
        event = handle.next_event(POLL_S)
        if not isinstance(event, TokenOutput):
            continue
        answer.feed(event.token_ids)
        if answer.is_stopped and not was_stopped and event.finish_reason is None:
            handle.abort()
            was_stopped = True
        if event.finish_reason is not None:
            break
    if event.error:
        raise error_from_dict(event.error)
    answer.finish(is_cut=event.finish_reason is not FinishReason.STOP and not was_stopped)
    reason = FinishReason.STOP if answer.is_stopped else event.finish_reason
    stats, raw = event.stats or SequenceStats(), tokenizer.decode(answer.token_ids)
    return WholeAnswer(answer.content, answer.reasoning, reason, stats, tuple(answer.tool_calls), raw)
