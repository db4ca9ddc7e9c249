"""What every object of one answer repeats: id, date, model, and what the figures add up to."""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass, field

from webapp.manager.model_status import ModelStatus
from webapp.web.api.answering import UsageSum
from webapp.web.api.openai.answers import CompletionDetails, PromptDetails, Usage
from webapp.web.api.served_model import the_manager


@dataclass(frozen=True)
class Heading:
    """``fingerprint`` changes with model, strategy and state: with the same one, a seed gives the same text."""

    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))


def heading(prefix: str, model: str) -> Heading:
    return Heading(f"{prefix}-{uuid.uuid4().hex}", model, fingerprint_of(the_manager().status()))


def fingerprint_of(status: ModelStatus) -> str:
    made_of = f"{status.model_path}\n{status.strategy}\n{status.state}"
    return f"fp_{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def usage_of(counted: UsageSum) -> Usage:
    return Usage(
        prompt_tokens=counted.prompt,
        completion_tokens=counted.completion,
        total_tokens=counted.prompt + counted.completion,
        prompt_tokens_details=PromptDetails(counted.cached),
        completion_tokens_details=CompletionDetails(counted.reasoning),
    )
