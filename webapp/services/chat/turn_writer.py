"""Generates one answer of a chat in its own thread, from the stored question to the stored answer, and writes the event
log that any number of viewers follow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from webapp.chat.formats import PromptTemplate
from webapp.chat.messages import (
    AnswerEvent,
    Beside,
    ContentDelta,
    Failed,
    Finished,
    Message,
    ReadMode,
    ReasoningDelta,
    Role,
    ThinkMode,
    Variant,
    attached_files,
)
from webapp.chat.prompts import SEPARATOR_INCLUDED, RenderedPrompt, render
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import as_roost_error
from webapp.manager.manager import ModelManager
from webapp.services.attachments import with_search, with_texts
from webapp.services.generation.generation import POLL_S, Generation
from webapp.services.generation.request import (
    Prefix,
    PreparedPrompt,
    PromptModel,
    digest_of,
    find_prefix,
    format_of,
    prepare,
    starting_from,
)
from webapp.services.generation.structure import call_constraint
from webapp.services.presets.presets import Presets, mode_of
from webapp.storage.attachments import AttachmentStore
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.presets import Preset
from webapp.storage.records import Chat, ChatTools, StoredMessage
from webapp.storage.tools import ToolStore
from webapp.tokenizer import Tokenizer

JOURNAL_S = 0.25
JOURNAL_TOKENS = 32
"""Text is stored when the oldest unstored token reaches this age, or at this number of tokens: whichever is first."""

GATHER_S = 0.05
"""Tokens generated in this time are handled together; pages are rendered at most ten times per second."""

log = logging.getLogger(__name__)


class LiveTurn:
    """The log always contains the whole message, even for a continued answer, so a viewer may join at any time.

    ``user_message_id`` is "" if the answer has no question. The turn needs no viewer.
    """

    def __init__(self, chat_id: str, user_message_id: str, message_id: str) -> None:
        self.chat_id = chat_id
        self.user_message_id = user_message_id
        self.message_id = message_id
        self.finished_at: float | None = None
        """Its end as ``time.monotonic()``."""
        self.is_stopping = False
        self.is_closing = False
        """The server is shutting down: the text is stored as interrupted, not as stopped."""
        self._events: list[AnswerEvent] = []
        self._changed = threading.Condition()
        self._abort: Callable[[], None] | None = None
        self._listeners: set[Callable[[], object]] = set()

    @property
    def is_finished(self) -> bool:
        """True when the log is complete and the message is stored."""
        return self.finished_at is not None

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why it failed; None while it runs or after success."""
        last = self._events[-1] if self.is_finished else None
        return last.error if isinstance(last, Failed) else None

    def events_after(self, position: int, timeout_s: float) -> tuple[list[AnswerEvent], int]:
        """Events from ``position`` (initially 0) on, and the position after them.

        Waits up to ``timeout_s`` for the first; returns at once, possibly without events, if the turn is finished.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > position or self.is_finished, timeout_s)
            return self._events[position:], max(position, len(self._events))

    @property
    def event_count(self) -> int:
        return len(self._events)

    def listen(self, listener: Callable[[], object]) -> None:
        """Calls ``listener`` after every event, in the writer's thread; it must return at once."""
        with self._changed:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        with self._changed:
            self._listeners.discard(listener)

    def wait_finished(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.is_finished, timeout_s)

    def stop(self, is_closing: bool = False) -> None:
        """Requests the end and returns; the text so far is kept."""
        with self._changed:
            self.is_stopping = True
            self.is_closing = self.is_closing or is_closing
            abort = self._abort
        if abort is not None:
            abort()

    def on_stop(self, abort: Callable[[], None]) -> None:
        """For the writer: sets what :meth:`stop` calls; calls it at once if stop was already requested."""
        with self._changed:
            self._abort = abort
            is_stopping = self.is_stopping
        if is_stopping:
            abort()

    def emit(self, events: Iterable[AnswerEvent]) -> None:
        """For the writer."""
        with self._changed:
            self._events += events
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def finish(self, last: AnswerEvent) -> None:
        """For the writer: adds the last event and ends the log in one step."""
        with self._changed:
            self._events.append(last)
            self.finished_at = time.monotonic()
            self.emit(())


