"""A conversation as the pieces of a prompt in one of the formats of :mod:`webapp.chat.formats`.

**Why pieces.** A recurrent state cannot be truncated, so a snapshot is useful only for a prompt that begins with
exactly its tokens. The state at the end of an answer has consumed *prompt + generated tokens*; the next prompt must
begin with exactly these ids. So an answer is inserted as the ids that were sampled, everything else as text, and each
piece is encoded separately: no token ever spans two pieces. A turn then prefills nothing twice.

**Thinking in history.** RWKV-7 G1 was trained on histories of plain answers. So an answer with thinking is inserted as
its content only (text; the thinking is dropped), and the reusable prefix ends before it: that costs a prefill of this
one answer and keeps long thoughts out of a state of fixed size. Answers without thinking, also in the fast form, keep
their ids and their opening, and cost nothing.

**Tools** are offered in the system message, in the form of a dialect (:mod:`webapp.chat.tool_dialects`), which also
renders stored calls and results. A changed offer changes the beginning, so everything is prefilled again.

**A chat template from the model's own files** is an untrusted Jinja program. It runs only if a person chose it, in
Jinja's immutable sandbox, in a separate process with limits on time, memory and output
(:mod:`webapp.chat.template_process`). A template that loops, accesses Python internals or writes without end only
causes ``chat_template_failed``. The stops of an answer come from it too: the text that it writes between an answer and
the next question.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from webapp.chat.formats import PromptTemplate
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.stream_router import StreamRouter
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools
from webapp.errors import RoostError
from webapp.i18n import Text

SEPARATOR_INCLUDED = "separator_included"
"""Metadata of an answer whose ids end with this separator; World tokens such as "。\\n" contain a part of it."""


class PromptPiece(Struct, frozen=True):
    """Text to encode, or ids to use directly. ``is_boundary``: a message ends here, so a snapshot is useful."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    is_boundary: bool = False


class RenderedPrompt(Struct, frozen=True):
    """A prompt, and how to parse the model's answer.

    ``starts_in_reasoning`` and ``awaits_tag_end`` (for the ">" of a tag that the prompt does not close) describe the
    text right after the generation prompt. ``continued`` is the last piece, the beginning of an answer to continue; the
    router must read it before new text.
    """

    pieces: tuple[PromptPiece, ...]
    stop_strings: tuple[str, ...] = ()
    starts_in_reasoning: bool = False
    awaits_tag_end: bool = False
    is_raw: bool = False
    separator: str = "\n\n"
    """The end of a message in this format."""
    continued: PromptPiece | None = None
    is_in_thought: bool = False
    """``continued`` ends inside thinking, so more of it comes first."""
    tools: OfferedTools | None = None
    """Tools that the answer may call; None if it is not searched for calls."""

    @property
    def text(self) -> str:
        """The text pieces, joined; the whole prompt if there are no ids."""
        return "".join(piece.text for piece in self.pieces)

    def router(self) -> StreamRouter:
        return StreamRouter(
            self.stop_strings, self.starts_in_reasoning, awaits_tag_end=self.awaits_tag_end, is_raw=self.is_raw
        )

    def router_of_rest(self) -> StreamRouter:
        """For the text after ``continued``, without ``continued`` itself: more thinking, or unchanged content, also if
        a program wrote "<think>" into the content and parses the tags itself."""
        if self.continued is None:
            return self.router()
        if self.is_in_thought:
            return StreamRouter(self.stop_strings, starts_in_reasoning=True)
        return StreamRouter(self.stop_strings, is_raw=True)


