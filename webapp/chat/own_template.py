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
from dataclasses import replace
from typing import Any

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
"""Stands before an answer that nobody asked for, such as a persona's greeting, where a template wants a question first.
SillyTavern's words in the same place (``prompt_placeholder`` of its strict prompt order)."""


def render_own(
    template: PromptTemplate,
    messages: Sequence[Message],
    system: str,
    think_mode: ThinkMode,
    continue_last: bool,
    tools: OfferedTools | None,
    prefix: str,
) -> RenderedPrompt:
    """:func:`webapp.chat.prompts.render` for a template that is a program of its own: one piece of text, or two with
    ``prefix``, which then stands before the rest of the system prompt."""
    history = messages[:-1] if continue_last else messages
    begun = next((message.role for message in history if message.role is not Role.SYSTEM), Role.USER)
    if begun is Role.ASSISTANT and _asks_first(template.jinja):
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
    """What the template writes for the prefix alone is a piece of its own, where the prompt begins with it; nothing of
    the kind where it refuses a conversation of a system message."""
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
    """In the words templates know. ``rwkv_json_content`` is what the one published with G1 models reads."""
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
def _asks_first(source: str) -> bool:
    """Whether the template refuses a conversation that begins with an answer, and takes it after a question."""

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
    """What the template writes between an answer and the question behind it, without outer blanks that the model may
    write otherwise; nothing where a template refuses such a conversation."""
    messages = [("user", "Hello."), ("assistant", ANSWER), ("user", QUESTION)]
    context = {**NOTHING, "messages": [{"role": role, "content": text} for role, text in messages]}
    with contextlib.suppress(RoostError):
        text = run_template(source, json.dumps(context))
        between = text.partition(ANSWER)[2].partition(QUESTION)[0].rstrip(" ")
        return (between,) if between.strip() else ()
    return ()


@functools.lru_cache(maxsize=64)
def run_template(source: str, context: str) -> str:
    """``context`` is JSON. The same again costs nothing; ``chat_template_failed`` says why it could not be run."""
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
    except (ValueError, KeyError, AttributeError) as exc:  # the process was ended, by its own bounds or the system's
        raise RoostError("chat_template_failed", reason=Text("reason.chat.template_too_large")) from exc
    if problem == "size":
        raise RoostError("chat_template_failed", reason=Text("reason.chat.template_too_large"))
    raise RoostError("chat_template_failed", reason=problem)