class TurnWriter:
    """Generates one answer. Any error becomes a Failed event and is stored with the text so far.

    ``offered(chat)`` is called before the model is asked.
    """

    def __init__(
        self,
        manager: ModelManager,
        store: ChatStore,
        presets: Presets,
        live: LiveTurn,
        journal: Journal,
        client: str,
        continues: bool,
        offered: Callable[[Chat], object] = lambda chat: None,
    ) -> None:
        self._manager = manager
        self._store = store
        self._presets = presets
        self._live = live
        self._client = client
        self._continues = continues
        self._offered = offered
        self._message = Message(Role.ASSISTANT, "")
        self._generation: Generation | None = None
        self._journal = journal
        self._journaled_tokens = 0
        self._stats: dict[str, Any] = {}
        self._known_tokens = 0
        self._prefix_tokens = 0
        """Tokens of a prefix, whether its state is usable now or its text is prefilled again."""
        self._origin = ""
        self._model = ""
        self._started_at = time.monotonic()

    @property
    def has_calls(self) -> bool:
        return self._generation is not None and bool(self._generation.text.tool_calls)

    def run(self) -> None:
        try:
            self._write()
        except Exception as exc:
            self.fail(exc)

    def fail(self, exc: Exception) -> None:
        """Ends the turn with the text so far."""
        error = as_roost_error(exc)
        if error is not exc:
            log.error("a turn failed", exc_info=exc)
        if self._generation is not None and self._generation.end is None:
            self._generation.stop()  # for example a full disk: the engine's output would not be read
            self._live.emit(self._generation.text.finish(is_cut=True))
        failed = Failed(error.to_dict())
        try:
            self._store_answer(failed)
        except Exception:  # viewers must see the end in any case
            log.exception("a failed answer could not be stored")
        self._live.finish(failed)

    def _write(self) -> None:
        with self._store.database.connect():
            stored = self._store.message(self._live.message_id)
            self._message = stored.message
            prompt, path = self._prompt(stored)
            known = max(self._known_before(stored, path, prompt.prompt_tokens), self._prefix_tokens)
            self._known_tokens = min(known, prompt.prompt_tokens)
        generation = self._generation = Generation(
            self._manager, prompt, self._client, is_kept=True, gather_s=GATHER_S, origin=self._origin
        )
        if self._continues:
            self._replay(generation)
        self._live.on_stop(generation.stop)
        generation.start()
        while True:
            events = generation.read(POLL_S) or []
            if generation.end is not None:
                break
            new = generation.text.token_ids[self._journaled_tokens :]
            self._journaled_tokens += len(new)
            self._journal.add(self._live.message_id, events, new)
            self._live.emit(events)
        self._live.emit(event for event in events if event is not generation.end)
        self._live.finish(self._store_answer(generation.end))

    def _prompt(self, stored: StoredMessage) -> tuple[PreparedPrompt, list[StoredMessage]]:
        """The prompt, and the messages up to and including the answer."""
        self._manager.begin_loading()  # in parallel with reading the vocabulary and making the prompt
        model = PromptModel.chosen(self._manager)
        chat = as_asked(self._store.get(self._live.chat_id), stored.message)
        self._origin = chat.origin
        self._offered(chat)
        preset = self._presets.of_chat(chat)
        state = self._presets.start_state(chat)
        prefix = find_prefix(self._manager, state)
        self._prefix_tokens = prefix.sheet.tokens if prefix is not None and prefix.source.spoken else 0
        path = self._store.path_to(stored.id)
        rendered, template, is_free = rendered_chat(self._store, chat, preset, model, path, self._continues, prefix)
        if prefix is None:
            self._manager.check_length(rendered.text)
        if not self._continues:
            self._message = replace(self._message, think_mode=template.supported(think_mode_of(chat, preset)))
        mode = mode_of(think_mode_of(chat, preset), rendered.tools is not None)
        params = self._presets.sampling(preset, chat.sampling, model.info, mode)
        if self._continues and params.seed is None:  # as if it had never been stopped
            params = replace(params, seed=stored.stats.get("seed"))
        elif params.seed is not None and (beside := Beside.of(stored.message)) is not None:
            params = replace(params, seed=params.seed + beside.place)
        prompt = starting_from(prepare(model, rendered, params, state=state), prefix, self._manager)
        self._note(prompt, preset.name, prefix)
        if is_free or rendered.tools is None:
            return prompt, path
        begun = model.tokenizer.decode(prompt.encoded.beginning) if self._continues else ""
        return replace(prompt, constraint=call_constraint(rendered, consumed=begun)), path

    def _known_before(self, stored: StoredMessage, path: list[StoredMessage], prompt_tokens: int) -> int:
        """How many tokens of its prompt an earlier turn had already processed or written."""
        if self._continues:
            return prompt_tokens - 1  # the last token was sampled but never processed
        if (beside := Beside.of(stored.message)) is not None and beside.variant.kind:
            return 0  # of another prompt, model or state
        if stored.previous_version_id and self._store.message(stored.previous_version_id).stats.get("decoded_tokens"):
            return prompt_tokens
        for before in reversed(path[:-1]):
            if before.stats.get("decoded_tokens"):
                return int(before.stats.get("prompt_tokens", 0)) + int(before.stats["decoded_tokens"]) - 1
        return 0

    def _note(self, prompt: PreparedPrompt, preset: str, prefix: Prefix | None) -> None:
        """Records how the answer is generated, for the message's statistics."""
        status = self._manager.status()
        self._model = status.model
        sampling = {k: v for k, v in prompt.params.to_dict().items() if not k.startswith("stop_") and v not in ({}, ())}
        state = status.state if prompt.state is None else prompt.state
        self._stats = {"strategy": status.strategy, "state": state, "sampling": sampling, "preset": preset}
        if prefix is not None:
            self._stats |= {"state": prefix.name, "prefix_tokens": prompt.prefix_tokens}
        begun = len(prompt.encoded.beginning)  # of a continued answer: its own tokens are not part of the prompt
        self._stats["prompt_digest"] = digest_of(prompt.token_ids[: len(prompt.token_ids) - begun])
        self._stats["model_digest"] = self._manager.model_digest()
        if status.adapter:
            self._stats["adapter"] = status.adapter

    def _replay(self, generation: Generation) -> None:
        """Restores text and log at the point of interruption; held-back text is generated again."""
        self._live.emit(generation.begin(generation.prompt.encoded.beginning))
        if not self._message.token_ids:  # only its text is known: the ids include the opening
            self._message = replace(self._message, think_mode=ThinkMode.NONE)
        self._store.reopen_message(self._live.message_id, self._written())
        self._journaled_tokens = len(generation.text.token_ids)

    def _store_answer(self, end: Finished | Failed) -> Finished | Failed:
        """The same event with all statistics."""
        self._stats |= {**end.stats, "total_s": time.monotonic() - self._started_at}
        if end.stats:
            known = min(self._known_tokens, end.stats.get("prompt_tokens", 0))
            self._stats["read_again"] = max(0, known - end.stats.get("cached_tokens", 0))
        self._model = self._model or (self._manager.status().model if end.stats else "")
        error = end.error if isinstance(end, Failed) else None
        reason = "error" if isinstance(end, Failed) else end.finish_reason
        status = "failed" if error is not None else "complete"
        if reason == "abort":
            status = "interrupted" if self._live.is_closing else "stopped"
        self._journal.end(self._live.message_id)
        snapshots = self._stats.pop("snapshots", ())
        unneeded = self._store.finish_message(
            self._live.message_id, self._written(), status, reason, self._stats, error, self._model, snapshots
        )
        if unneeded:
            self._manager.forget_snapshots(unneeded)
        return replace(end, stats=self._stats)

    def _written(self) -> Message:
        """The message as it is now; unchanged if nothing could be generated."""
        if self._generation is None:
            return self._message
        text = self._generation.text
        token_ids, has_separator = text.kept_token_ids()
        metadata = {**self._message.metadata, "tokenizer": text.tokenizer_name}
        metadata.pop(SEPARATOR_INCLUDED, None)
        if has_separator:
            metadata[SEPARATOR_INCLUDED] = self._generation.prompt.rendered.separator
        return replace(
            self._message,
            content=text.content,
            reasoning=text.reasoning,
            tool_calls=text.tool_calls,
            token_ids=token_ids,
            metadata=metadata,
        )


