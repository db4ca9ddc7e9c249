"""The prompt formats that families of RWKV models were trained on: one table, and the choice of a format for a model.

A format defines where each message begins and ends, how thinking is opened, what stops an answer and which tool dialect
it uses. Sources: BlinkDL/RWKV-LM ``RWKV-v7/RWKV7-G1x-templates.txt`` (g1x, and the cleaning of user messages);
the chat template published with the G1 models since 2026-07 (bot, function_calling); ChatRWKV ``v2/chat.py`` (world,
bob_alice, question_answer, instruct) and the demo page of the Raven models (raven). Stops are whole role markers: a
paragraph that begins with A, Q or "User interfaces" is not one. Every generation also ends at token 0; the caller adds
it to the sampling parameters.

Models since G1h were also trained on ``bot``, whatever format is used: they may end a message with a flower and
continue as the next speaker, so the flower is a stop in every format (:func:`with_family_stops`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from webapp.chat.messages import ThinkMode

MIN_WORLD_VOCAB = 60_000
"""Models with at least this many embedding rows use the World vocabulary (65,536, a few old ones 65,525 or 65,529)."""
PILE_VOCAB_SIZES = range(50_000, 51_000)
FLOWER = "✿"
"""Ends every message of the format ``bot``; token 10060 of the World vocabulary."""
FIRST_FLOWER_LETTER = "h"
"""The first G1 release that was trained on ``bot``, and its date."""
FIRST_FLOWER_DATE = 20260710
FIRST_FILL_LETTER = "c"
"""The first G1 release that can fill a gap (:func:`fill_prompt`)."""


class PromptTemplate(Struct, frozen=True):
    """One format. A message is prefix, text, ``separator``; the prompt ends with ``assistant_prefix``.

    ``assistant_space`` is inserted before the text of earlier answers, because models begin answers with a space.
    ``openings`` follow the last ``assistant_prefix``, by think mode; ``think_suffixes`` follow the user's text.
    ``user_prefix_after_system``, if set, replaces ``user_prefix`` in a chat with a system prompt; ``preamble`` is used
    if there is no system prompt. ``marks`` is a pattern for text inside a message that would begin a turn; it is
    replaced with ``mark_written_as``. ``dialect`` is the name of the tool dialect.
    """

    name: str
    user_prefix: str = "User: "
    assistant_prefix: str = "Assistant:"
    system_prefix: str = "System: "
    tool_prefix: str = "User: Function output:\n"
    user_prefix_after_system: str = ""
    preamble: str = ""
    assistant_space: str = " "
    separator: str = "\n\n"
    stop_strings: tuple[str, ...] = ()
    openings: Mapping[ThinkMode, str] = field(default_factory=dict)
    think_suffixes: Mapping[ThinkMode, str] = field(default_factory=dict)
    dialect: str = "g1x_json"
    marks: str = ""
    mark_written_as: str = ""
    is_raw: bool = False
    """Text is not changed: no cleaning, no stops, no think tags."""
    jinja: str = ""
    """The source of the model's own chat template, which then renders the whole prompt
    (:mod:`webapp.chat.prompts`)."""

    @property
    def think_modes(self) -> tuple[ThinkMode, ...]:
        """The modes to choose from; always includes NONE."""
        return (ThinkMode.NONE, *self.openings)

    def supported(self, mode: ThinkMode) -> ThinkMode:
        """The mode itself, or the nearest that the format supports."""
        if mode in self.openings:
            return mode
        is_thinking = mode in (ThinkMode.THINK, ThinkMode.THINK_A_BIT, ThinkMode.THINK_A_LOT)
        return ThinkMode.THINK if is_thinking and ThinkMode.THINK in self.openings else ThinkMode.NONE

    def written(self, text: str) -> str:
        """A message's text for the prompt, without parts that would begin a turn."""
        if self.is_raw:
            return text
        clean = cleaned(text)
        return re.sub(self.marks, self.mark_written_as, clean) if self.marks else clean


def _stops(*names: str) -> tuple[str, ...]:
    return tuple(f"\n\n{name}:" for name in names)


