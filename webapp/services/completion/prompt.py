"""A program's prompt as token ids, and how to read what the model writes after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from webapp.chat.messages import Role
from webapp.chat.prompt_rendering import PromptPiece, RenderedPrompt, render
from webapp.chat.prompt_templates import PromptTemplate, all_templates, default_template
from webapp.chat.tool_dialects import OfferedTools
from webapp.errors import ParameterInvalid
from webapp.services.chat.prompt_encoding import encode_prompt, stop_sequences
from webapp.services.completion.defaults import CompletionDefaults
from webapp.services.completion.order import ChatPrompt, Prompt, Structure, TextPrompt
from webapp.services.completion.structure import offered_by
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, require_model

NO_STRUCTURE = Structure()


@dataclass(frozen=True)
class PreparedPrompt:
    """``stop_sequences`` are the template's stops in their usual spelling, for the engine."""

    rendered: RenderedPrompt
    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...]
    stop_sequences: tuple[tuple[int, ...], ...]


def prepare_prompt(
    prompt: Prompt,
    defaults: CompletionDefaults,
    info: Inspection,
    tokenizer: Tokenizer,
    structure: Structure = NO_STRUCTURE,
) -> PreparedPrompt:
    """ParameterInvalid for a template that does not exist, or a conversation that cannot be continued."""
    if isinstance(prompt, ChatPrompt):
        rendered = _rendered_chat(prompt, defaults, info, offered_by(structure, info, defaults.tool_dialect))
    else:
        rendered = _rendered_text(prompt)
    encoded = encode_prompt(rendered, tokenizer)
    # The state one token before the end is where n answers to one prompt, or the same prompt again, can begin.
    last = len(encoded.token_ids) - 1
    boundaries = tuple(sorted({*encoded.boundaries, last})) if last > 0 else encoded.boundaries
    stops = stop_sequences(rendered.stop_strings, tokenizer)
    return PreparedPrompt(rendered, encoded.token_ids, boundaries, stops)


def _rendered_text(prompt: TextPrompt) -> RenderedPrompt:
    return RenderedPrompt((PromptPiece(prompt.text, prompt.token_ids),), is_raw=True)


def _rendered_chat(
    prompt: ChatPrompt, defaults: CompletionDefaults, info: Inspection, tools: OfferedTools
) -> RenderedPrompt:
    if prompt.continue_last and prompt.messages[-1].role is not Role.ASSISTANT:
        raise ParameterInvalid(param="messages", reason="only a last message by the assistant can be continued")
    template = _named(template_of(prompt.template or defaults.template, info), prompt.names)
    think_mode = defaults.think_mode if prompt.think_mode is None else prompt.think_mode
    return render(template, prompt.messages, "", think_mode, prompt.continue_last, tools)


def template_of(name: str, info: Inspection) -> PromptTemplate:
    """The one of that name, for "" what fits the model. ParameterInvalid for a name nobody has."""
    if not name:
        config = require_model(info)
        return default_template(config.architecture, config.vocab_size, Path(info.path).name)
    found = [template for template in all_templates() if template.name == name]
    if not found:
        names = ", ".join(template.name for template in all_templates())
        raise ParameterInvalid(param="template", reason=f"{name!r} is none of {names}")
    return found[0]


def _named(template: PromptTemplate, names: Iterable[str]) -> PromptTemplate:
    """With other words for user, assistant and system, stops included."""
    user, assistant, system = names
    if not (user or assistant or system) or template.is_raw:
        return template
    user_word = user or template.user_prefix.strip().rstrip(":")
    assistant_word = assistant or template.assistant_prefix.strip().rstrip(":")
    words = [user_word, assistant_word, system or template.system_prefix.strip().rstrip(":")]
    return replace(
        template,
        user_prefix=f"{user_word}: ",
        assistant_prefix=f"{assistant_word}:",
        system_prefix=f"{words[2]}: " if words[2] else "",
        stop_strings=tuple(f"\n\n{word}:" for word in words if word),
    )