class Unstored:
    """Text of one answer that is not stored yet."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.token_ids: list[int] = []


class Journal:
    """Stores the answers of all chats while they are generated: one thread, and one transaction for everything since
    the last. If the process dies, at most the last :data:`JOURNAL_S` are lost.

    With one transaction per answer, the answers of 16 chats waited for the database most of the time.
    """

    def __init__(self, store: ChatStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._unstored: dict[str, Unstored] = {}  # by message
        self._failures: dict[str, Exception] = {}
        self._due_at = float("inf")
        self._is_closed = False
        self._storing = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, message_id: str, events: Sequence[AnswerEvent], token_ids: Sequence[int]) -> None:
        """Queues new text; returns at once. Raises the error if storing this answer has failed."""
        with self._changed:
            if failure := self._failures.pop(message_id, None):
                raise failure
            if not events and not token_ids:
                return
            found = self._unstored.setdefault(message_id, Unstored())
            found.content += [event.text for event in events if isinstance(event, ContentDelta)]
            found.reasoning += [event.text for event in events if isinstance(event, ReasoningDelta)]
            found.token_ids += token_ids
            wait_s = 0.0 if len(found.token_ids) >= JOURNAL_TOKENS else JOURNAL_S
            if time.monotonic() + wait_s < self._due_at:
                self._due_at = time.monotonic() + wait_s
                self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="chat journal", daemon=True)
                self._thread.start()

    def end(self, message_id: str) -> None:
        """Stops storing parts of this answer, because the whole answer will be stored."""
        with self._storing, self._changed:
            self._unstored.pop(message_id, None)
            self._failures.pop(message_id, None)
            if not self._unstored:
                self._due_at = float("inf")

    def close(self) -> None:
        """Stores the rest."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (left_s := self._due_at - time.monotonic()) > 0 and not self._is_closed:
                    self._changed.wait(None if left_s == float("inf") else left_s)
                is_last = self._is_closed
            self._store_all()
            if is_last:
                return

    def _store_all(self) -> None:
        with self._storing:
            with self._changed:
                taken, self._unstored, self._due_at = self._unstored, {}, float("inf")
            if not taken:
                return
            try:
                with self._store.database.transaction():
                    for message_id, found in taken.items():
                        content, reasoning = "".join(found.content), "".join(found.reasoning)
                        self._store.append_tokens(message_id, content, reasoning, found.token_ids)
            except Exception as exc:  # for example a full disk: reported to the turns, which end
                with self._changed:
                    self._failures |= dict.fromkeys(taken, exc)