G1X = PromptTemplate(
    name="g1x",
    stop_strings=_stops("User", "Assistant", "System"),
    # without the final ">": the model was trained to write it, as one token with the following text
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
BOT = PromptTemplate(
    name="bot",
    user_prefix=f"User{FLOWER}",
    assistant_prefix=f"Bot{FLOWER}",
    system_prefix=f"System{FLOWER}",
    tool_prefix=f"User{FLOWER}Function output:\n",
    assistant_space="",
    separator=f"{FLOWER}\n",
    stop_strings=(FLOWER,),
    openings={ThinkMode.FAST: "<think></think", ThinkMode.THINK: "<think"},
    marks=FLOWER,
    mark_written_as="❀",
)
FUNCTION_CALLING = PromptTemplate(
    name="function_calling",
    user_prefix="### User\n",
    assistant_prefix="### Assistant\n",
    system_prefix="### System\n",
    tool_prefix="### Tool Output\n",
    assistant_space="",
    separator="\n",
    stop_strings=("\n### User\n", "\n### Tool Output\n", "\n### System\n", "\n### Assistant\n"),
    openings={ThinkMode.FAST: "<think></think", ThinkMode.THINK: "<think"},
    dialect="function_calling",
    marks=r"(?m)^###(?= (?:System|User|Assistant|Tool Output)\s*$)",
    mark_written_as="####",
)
WORLD = PromptTemplate(name="world", stop_strings=_stops("User", "Assistant", "System"))
RAVEN = PromptTemplate(
    name="raven",
    user_prefix="# Instruction:\n",
    assistant_prefix="# Response:\n",
    system_prefix="",
    tool_prefix="# Input:\n",
    preamble="Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.",
    assistant_space="",
    stop_strings=("\n\n# Instruction:", "\n\n# Input:", "\n\n# Response:"),
)
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

OWN = "own"
"""The name of a model's own format; not in the table."""

_TEMPLATES = {
    row.name: row for row in (G1X, BOT, FUNCTION_CALLING, WORLD, RAVEN, BOB_ALICE, QUESTION_ANSWER, INSTRUCT, RAW)
}
ALIASES = {"assistant": "g1x", "flower": "bot", "instruction": "instruct"}
"""Other names of formats that programs may use."""


def all_templates() -> tuple[PromptTemplate, ...]:
    """In the order of the pages."""
    return tuple(_TEMPLATES.values())


def format_names() -> tuple[str, ...]:
    """Names to choose from: the table, and the model's own format."""
    return (*_TEMPLATES, OWN)


def own_template(source: str) -> PromptTemplate:
    """The format for a model's own Jinja chat template."""
    return PromptTemplate(OWN, jinja=source, openings={ThinkMode.FAST: "", ThinkMode.THINK: ""})


def template(name: str) -> PromptTemplate:
    """Accepts names of :func:`all_templates` and :data:`ALIASES`; raises KeyError for others."""
    return _TEMPLATES[ALIASES.get(name, name)]


MARKS_OF_TEMPLATES = ((f"Bot{FLOWER}", BOT), ("### Assistant", FUNCTION_CALLING), ("Assistant:", G1X))


def default_template(
    architecture: str, vocab_size: int, model_name: str = "", chat_template: str = "", has_tools: bool = False
) -> PromptTemplate:
    """The format that fits a model best, by its vocabulary, its name and its chat template.

    For models since G1h, the published template uses ``function_calling`` if tools are offered, otherwise
    ``Assistant:`` by default. A chat template that contains only one format decides; but ``Assistant:`` is in the
    general template of every GGUF file, so it decides nothing.
    """
    name = model_name.lower()
    if vocab_size in PILE_VOCAB_SIZES:
        return RAVEN if "raven" in name else INSTRUCT if "instruct" in name else BOB_ALICE
    if vocab_size < MIN_WORLD_VOCAB:
        return RAW
    written = [row for mark, row in MARKS_OF_TEMPLATES if mark in chat_template]
    if len(written) == 1 and written[0] is not G1X:
        return written[0]
    if has_tools and (FUNCTION_CALLING in written or writes_flowers(model_name)):
        return FUNCTION_CALLING
    if architecture.startswith("7") and not re.search(r"x0\d0-world", name):
        return G1X
    return WORLD


def g1_letter(model_name: str) -> str:
    """The letter of a G1 release: "h" for ``rwkv7-g1h-2.9b-20260710-ctx10240``; "" for the first release, which has
    none, and for other models."""
    found = G1_NAME.search(model_name)
    return found[1].lower() if found else ""


def writes_flowers(model_name: str) -> bool:
    """True for models trained on the format ``bot``: G1 from h, by the letter or, without one, by the date. False if
    the name has neither."""
    if not re.search(r"rwkv-?7", model_name, re.IGNORECASE):
        return False
    if letter := g1_letter(model_name):
        return letter >= FIRST_FLOWER_LETTER
    found = re.search(r"(?<!\d)(20\d{6})(?!\d)", model_name)
    return found is not None and int(found[1]) >= FIRST_FLOWER_DATE


def with_family_stops(template: PromptTemplate, model_name: str) -> PromptTemplate:
    """Adds the flower to the stops if the model was trained to end messages with it."""
    if FLOWER in template.stop_strings or not writes_flowers(model_name):
        return template
    return replace(template, stop_strings=(*template.stop_strings, FLOWER))


def fills_gaps(model_name: str) -> bool:
    """True for models trained to write the text between two texts: G1 from c."""
    return g1_letter(model_name) >= FIRST_FILL_LETTER or writes_flowers(model_name)


def fill_prompt(before: str, behind: str) -> str:
    """The prompt for such a model; its answer is the text between."""
    mark = FLOWER
    return f"{mark}prefix{mark}{mark}suffix{mark}{behind}{mark}middle{mark}{before}"


G1_NAME = re.compile(r"(?<![a-z0-9])g1([a-z]?)(?![a-z0-9])", re.IGNORECASE)


def cleaned(text: str) -> str:
    """``text`` for a user or system message, without blank lines and outer whitespace.

    Blank lines separate messages in most formats, so this also prevents a pasted "\\n\\nAssistant:" from beginning a
    turn. A line of spaces counts as blank, because models read it so.
    """
    return re.sub(r"\n(?:[^\S\n]*\n)+", "\n", text.replace("\r\n", "\n")).strip()
