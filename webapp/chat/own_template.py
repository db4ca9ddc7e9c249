"""Renders a prompt with a chat template from the model's own files.

The template is an untrusted Jinja program. It runs only if a person chose it, in Jinja's immutable sandbox, in a
separate process with limits on time, memory and output (:mod:`webapp.chat.template_process`). A template that loops,
accesses Python internals or writes without end only causes ``chat_template_failed``.

The stops of an answer come from the template too: the text that it writes between an answer and the next question.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from webapp.chat.formats import PromptTemplate
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.prompts import PromptPiece, RenderedPrompt
from webapp.chat.tool_dialects import OfferedTools
from webapp.errors import RoostError
from webapp.i18n import Text

MOST_SOURCE_CHARS = 200_000
MOST_CONTEXT_CHARS = 8_000_000
WALL_S = 10.0
OPEN_TAGS = ("<think", "</think")
ANSWER, QUESTION = "an answer", "a question"
OPENING = "Let's get started."
"""Inserted before an answer without a question, such as a persona's greeting, if the template requires a question
first. SillyTavern uses the same text (``prompt_placeholder`` of its strict prompt order)."""


def render_own(
    template: PromptTemplate,
    messages: Sequence[Message],
    system: str,
    think_mode: ThinkMode,
    continue_last: bool,
    tools: OfferedTools | None,
    prefix: str,
) -> RenderedPrompt:
    """:func:`webapp.chat.prompts.render` for the model's own template. The result is one piece of text, or two with
    ``prefix``, which then comes before the rest of the system prompt."""
    history = messages[:-1] if continue_last else messages
    begun = next((message.role for message in history if message.role is not Role.SYSTEM), Role.USER)
    if begun is Role.ASSISTANT and _requires_question(template.jinja):
        place = next(place for place, message in enumerate(history) if message.role is Role.ASSISTANT)
        history = [*history[:place], Message(Role.USER, OPENING), *history[place:]]
    system = "\n".join(text for text in (prefix, system) if text)
    context: dict[str, Any] = {
        "messages": [*([{"role": "system", "content": system}] if system else []), *map(_as_dict, history)],
        **NOTHING,
        "enable_thinking": think_mode not in (ThinkMode.NONE, ThinkMode.FAST),
        "rwkv_generation_prompt": "think" if think_mode not in (ThinkMode.NONE, ThinkMode.FAST) else "fake_think",
    }
    definitions = tools.definitions if tools else ()
    if definitions:
        context["tools"] = [{"type": "function", "function": dict(definition)} for definition in definitions]
    text = run_template(template.jinja, json.dumps(context, ensure_ascii=False))
    opened = next((tag for tag in OPEN_TAGS if text.endswith(tag)), "")
    rendered = RenderedPrompt(
        pieces=_pieces(template.jinja, context, text, prefix),
        stop_strings=(*_stops(template.jinja), *template.stop_strings),
        starts_in_reasoning=opened == "<think" or text.endswith("<think>"),
        awaits_tag_end=bool(opened),
        tools=tools if definitions else None,
    )
    return _continued(rendered, messages[-1]) if continue_last else rendered


def _pieces(source: str, context: dict[str, Any], text: str, prefix: str) -> tuple[PromptPiece, ...]:
    """If the prompt begins with the template's text for the prefix alone, that text is a separate piece; not if the
    template refuses a conversation with only a system message."""
    if prefix:
        alone = {name: value for name, value in context.items() if name != "tools"}
        alone |= {"messages": [{"role": "system", "content": prefix}], "add_generation_prompt": False}
        with contextlib.suppress(RoostError):
            head = run_template(source, json.dumps(alone, ensure_ascii=False))
            if head and text.startswith(head):
                rest = PromptPiece(text[len(head) :])
                return (PromptPiece(head, is_boundary=True), *([rest] if rest.text else []))
    return (PromptPiece(text),)


def _continued(rendered: RenderedPrompt, message: Message) -> RenderedPrompt:
    beginning = PromptPiece(message.content if not message.token_ids else "", message.token_ids)
    if not beginning.text and not beginning.token_ids:
        return rendered
    return replace(rendered, pieces=(*rendered.pieces, beginning), continued=beginning)


def _as_dict(message: Message) -> dict[str, Any]:
    """With the keys that templates use. The template published with G1 models reads ``rwkv_json_content``."""
    found: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _value(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.reasoning:
        found["reasoning_content"] = message.reasoning
    if message.role is Role.TOOL:
        found |= {"tool_call_id": message.tool_call_id, "rwkv_json_content": _value(message.content)}
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@functools.lru_cache(maxsize=16)
def _requires_question(source: str) -> bool:
    """Whether the template refuses a conversation that begins with an answer, but accepts it after a question."""

    def takes(*said: tuple[str, str]) -> bool:
        messages = [{"role": role, "content": text} for role, text in said]
        try:
            run_template(source, json.dumps({**NOTHING, "messages": messages}))
        except RoostError:
            return False
        return True

    begun = (("assistant", ANSWER), ("user", QUESTION))
    return not takes(*begun) and takes(("user", OPENING), *begun)


NOTHING: dict[str, Any] = {"add_generation_prompt": True, "bos_token": "", "eos_token": ""}


@functools.lru_cache(maxsize=16)
def _stops(source: str) -> tuple[str, ...]:
    """The text that the template writes between an answer and the next question, without outer spaces, which the model
    may write differently; empty if the template refuses the conversation."""
    messages = [("user", "Hello."), ("assistant", ANSWER), ("user", QUESTION)]
    context = {**NOTHING, "messages": [{"role": role, "content": text} for role, text in messages]}
    with contextlib.suppress(RoostError):
        text = run_template(source, json.dumps(context))
        between = text.partition(ANSWER)[2].partition(QUESTION)[0].rstrip(" ")
        return (between,) if between.strip() else ()
    return ()


@functools.lru_cache(maxsize=64)
def run_template(source: str, context: str) -> str:
    """``context`` is JSON. Results are cached. Raises ``chat_template_failed`` with the reason."""
    if len(source) > MOST_SOURCE_CHARS or len(context) > MOST_CONTEXT_CHARS:
        raise RoostError("chat_template_failed", reason=Text("reason.chat.template_too_large"))
    asked = json.dumps({"source": source, "context": context}).encode()
    command = [sys.executable, "-m", "webapp.chat.template_process"]
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=WALL_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise RoostError("chat_template_failed", reason=Text("reason.chat.template_too_slow", seconds=WALL_S)) from exc
    try:
        answer = json.loads(done.stdout)
        problem = answer.get("problem", "")
        if not problem:
            return str(answer["text"])
    except (ValueError, KeyError, AttributeError) as exc:  # the process was killed, by its limits or by the system
        raise RoostError("chat_template_failed", reason=Text("reason.chat.template_too_large")) from exc
    if problem == "size":
        raise RoostError("chat_template_failed", reason=Text("reason.chat.template_too_large"))
    raise RoostError("chat_template_failed", reason=problem)