def rendered_chat(
    store: ChatStore,
    chat: Chat,
    preset: Preset,
    model: PromptModel,
    path: Sequence[StoredMessage],
    continues: bool,
    prefix: Prefix | None,
) -> tuple[RenderedPrompt, PromptTemplate, bool]:
    """The prompt for the answer that ends ``path``, including its text so far if it ``continues``; the format; and
    whether calls in the answer are unconstrained."""
    model.check_answers()
    messages = [_readable(stored.message, model.tokenizer) for stored in (path if continues else path[:-1])]
    files = [file for message in messages for file in attached_files(message)]
    has_searchable = any(file.mode is ReadMode.SEARCH for file in files)
    messages = with_texts(messages, chat.id, AttachmentStore(store.database)) if files else messages
    chosen = chosen_tools(chat, preset, store.database)
    tools = ToolStore(store.database).by_ids(chosen.tool_ids) if chosen.is_on else []
    if has_searchable:
        tools = with_search(tools, ToolStore(store.database))
    definitions = tuple(tool.definition.function for tool in tools)
    # without definitions, the dialect still renders past calls
    offered = OfferedTools(G1X_JSON, definitions, is_held=not chosen.is_free)
    has_calls = any(message.tool_calls for message in messages)
    names = (chat.template, preset.template)
    template, offered = format_of(model.info, names, offered, chosen.dialect, has_calls)
    system = chat.system_prompt or preset.system_prompt
    spoken = prefix.source.spoken if prefix is not None else ""
    if prefix is not None:
        system, _ = prefix.rest(system, messages)
    rendered = render(template, messages, system, think_mode_of(chat, preset), continues, offered, spoken)
    return replace(rendered, stop_strings=(*rendered.stop_strings, *preset.stop)), template, chosen.is_free


