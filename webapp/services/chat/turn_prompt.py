"""What a turn puts before the model: the prompt and how it is sampled, out of the chat, its preset and the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from webapp.chat.messages import Message, ThinkMode
from webapp.chat.prompt_rendering import RenderedPrompt, render
from webapp.chat.prompt_templates import PromptTemplate, all_templates, default_template
from webapp.engine.sampling_params import SamplingParams
from webapp.services.attachments.message_files import is_searchable, with_texts
from webapp.services.chat.prompt_encoding import EncodedPrompt, encode_prompt, stop_sequences
from webapp.services.chat.tool_offer import call_constraint, chosen_tools, offered_tools
from webapp.services.presets.presets import Presets
from webapp.storage.attachments import AttachmentStore
from webapp.storage.chats import ChatStore
from webapp.storage.presets import Preset
from webapp.storage.records import Chat
from webapp.storage.tools import ToolStore
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, require_model


@dataclass(frozen=True)
class TurnPrompt:
    """``made_for`` is the model whose vocabulary and template it has; ``preset`` is a name, for the statistics."""

    rendered: RenderedPrompt
    encoded: EncodedPrompt
    params: SamplingParams
    tokenizer: Tokenizer
    made_for: Inspection
    state: str | None
    preset: str
    constraint: dict[str, Any] | None = None


class Manager(Protocol):
    """What a prompt needs of :class:`webapp.manager.model_manager.ModelManager`."""

    def model_info(self) -> Inspection: ...

    def tokenizer(self) -> Tokenizer: ...


class TurnPrompts:
    """The prompt of one turn, for the chat, preset and model as they are when this is made."""

    def __init__(self, manager: Manager, store: ChatStore, presets: Presets, chat_id: str) -> None:
        self._info = manager.model_info()  # first: submit refuses what was made for a model chosen before
        self._tokenizer = manager.tokenizer()
        self._store = store
        self._presets = presets
        self._chat = store.get(chat_id)
        self._preset = presets.of_chat(self._chat)
        self._template = template_of(self._chat, self._info, self._preset)
        self._tool_store = ToolStore(store.database)
        self._tools = chosen_tools(self._chat, self._preset, self._tool_store)

    @property
    def think_mode(self) -> ThinkMode:
        """The one a new answer begins with."""
        return self._template.supported(think_mode_of(self._chat, self._preset))

    def prompt(self, message_id: str, continues: bool) -> TurnPrompt:
        """For the answer ``message_id``, empty or, where it ``continues``, begun."""
        rendered = self._rendered(message_id, continues)
        encoded = encode_prompt(rendered, self._tokenizer)
        begun = self._tokenizer.decode(encoded.beginning) if continues else ""
        return TurnPrompt(
            rendered,
            encoded,
            self._params(rendered.stop_strings),
            self._tokenizer,
            self._info,
            self._presets.start_state(self._chat),
            self._preset.name,
            None if self._tools.is_free else call_constraint(rendered, consumed=begun),
        )

    def _rendered(self, message_id: str, continues: bool) -> RenderedPrompt:
        path = [stored.message for stored in self._store.path_to(message_id)]
        messages = [_readable(message, self._tokenizer) for message in (path if continues else path[:-1])]
        has_searchable = any(is_searchable(message) for message in messages)
        messages = with_texts(messages, self._chat.id, AttachmentStore(self._store.database))
        system = self._chat.system_prompt or self._preset.system_prompt
        tools = offered_tools(self._tools, self._tool_store, self._info, has_searchable)
        think_mode = think_mode_of(self._chat, self._preset)
        rendered = render(self._template, messages, system, think_mode, continues, tools)
        return replace(rendered, stop_strings=(*rendered.stop_strings, *self._preset.stop))

    def _params(self, stop_strings: tuple[str, ...]) -> SamplingParams:
        params = self._presets.sampling(self._preset, self._chat.sampling, self._info.parameters)
        stops = stop_sequences(stop_strings, self._tokenizer)
        return replace(params, stop_token_sequences=(*params.stop_token_sequences, *stops))


def template_of(chat: Chat, info: Inspection, preset: Preset | None = None) -> PromptTemplate:
    """The chat's own choice, else its preset's, else what fits the model (also for one that is no more)."""
    known = {template.name: template for template in all_templates()}
    for name in (chat.template, preset.template if preset else ""):
        if name in known:
            return known[name]
    config = require_model(info)
    return default_template(config.architecture, config.vocab_size, Path(info.path).name)


def think_mode_of(chat: Chat, preset: Preset) -> ThinkMode:
    """The chat's own choice, else its preset's."""
    return chat.think_mode if chat.think_mode is not None else ThinkMode(preset.think_mode)


def _readable(message: Message, tokenizer: Tokenizer) -> Message:
    """Without ids that another model's vocabulary made: its text then has to do."""
    if message.token_ids and message.metadata.get("tokenizer") != tokenizer.name:
        return replace(message, token_ids=())
    return message