def render(
    template: PromptTemplate,
    messages: Sequence[Message],
    system: str = "",
    think_mode: ThinkMode = ThinkMode.NONE,
    continue_last: bool = False,
    tools: OfferedTools | None = None,
    prefix: str = "",
) -> RenderedPrompt:
    """The prompt for the next answer, or with ``continue_last`` for the rest of the last (assistant) message.
    ``prefix`` is a system message before everything else.

    A think mode that the template does not support counts as NONE. Answers without text are skipped. ``tools`` are
    offered in ``system``, otherwise in the first message if it is a system message. A model's own template renders
    everything as one piece, and raises ``chat_template_failed`` if it cannot be run.
    """
    if template.jinja:
        return render_own(template, messages, system, think_mode, continue_last, tools, prefix)
    assert not continue_last or (messages and messages[-1].role is Role.ASSISTANT), "only an answer can go on"
    offered = tools or OfferedTools(G1X_JSON)
    system, history = _with_offer(offered, system, messages[:-1] if continue_last else messages)
    has_system = bool(prefix or system) or any(message.role is Role.SYSTEM for message in history)
    if not system and not has_system:
        system = template.preamble
    spoken = [_spoken(template, template.system_prefix, text) for text in (prefix, system) if text]
    pieces = [piece for message in spoken for piece in message]
    for index, message in enumerate(history):
        if message.role is Role.ASSISTANT:
            pieces += _answer(template, message, offered)
        elif message.role is Role.TOOL:
            pieces += _results(template, history, index, offered)
        else:
            mode = template.supported(_mode_of_answer(messages[index + 1 :], think_mode))
            suffix = template.think_suffixes.get(mode, "") if message.role is Role.USER else ""
            pieces += _spoken(template, _prefix(template, message.role, has_system), message.content, suffix)
    if continue_last:
        return _with_tools(_continued(template, pieces, messages[-1]), tools)
    return _with_tools(_opened(template, pieces, template.supported(think_mode)), tools)