def prompt_of_path(
    manager: ModelManager,
    presets: Presets,
    store: ChatStore,
    chat: Chat,
    model: PromptModel,
    path: Sequence[StoredMessage],
    continues: bool,
    params: SamplingParams,
) -> tuple[PreparedPrompt, bool]:
    """The prompt of the answer that ends ``path``, rendered by :func:`rendered_chat`, for prefilling or replaying it;
    and whether its calls are unconstrained."""
    preset, state = presets.of_chat(chat), presets.start_state(chat)
    prefix = find_prefix(manager, state)
    rendered, _, is_free = rendered_chat(store, chat, preset, model, path, continues, prefix)
    return starting_from(prepare(model, rendered, params, state=state), prefix, manager), is_free


def as_asked(chat: Chat, message: Message) -> Chat:
    """The chat with the changes of this answer's variant. A preset replaces all of the chat's own settings."""
    beside = Beside.of(message)
    variant = beside.variant if beside is not None else Variant()
    if variant.kind == "preset":
        bare = Chat(chat.id, tools=ChatTools(approved=chat.tools.approved), origin=chat.origin)
        return replace(bare, preset_id=variant.value)
    return replace(chat, state=variant.value) if variant.kind == "state" else chat


def think_mode_of(chat: Chat, preset: Preset) -> ThinkMode:
    """The chat's own choice, otherwise the preset's."""
    return chat.think_mode if chat.think_mode is not None else ThinkMode(preset.think_mode)


def chosen_tools(chat: Chat, preset: Preset, database: Database) -> ChatTools:
    """The chat's own tools, otherwise the preset's, with the chat's approvals. Only tools that the chat's owner may
    use."""
    own = chat.tools
    if not (own.is_own or preset.tools):
        return replace(own, is_on=False, tool_ids=(), dialect=preset.tool_dialect)
    store = ToolStore(database).of(chat.person_id)
    if not own.is_own:
        ids = tuple(tool.id for tool in store.list() if tool.definition.name in preset.tools)
        return replace(own, is_on=bool(ids), tool_ids=ids, dialect=preset.tool_dialect)
    if store.is_for_guests:
        known = {tool.id for tool in store.list()}
        ids = tuple(tool_id for tool_id in own.tool_ids if tool_id in known)
        own = replace(own, tool_ids=ids, is_on=own.is_on and bool(ids))
    return replace(own, dialect=own.dialect or preset.tool_dialect)


def _readable(message: Message, tokenizer: Tokenizer) -> Message:
    """Removes ids from another model's vocabulary; the text is used instead."""
    if message.token_ids and message.metadata.get("tokenizer") != tokenizer.name:
        return replace(message, token_ids=())
    return message
