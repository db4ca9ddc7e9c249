"""The layouts in which each family of RWKV models was trained to see a conversation, and a conversation as the pieces
of a prompt in one of them.

**Templates** are data. Sources: BlinkDL/RWKV-LM ``RWKV-v7/RWKV7-G1x-templates.txt`` (g1x, and the cleaning of what
people write); ChatRWKV ``v2/chat.py`` (world, bob_alice, question_answer, instruct). Stops are whole role markers with
their colon: a paragraph that begins with A, Q or "User interfaces" is not one. Every generation ends at token 0
besides; the caller puts it into the sampling parameters.

**Why pieces.** A recurrent state cannot be trimmed, so a snapshot is only of use to a prompt that begins with exactly
its tokens. The state at the end of an answer has read *prompt + generated tokens*; the next prompt must be those very
ids and then more. So an answer goes back as the ids it was sampled as, everything else as text, and each piece is
encoded by itself: no token ever spans two pieces. A turn then re-reads nothing that was read before.

**Thinking in history.** RWKV-7 G1 was trained on histories of plain answers, so an answer that was thought about goes
back as its content alone (text; the thinking is dropped) and the reusable prefix ends before it: it costs reading that
one answer again and keeps long thoughts out of a state of fixed size. Answers without thinking, the fast form too,
keep their ids and their opening, and cost nothing.

**Tools** are offered in the system message, in the words of a dialect (:mod:`webapp.chat.tool_dialects`), which also
writes calls known only as data and hands results back. An offer that changes is another beginning: all is read again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.stream_router import StreamRouter
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools

WORLD_VOCAB_SIZE = 60_000
"""Models with at least this many embedding rows use the World vocabulary (65,536, a few old ones 65,525 or 65,529)."""
PILE_VOCAB_SIZES = range(50_000, 51_000)


@dataclass(frozen=True)
class PromptTemplate:
    """One family's layout. A message is prefix, text, ``separator``; the prompt ends with ``assistant_prefix``.

    ``assistant_space`` stands before the text of an answer already given: models begin theirs with a space.
    ``openings`` follow the last ``assistant_prefix`` per think mode, ``think_suffixes`` the user's text.
    ``user_prefix_after_system`` takes the place of ``user_prefix`` in a chat with a system prompt, where it is set.
    """

    name: str
    user_prefix: str = "User: "
    assistant_prefix: str = "Assistant:"
    system_prefix: str = "System: "
    tool_prefix: str = "User: Function output:\n"
    user_prefix_after_system: str = ""
    assistant_space: str = " "
    separator: str = "\n\n"
    stop_strings: tuple[str, ...] = ()
    openings: Mapping[ThinkMode, str] = field(default_factory=dict)
    think_suffixes: Mapping[ThinkMode, str] = field(default_factory=dict)
    is_raw: bool = False
    """Text goes in and comes out as it is: no cleaning, no stops, no think tags."""

    @property
    def think_modes(self) -> tuple[ThinkMode, ...]:
        """What a person may choose; NONE always."""
        return (ThinkMode.NONE, *self.openings)

    def supported(self, mode: ThinkMode) -> ThinkMode:
        return mode if mode in self.openings else ThinkMode.NONE


def _stops(*names: str) -> tuple[str, ...]:
    return tuple(f"\n\n{name}:" for name in names)


G1X = PromptTemplate(
    name="g1x",
    stop_strings=_stops("User", "Assistant", "System"),
    # without the last ">": the model was trained to write it, as one token with what follows
    openings={
        ThinkMode.FAST: " <think>\n</think",
        ThinkMode.THINK: " <think",
        ThinkMode.THINK_A_BIT: " <think",
        ThinkMode.THINK_A_LOT: " <think",
    },
    think_suffixes={
        ThinkMode.THINK: " (think)",
        ThinkMode.THINK_A_BIT: " (think a bit)",
        ThinkMode.THINK_A_LOT: " (think a lot)",
    },
)
WORLD = PromptTemplate(name="world", stop_strings=_stops("User", "Assistant", "System"))
BOB_ALICE = PromptTemplate(
    name="bob_alice",
    user_prefix="Bob: ",
    assistant_prefix="Alice:",
    system_prefix="",
    tool_prefix="Bob: ",
    stop_strings=_stops("Bob", "Alice"),
)
QUESTION_ANSWER = PromptTemplate(
    name="question_answer",
    user_prefix="Question: ",
    assistant_prefix="Answer:",
    system_prefix="",
    tool_prefix="Question: ",
    stop_strings=_stops("Question", "Answer"),
)
INSTRUCT = PromptTemplate(
    name="instruct",
    user_prefix="Instruction: ",
    assistant_prefix="Response:",
    system_prefix="Instruction: ",
    tool_prefix="Input: ",
    user_prefix_after_system="Input: ",
    stop_strings=_stops("Instruction", "Input", "Response"),
)
RAW = PromptTemplate(
    name="raw",
    user_prefix="",
    assistant_prefix="",
    system_prefix="",
    tool_prefix="",
    assistant_space="",
    separator="",
    is_raw=True,
)

_TEMPLATES = {t.name: t for t in (G1X, WORLD, BOB_ALICE, QUESTION_ANSWER, INSTRUCT, RAW)}


def all_templates() -> tuple[PromptTemplate, ...]:
    """In the order to offer them."""
    return tuple(_TEMPLATES.values())


def template(name: str) -> PromptTemplate:
    """KeyError for a name that is none of :func:`all_templates`."""
    return _TEMPLATES[name]


def default_template(architecture: str, vocab_size: int, model_name: str = "") -> PromptTemplate:
    """What fits a model best, as far as it can be told. The name decides only among models of the Pile vocabulary."""
    if vocab_size >= WORLD_VOCAB_SIZE:
        return G1X if architecture.startswith("7") else WORLD
    if vocab_size in PILE_VOCAB_SIZES:
        return INSTRUCT if "instruct" in model_name.lower() else BOB_ALICE
    return RAW


def cleaned(text: str) -> str:
    """``text`` for a user or system message: no blank lines, no outer whitespace. Blank lines separate messages in
    every template, so this is also what keeps a pasted "\\n\\nAssistant:" from becoming a turn of its own."""
    return re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n")).strip()


# a conversation in one of them

SEPARATOR_INCLUDED = "separator_included"
"""Metadata of an answer whose ids already end with the blank line: World tokens such as "。\\n" reach into it."""


@dataclass(frozen=True)
class PromptPiece:
    """Text to encode, or ids to take as they are. ``is_boundary``: a message ends here, worth a snapshot."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    is_boundary: bool = False


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt and how to read what the model says next.

    ``starts_in_reasoning`` and ``awaits_tag_end`` (the ">" of a tag the prompt left open) are about the text right
    after the generation prompt. ``continued``, if any, is the last piece: the beginning of the answer, which the
    router must have seen before it sees new text.
    """

    pieces: tuple[PromptPiece, ...]
    stop_strings: tuple[str, ...] = ()
    starts_in_reasoning: bool = False
    awaits_tag_end: bool = False
    is_raw: bool = False
    continued: PromptPiece | None = None
    tools: OfferedTools | None = None
    """What may be called in the answer; None where calls are not looked for."""

    @property
    def text(self) -> str:
        """The pieces that are text, joined; the whole prompt where no piece is ids."""
        return "".join(piece.text for piece in self.pieces)

    def router(self) -> StreamRouter:
        return StreamRouter(
            self.stop_strings, self.starts_in_reasoning, awaits_tag_end=self.awaits_tag_end, is_raw=self.is_raw
        )

    def router_of_rest(self) -> StreamRouter:
        """For what follows ``continued`` without ``continued`` itself: content as it is, or more of an open thought."""
        if self.continued is None:
            return self.router()
        if "<think>" in self.continued.text and "</think>" not in self.continued.text:
            return StreamRouter(self.stop_strings, starts_in_reasoning=True)
        return StreamRouter(self.stop_strings, is_raw=True)


def render(
    template: PromptTemplate,
    messages: Sequence[Message],
    system: str = "",
    think_mode: ThinkMode = ThinkMode.NONE,
    continue_last: bool = False,
    tools: OfferedTools | None = None,
) -> RenderedPrompt:
    """The prompt for the next answer, or with ``continue_last`` for the rest of the last (assistant) message.

    A think mode the template does not know counts as NONE. Answers without text are left out. ``tools`` are offered in
    ``system``, or else in the first message where that is a system message.
    """
    assert not continue_last or (messages and messages[-1].role is Role.ASSISTANT), "only an answer can go on"
    offered = tools or OfferedTools(G1X_JSON)
    system, history = _with_offer(offered, system, messages[:-1] if continue_last else messages)
    has_system = bool(system) or any(message.role is Role.SYSTEM for message in history)
    pieces = _spoken(template, template.system_prefix, system) if system else []
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
    # a grammar ends the answer behind its calls, and inside an argument a stop of the dialect's is none
    stops = () if tools.is_held else tools.dialect.stop_strings
    return replace(rendered, tools=tools, stop_strings=(*rendered.stop_strings, *stops))


def _mode_of_answer(following: Sequence[Message], think_mode: ThinkMode) -> ThinkMode:
    """How the next answer was or will be asked for: a question must look the same each time it is rendered."""
    return next((message.think_mode for message in following if message.role is Role.ASSISTANT), think_mode)


def _prefix(template: PromptTemplate, role: Role, has_system: bool) -> str:
    if role is Role.SYSTEM:
        return template.system_prefix
    return (has_system and template.user_prefix_after_system) or template.user_prefix


def _spoken(template: PromptTemplate, prefix: str, text: str, suffix: str = "") -> list[PromptPiece]:
    """One message by somebody else than the model."""
    body = text if template.is_raw else cleaned(text) + suffix
    return [PromptPiece(prefix + body + template.separator, is_boundary=True)]


def _results(
    template: PromptTemplate, history: Sequence[Message], index: int, offered: OfferedTools
) -> list[PromptPiece]:
    """Results that follow each other are one message, written where the first stands."""
    if index and history[index - 1].role is Role.TOOL:
        return []
    following = list(itertools.takewhile(lambda message: message.role is Role.TOOL, history[index:]))
    calls = [call.id for call in history[index - 1].tool_calls] if index else []
    following.sort(key=lambda message: _place(message.tool_call_id, calls))
    text = offered.dialect.results([message.content for message in following])
    return _spoken(template, offered.dialect.result_prefix or template.tool_prefix, text)


def _place(call_id: str, calls: Sequence[str]) -> int:
    """Of the call a result belongs to; what belongs to none stays behind the others, in its order."""
    return calls.index(call_id) if call_id in calls else len(calls)


def _answer(template: PromptTemplate, message: Message, offered: OfferedTools) -> list[PromptPiece]:
    """An answer already given: its ids where they are what the history should hold, else its text and its calls."""
    if not message.token_ids or message.reasoning:
        return _written_answer(template, _with_calls(message, offered))
    pieces = _generation_prompt(template, template.supported(message.think_mode))
    has_separator = not template.separator or bool(message.metadata.get(SEPARATOR_INCLUDED))
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
    )


def _continued(template: PromptTemplate, pieces: list[PromptPiece], message: Message) -> RenderedPrompt:
    """Sampled ids go on where they ended; an answer known as text alone is begun again with all its text."""
    mode = template.supported(message.think_mode) if message.token_ids else ThinkMode.NONE
    text = "" if message.token_ids else _text_so_far(template, message)
    beginning = PromptPiece(text, message.token_ids)
    rendered = _opened(template, pieces, mode)
    if not beginning.text and not beginning.token_ids:
        return rendered
    return replace(rendered, pieces=(*rendered.pieces, beginning), continued=beginning)


def _text_so_far(template: PromptTemplate, message: Message) -> str:
    if not message.reasoning:
        return template.assistant_space + message.content if message.content else ""
    thought = f"{template.assistant_space}<think>\n{message.reasoning.strip()}"
    return f"{thought}\n</think>\n{message.content}" if message.content else thought