def _with_offer(offered: OfferedTools, system: str, history: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    if not offered.definitions or system or not history or history[0].role is not Role.SYSTEM:
        return offered.system_text(system), history
    first = replace(history[0], content=offered.system_text(history[0].content))
    return system, [first, *history[1:]]


def _with_tools(rendered: RenderedPrompt, tools: OfferedTools | None) -> RenderedPrompt:
    if tools is None or not tools.definitions:
        return rendered
    # a grammar ends the answer after its calls; inside an argument, a stop of the dialect would be wrong
    stops = () if tools.is_held else tools.dialect.stop_strings
    return replace(rendered, tools=tools, stop_strings=(*rendered.stop_strings, *stops))


def _mode_of_answer(following: Sequence[Message], think_mode: ThinkMode) -> ThinkMode:
    """The think mode of the next answer, stored or requested. A question must be rendered the same every time."""
    return next((message.think_mode for message in following if message.role is Role.ASSISTANT), think_mode)


def _prefix(template: PromptTemplate, role: Role, has_system: bool) -> str:
    if role is Role.SYSTEM:
        return template.system_prefix
    return (has_system and template.user_prefix_after_system) or template.user_prefix


def _spoken(template: PromptTemplate, prefix: str, text: str, suffix: str = "") -> list[PromptPiece]:
    """A message that the model did not write."""
    body = text if template.is_raw else template.written(text) + suffix
    return [PromptPiece(prefix + body + template.separator, is_boundary=True)]


def _results(
    template: PromptTemplate, history: Sequence[Message], index: int, offered: OfferedTools
) -> list[PromptPiece]:
    """Consecutive results become one message, at the place of the first."""
    if index and history[index - 1].role is Role.TOOL:
        return []
    following = list(itertools.takewhile(lambda message: message.role is Role.TOOL, history[index:]))
    calls = [call.id for call in history[index - 1].tool_calls] if index else []
    following.sort(key=lambda message: _place(message.tool_call_id, calls))
    results = [message.content for message in following]
    prefix = offered.dialect.result_prefix or template.tool_prefix
    if not offered.dialect.has_own_results:
        return _spoken(template, prefix, offered.dialect.results(results))
    return [piece for result in results for piece in _spoken(template, prefix, offered.dialect.results([result]))]


def _place(call_id: str, calls: Sequence[str]) -> int:
    """The index of the call that the result belongs to. Results without a call come last, in their order."""
    return calls.index(call_id) if call_id in calls else len(calls)


def _answer(template: PromptTemplate, message: Message, offered: OfferedTools) -> list[PromptPiece]:
    """An earlier answer: its ids if the history may contain them, otherwise its text and calls."""
    if not message.token_ids or message.reasoning:
        return _written_answer(template, _with_calls(message, offered))
    pieces = _generation_prompt(template, template.supported(message.think_mode))
    included = message.metadata.get(SEPARATOR_INCLUDED)
    included = "\n\n" if included is True else included  # as stored before formats had other separators
    has_separator = not template.separator or included == template.separator
    pieces.append(PromptPiece(token_ids=message.token_ids, is_boundary=has_separator))
    return pieces if has_separator else [*pieces, PromptPiece(template.separator, is_boundary=True)]


def _with_calls(message: Message, offered: OfferedTools) -> str:
    if not message.tool_calls:
        return message.content
    calls = offered.dialect.calls(message.tool_calls)
    return "\n".join(text for text in (message.content.strip(), calls) if text)


def _written_answer(template: PromptTemplate, content: str) -> list[PromptPiece]:
    body = content if template.is_raw else content.strip()
    if not body:
        return []
    body = re.sub(template.marks, template.mark_written_as, body) if template.marks else body
    written = PromptPiece(template.assistant_space + body + template.separator, is_boundary=True)
    return [*_generation_prompt(template, ThinkMode.NONE), written]


def _generation_prompt(template: PromptTemplate, mode: ThinkMode) -> list[PromptPiece]:
    text = template.assistant_prefix + template.openings.get(mode, "")
    return [PromptPiece(text)] if text else []


def _opened(template: PromptTemplate, pieces: list[PromptPiece], mode: ThinkMode) -> RenderedPrompt:
    opening = template.openings.get(mode, "")
    return RenderedPrompt(
        pieces=(*pieces, *_generation_prompt(template, mode)),
        stop_strings=template.stop_strings,
        starts_in_reasoning=opening.endswith("<think"),
        awaits_tag_end=bool(opening),
        is_raw=template.is_raw,
        separator=template.separator or "\n\n",
    )


def _continued(template: PromptTemplate, pieces: list[PromptPiece], message: Message) -> RenderedPrompt:
    """Continues after sampled ids; an answer with only text is encoded again as a whole."""
    mode = template.supported(message.think_mode) if message.token_ids else ThinkMode.NONE
    text = "" if message.token_ids else _text_so_far(template, message)
    beginning = PromptPiece(text, message.token_ids)
    rendered = _opened(template, pieces, mode)
    if not beginning.text and not beginning.token_ids:
        return rendered
    is_in_thought = bool(message.reasoning) and not message.content
    pieces = [*rendered.pieces, beginning]
    return replace(rendered, pieces=tuple(pieces), continued=beginning, is_in_thought=is_in_thought)


def _text_so_far(template: PromptTemplate, message: Message) -> str:
    if not message.reasoning:
        return template.assistant_space + message.content if message.content else ""
    thought = f"{template.assistant_space}<think>\n{message.reasoning.strip()}"
    return f"{thought}\n</think>\n{message.content}" if message.content else thought


MAX_SOURCE_CHARS = 200_000
MAX_CONTEXT_CHARS = 8_000_000
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
    """:func:`render` for the model's own template. The result is one piece of text, or two with
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
    return _continued_own(rendered, messages[-1]) if continue_last else rendered


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


def _continued_own(rendered: RenderedPrompt, message: Message) -> RenderedPrompt:
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
    import subprocess  # at first use: few models bring a template

    if len(source) > MAX_SOURCE_CHARS or len(context) > MAX_CONTEXT_CHARS:
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
