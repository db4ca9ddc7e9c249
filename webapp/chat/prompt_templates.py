"""Prompt templates as data: how each family of RWKV models was trained to see a conversation.

Sources: BlinkDL/RWKV-LM ``RWKV-v7/RWKV7-G1x-templates.txt`` (g1x); ChatRWKV ``v2/chat.py`` (world, bob_alice,
question_answer, instruct). Stops are whole role markers with their colon: a paragraph that begins with A, Q or "User
interfaces" is not one. Every generation ends at token 0 besides; that is for whoever makes the sampling parameters.
:mod:`webapp.chat.prompt_rendering` makes prompts of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from webapp.chat.messages import ThinkMode

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
