"""What a program asks for, in no dialect: the APIs translate into these, and :mod:`.completions` carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.chat.messages import Message, ThinkMode


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation. ``think_mode`` None and ``template`` "" are the active preset's, or the model's own.

    ``continue_last``: the last message, an assistant's, is the beginning of the answer; only what follows it comes
    back. ``names`` replaces the template's words for user, assistant and system where they are not "".
    """

    messages: tuple[Message, ...]
    think_mode: ThinkMode | None = None
    continue_last: bool = False
    template: str = ""
    names: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True)
class TextPrompt:
    """Text, or token ids, as they are: no template, no cleaning."""

    text: str = ""
    token_ids: tuple[int, ...] = ()


Prompt = ChatPrompt | TextPrompt


@dataclass(frozen=True)
class Structure:
    """What the answer has to look like, as OpenAI's request says it. ``tools`` are OpenAI tool objects."""

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    response_format: Mapping[str, Any] | None = None
    is_parallel: bool = True
    """Several calls in one answer may be made."""
    is_constrained: bool = True
    """A grammar holds the answer: its calls are of known tools and fit their schemas."""
    dialect: str = ""
    """Of :func:`webapp.chat.tool_dialects.all_dialects`; "" is the preset's, or what fits the model."""


@dataclass(frozen=True)
class AnswerRequest:
    """``choices`` answers to each of ``prompts``. ``sampling`` holds only what was asked for: names of SamplingParams.

    ``stop`` None is the preset's; a stop ends the content, thinking does not count. ``state`` as in
    :meth:`ModelManager.submit`. ``client`` is who asks, for fairness. ``streams_calls``: whoever reads the answer can
    do with pieces of a call, and with a call the limit of tokens has cut off.
    """

    prompts: tuple[Prompt, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] | None = None
    choices: int = 1
    state: str | None = None
    client: str = ""
    structure: Structure = Structure()
    streams_calls: bool = False
