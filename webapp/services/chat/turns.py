"""Chat turns: all ways to start an answer, and the answers that are being generated now.

A turn runs in its own thread and belongs to the server: it needs no viewer, and a page that opens later sees all of it
through its :class:`LiveTurn`. One turn per chat at a time, any number of chats at once.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from webapp.chat.messages import (
    BESIDE,
    Beside,
    Failed,
    Finished,
    Message,
    Role,
    Variant,
    Waiting,
    attached_files,
    attached_metadata,
    title_of,
)
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import ModelError, RequestError, RoostError, StorageError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.attachments import texts_before, with_search
from webapp.services.chat.probes import Replays, check_position, model_of_answer
from webapp.services.chat.side_by_side import SideBySide, beside_each_other, needed_model
from webapp.services.chat.tool_loop import ToolLoop
from webapp.services.chat.turn_writer import Journal, LiveTurn, TurnWriter, chosen_tools, prompt_of_path
from webapp.services.generation.completions import END_OF_TEXT
from webapp.services.generation.generation import POLL_S, Generation
from webapp.services.generation.request import PromptModel
from webapp.services.presets.presets import Presets
from webapp.services.tools import McpServers
from webapp.settings import Settings
from webapp.storage.attachments import AttachmentStore
from webapp.storage.chats import ChatStore
from webapp.storage.database import Claim, Database
from webapp.storage.records import Chat, StoredMessage
from webapp.storage.tools import StoredTool, ToolStore
from webapp.tools.builtin.attachment_search import NamedText

log = logging.getLogger(__name__)
FINISHED_KEPT_S = 60.0
CLOSE_WAIT_S = 10.0
MAX_CLIENTS = 1000
"""Chats whose client is remembered; a round of calls in an older chat continues without it."""
REWRITTEN = "rewritten"
"""In an answer's metadata: a person changed the text."""
DELETED_KEPT_S = 86_400.0
"""Deleted messages can be restored for a day; then the next start deletes them permanently."""


class ChatTurns:
    """One per database, otherwise ``data_folder_in_use``: the constructor marks unfinished answers of a dead server as
    interrupted, and cannot distinguish them from those of a running server."""

    def __init__(
        self,
        manager: ModelManager,
        database: Database,
        settings: Settings,
        presets: Presets | None = None,
        servers: McpServers | None = None,
    ) -> None:
        self._manager = manager
        self._presets = presets or Presets(manager, database, settings)
        self._store = ChatStore(database)
        self._lock = threading.Lock()
        self._tool_store = ToolStore(database)
        self._servers = servers
        remote = servers.call if servers else None
        self._files = AttachmentStore(database)
        self.tools = ToolLoop(
            self._store, self._offered, self._go_on, settings.tool_hosts, self._notify, remote, self._texts, in_a_thread
        )
        """Handles the tool calls of answers."""
        self._journal = Journal(self._store)
        self.beside = SideBySide(self._store)
        self._turns: dict[str, list[LiveTurn]] = {}
        self.replays = Replays(manager, self._store, self._presets, self._notify)
        """Generates stored answers again to compare them."""
        self._clients: dict[str, str] = {}  # the last client, for answers that follow calls
        self._listeners: list[Callable[[str, bool], None]] = []
        self._beginning: set[str] = set()
        self._is_closed = False
        self._claim = Claim(database.path)
        self._store.recover()
        self._store.purge_deleted(time.time() - DELETED_KEPT_S)

    def send(self, chat_id: str, text: str, client: str = "", count: int = 1) -> LiveTurn:
        """Stores the message below the shown branch, with the chat's pending files, and starts the answer, or ``count``
        answers side by side. Raises ``prompt_empty`` for blank text."""
        _check_text(text)
        places = beside_each_other([Variant()] * count) if count != 1 else [{}]

        def begin() -> list[LiveTurn]:
            chat = self._store.get(chat_id)
            files = [file.as_attached for file in self._files.pending(chat_id)]
            message = Message(Role.USER, text, metadata=attached_metadata(files))
            question = self._store.add_message(chat_id, chat.head_id, message)
            if chat.title in ("", *(title_of(file.name) for file in files)):  # from the file that began the chat
                self._store.rename(chat_id, title_of(text))
            return [self._new_answer(chat_id, question.id, metadata) for metadata in places]

        return self._begin(chat_id, begin, client)

    def regenerate(self, message_id: str, client: str = "") -> LiveTurn:
        """Starts a new version of this answer, or another answer to this question."""
        stored = self._store.message(message_id)
        parent_id = stored.parent_id if stored.message.role is Role.ASSISTANT else stored.id
        return self._begin(stored.chat_id, lambda: [self._new_answer(stored.chat_id, parent_id)], client)

    def several(self, message_id: str, variants: Sequence[Variant], client: str = "") -> LiveTurn:
        """Starts answers side by side to this question, or to the question of this answer. They share one prefill if
        none needs another model; otherwise they run one by one, and the previous model is loaded again."""
        stored = self._store.message(message_id)
        parent_id = stored.parent_id if stored.message.role is Role.ASSISTANT else stored.id
        places = beside_each_other(variants)
        if parent_id is None:
            raise StorageError("message_not_found")
        for variant in variants:
            needed_model(self._manager, self._presets, variant)  # report a missing preset now
        in_turn = any(variant.kind in ("preset", "model") for variant in variants)

        def begin() -> list[LiveTurn]:
            return [self._new_answer(stored.chat_id, parent_id, metadata) for metadata in places]

        return self._begin(stored.chat_id, begin, client, in_turn=in_turn)

    def edit(self, message_id: str, text: str, client: str = "") -> LiveTurn:
        """Stores a new version of a user message, with the files of the old one, and starts its answer."""
        _check_text(text)
        stored = self._store.message(message_id)
        if stored.message.role is not Role.USER:
            raise RoostError("chat_error", reason=Text("reason.services.not_your_message"))

        def begin() -> list[LiveTurn]:
            message = Message(Role.USER, text, metadata=attached_metadata(attached_files(stored.message)))
            question = self._store.add_message(stored.chat_id, stored.parent_id, message)
            return [self._new_answer(stored.chat_id, question.id)]

        return self._begin(stored.chat_id, begin, client)

    def rewrite(self, message_id: str, text: str) -> str:
        """Stores a new version of an answer with a person's text, which can be continued; returns its chat. Raises
        ``chat_error`` for a message that is not an answer, and for an answer with calls, as their results follow it."""
        _check_text(text)
        stored = self._store.message(message_id)
        if stored.message.role is not Role.ASSISTANT or stored.message.tool_calls:
            raise RoostError("chat_error", reason=Text("reason.services.not_an_answer"))
        with self._place_for(stored.chat_id):
            message = replace(stored.message, content=text, token_ids=(), metadata={REWRITTEN: True})
            self._store.add_message(stored.chat_id, stored.parent_id, message)
        return stored.chat_id

    def continue_answer(self, message_id: str, client: str = "") -> LiveTurn:
        """Continues an answer that was cut off. Raises ``nothing_to_continue`` for one that ended by itself."""
        chat_id = self._store.message(message_id).chat_id

        def begin() -> list[LiveTurn]:
            stored = self._store.message(message_id)
            if not can_continue(stored):
                raise RoostError("nothing_to_continue")
            self._store.reopen_message(message_id, stored.message)
            return [LiveTurn(chat_id, stored.parent_id or "", message_id)]

        return self._begin(chat_id, begin, client, continues=True)

    def fork(self, message_id: str, position: int, token_id: int, client: str = "") -> LiveTurn:
        """Starts a new version with the answer's first ``position`` tokens and ``token_id``. Raises
        ``answer_without_tokens`` or ``answer_of_another_model`` if that is impossible."""
        stored = self._store.message(message_id)
        model = model_of_answer(self._manager, stored)
        ids = stored.message.token_ids[: check_position(stored, position)]
        if model.tokenizer.token_bytes(token_id) is None or token_id == END_OF_TEXT:
            raise RequestError("token_out_of_range", found=token_id, vocab_size=model.tokenizer.vocab_size)
        metadata: dict[str, Any] = {
            "tokenizer": model.tokenizer.name,
            "forked": {"from": message_id, "position": position},
        }
        beside = Beside.of(stored.message)
        if beside is not None and beside.variant.kind:  # the same variant continues it
            metadata[BESIDE] = to_builtins(replace(beside, group=uuid.uuid4().hex))
        mode = stored.message.think_mode
        begun = Message(Role.ASSISTANT, "", token_ids=(*ids, token_id), think_mode=mode, metadata=metadata)

        def begin() -> list[LiveTurn]:
            made = self._store.add_message(stored.chat_id, stored.parent_id, begun, status="streaming")
            return [LiveTurn(stored.chat_id, stored.parent_id or "", made.id)]

        return self._begin(stored.chat_id, begin, client, continues=True)

    def listen(self, listener: Callable[[str, bool], None]) -> None:
        """``listener`` is called with a chat's id when something happens without a current request: an answer has ended
        (True); the next answer of a round of calls starts or a call has its result (False)."""
        self._listeners.append(listener)

    def stop(self, chat_id: str) -> None:
        """Asks the chat's running answers to stop and keeps their text. Does nothing if none is running."""
        for live in self.answers(chat_id):
            if not live.is_finished:
                live.stop()

    def stop_answer(self, message_id: str) -> None:
        """The same for one of several answers side by side."""
        chat_id = self._store.message(message_id).chat_id
        for live in self.answers(chat_id):
            if live.message_id == message_id and not live.is_finished:
                live.stop()

    def decide(self, message_id: str, keep: Sequence[str]) -> list[str]:
        """As :meth:`SideBySide.decide`; also stops discarded answers, and runs the calls of an answer that is kept
        alone."""
        stored = self._store.message(message_id)
        discarded = self.beside.decide(message_id, keep)
        for live in self.answers(stored.chat_id):
            if live.message_id in discarded and not live.is_finished:
                live.stop()
        if len(keep) == 1 and self._store.message(keep[0]).status == "complete":
            in_a_thread(lambda: self._advance(keep[0]))
        return discarded

    def read(self, chat_id: str, client: str = "") -> threading.Thread:
        """Prefills the shown branch in the background, so that its next answer starts at once; returns the waiting
        thread. Raises ``turn_running`` while an answer is generated."""
        with self._place_for(chat_id):
            chat = self._store.get(chat_id)
        thread = threading.Thread(target=self._read, args=(chat, client), name=f"reading {chat_id[:8]}", daemon=True)
        thread.start()
        return thread

    def _read(self, chat: Chat, client: str) -> None:
        """Samples one token and drops it, because only a generation prefills a prompt."""
        try:
            path = self._store.branch(chat.id)
            model = PromptModel.chosen(self._manager)
            is_answered = bool(path) and path[-1].message.role is Role.ASSISTANT
            ends = path if is_answered else [*path, path[-1]]  # the last one is a placeholder for the next answer
            prompt, _ = prompt_of_path(
                self._manager, self._presets, self._store, chat, model, ends, is_answered, SamplingParams(max_tokens=1)
            )
            generation = Generation(self._manager, prompt, client, is_kept=True, origin=chat.origin)
            generation.start()
            stats = generation.finish().stats
            self._store.note_snapshots(chat.id, stats.get("snapshots", ()))
        except RoostError as exc:
            log.warning("a chat could not be read: %s", exc)
        self._notify(chat.id)

    def delete(self, chat_id: str) -> None:
        """Hides the chat and deletes its states at once, except those that others use. A restored chat is prefilled
        again."""
        self.stop(chat_id)
        self._manager.forget_snapshots(self._store.delete(chat_id))

    def delete_all(self, chat_ids: Sequence[str]) -> float:
        """The same for several chats, all or none; returns the time by which ``ChatStore.restore_all`` finds them."""
        for chat_id in chat_ids:
            self.stop(chat_id)
        moment, snapshots = self._store.delete_all(chat_ids)
        self._manager.forget_snapshots(snapshots)
        return moment

    def answers(self, chat_id: str) -> list[LiveTurn]:
        """The running answers, and those of their group that ended less than :data:`FINISHED_KEPT_S` ago."""
        with self._lock:
            turns = self._turns.get(chat_id, [])
            return [] if self._are_forgotten(turns) else list(turns)

    def live(self, chat_id: str) -> LiveTurn | None:
        """The first running one of them, otherwise the first."""
        turns = self.answers(chat_id)
        return next((turn for turn in turns if not turn.is_finished), turns[0] if turns else None)

    def writing(self) -> list[str]:
        """The chats with a running answer."""
        with self._lock:
            return [chat_id for chat_id, turns in self._turns.items() if not all(turn.is_finished for turn in turns)]

    def close(self) -> None:
        """Ends every turn, stores its text, and waits for that. Later turns raise ``shutting_down``."""
        with self._lock:
            self._is_closed = True
            turns = [live for turns in self._turns.values() for live in turns]
        for live in turns:
            live.stop(is_closing=True)
        deadline = time.monotonic() + CLOSE_WAIT_S
        for live in turns:
            live.wait_finished(max(0.0, deadline - time.monotonic()))
        self._journal.close()
        self._claim.release()

    def _new_answer(
        self, chat_id: str, parent_id: str | None, metadata: Mapping[str, Any] = MappingProxyType({})
    ) -> LiveTurn:
        message = Message(Role.ASSISTANT, "", metadata=dict(metadata))
        answer = self._store.add_message(chat_id, parent_id, message, status="streaming")
        return LiveTurn(chat_id, parent_id or "", answer.id)

    def _begin(
        self,
        chat_id: str,
        begin: Callable[[], list[LiveTurn]],
        client: str,
        continues: bool = False,
        in_turn: bool = False,
    ) -> LiveTurn:
        with self._place_for(chat_id):
            with self._store.database.transaction():
                lives = begin()
                if len(lives) > 1:
                    self._store.select_version(lives[0].message_id)
            with self._lock:
                self._turns[chat_id] = lives
                if self._is_closed:
                    for live in lives:
                        live.stop(is_closing=True)
                self._clients.pop(chat_id, None)
                self._clients[chat_id] = client
                if len(self._clients) > MAX_CLIENTS:
                    del self._clients[next(iter(self._clients))]
            parts = (self._manager, self._store, self._presets)
            writers = [TurnWriter(*parts, live, self._journal, client, continues, self._warm) for live in lives]
            if in_turn:
                works = [(lambda: self._write_in_turn(writers, lives), lives)]
            else:
                works = [
                    (partial(self._write, writer, live, lives[:place]), [live])
                    for place, (writer, live) in enumerate(zip(writers, lives, strict=True))
                ]
            for work, written in works:
                try:
                    name = f"turn {written[0].message_id[:8]}"
                    threading.Thread(target=work, name=name, daemon=True).start()
                except RuntimeError as exc:  # the system has no more threads
                    for writer, live in zip(writers, lives, strict=True):
                        if live in written:
                            writer.fail(exc)
            return lives[0]

    def _write(self, writer: TurnWriter, live: LiveTurn, before: Sequence[LiveTurn] = ()) -> None:
        """The turn's thread: the answer, then its calls that need no approval. Answers side by side start when the
        first of them is decoding: then they can use its prefill."""
        for earlier in before:
            if _wait_for_words(earlier, live):
                break
        writer.run()
        self._notify(live.chat_id, has_ended=True)
        if writer.has_calls and len(self.answers(live.chat_id)) == 1:
            self._advance(live.message_id)

    def _write_in_turn(self, writers: Sequence[TurnWriter], lives: Sequence[LiveTurn]) -> None:
        """Runs answers that may need other models, those without a load first; then loads the previous model again."""
        before, is_other = self._manager.choice(), False
        for writer, live in sorted(zip(writers, lives, strict=True), key=lambda each: self._needs(each[1]) is not None):
            try:
                needed = None if live.is_stopping else self._needs(live)
                if needed is not None:
                    self._manager.load(**needed)
                    is_other = True
                writer.run()
            except Exception as exc:  # this model cannot be loaded
                writer.fail(exc)
            self._notify(live.chat_id, has_ended=True)
        if is_other and not self._is_closed:
            try:
                self._manager.load(before.model, before.strategy, before.state, before.options)
            except RoostError as exc:
                log.warning("what was loaded before a comparison could not be loaded again: %s", exc)

    def _needs(self, live: LiveTurn) -> dict[str, Any] | None:
        """What must be loaded for one of the answers side by side, if anything."""
        beside = Beside.of(self._store.message(live.message_id).message)
        return needed_model(self._manager, self._presets, beside.variant) if beside is not None else None

    def _advance(self, message_id: str) -> None:
        try:
            self.tools.advance(message_id)
        except RoostError as exc:  # deleted meanwhile, or the server is shutting down
            log.info("the calls of an answer were left: %s", exc)

    def _warm(self, chat: Chat) -> None:
        """Connects the MCP servers whose tools the answer may call, while it is generated."""
        if self._servers is not None and chosen_tools(chat, self._presets.of_chat(chat), self._store.database).is_on:
            self._servers.warm(tool.definition for tool in self._offered(chat))

    def _offered(self, chat: Chat) -> list[StoredTool]:
        chosen = chosen_tools(chat, self._presets.of_chat(chat), self._store.database)
        tools = self._tool_store.by_ids(chosen.tool_ids)
        return with_search(tools, self._tool_store) if self._files.has_searchable(chat.id) else tools

    def _texts(self, message_id: str) -> list[NamedText]:
        return texts_before(self._store.path_to(message_id), self._files)

    def _go_on(self, message_id: str, results: Sequence[Message]) -> None:
        """Starts the next answer of a round of calls, below the results."""
        chat_id = self._store.message(message_id).chat_id

        def begin() -> list[LiveTurn]:
            parent_id = message_id
            for result in results:
                parent_id = self._store.add_message(chat_id, parent_id, result).id
            return [self._new_answer(chat_id, parent_id)]

        self._begin(chat_id, begin, self._clients.get(chat_id, ""))
        self._notify(chat_id)

    def _notify(self, chat_id: str, has_ended: bool = False) -> None:
        for listener in self._listeners:
            listener(chat_id, has_ended)

    @contextmanager
    def _place_for(self, chat_id: str) -> Iterator[None]:
        """Reserves the chat's only slot while a turn starts."""
        with self._lock:
            if self._is_closed:
                raise ModelError("shutting_down")
            self._forget_finished()
            current = self._turns.get(chat_id, ())
            if chat_id in self._beginning or not all(live.is_finished for live in current):
                raise RoostError("turn_running")
            self._beginning.add(chat_id)
        try:
            yield
        finally:
            with self._lock:
                self._beginning.discard(chat_id)

    def _forget_finished(self) -> None:
        for chat_id, turns in list(self._turns.items()):
            if self._are_forgotten(turns):
                del self._turns[chat_id]

    @staticmethod
    def _are_forgotten(turns: Sequence[LiveTurn]) -> bool:
        long_ago = time.monotonic() - FINISHED_KEPT_S
        return all(live.finished_at is not None and live.finished_at < long_ago for live in turns)


def in_a_thread(work: Callable[[], None]) -> None:
    """A tool may take a minute, and the page that started it continues meanwhile."""
    threading.Thread(target=work, name="tool call", daemon=True).start()


def can_continue(stored: StoredMessage) -> bool:
    """True if the answer did not end by itself: stopped, failed, interrupted or at its length limit."""
    is_done = stored.status == "complete" and stored.finish_reason in ("stop", "tool_calls")
    return stored.message.role is Role.ASSISTANT and not is_done


def _check_text(text: str) -> None:
    if not text.strip():
        raise RequestError("prompt_empty")


def _wait_for_words(earlier: LiveTurn, live: LiveTurn) -> bool:
    """Waits until an answer has text (True) or will not have any (False). Its waiting status is copied to ``live``."""
    position = 0
    while not live.is_stopping:
        events, position = earlier.events_after(position, POLL_S)
        if any(not isinstance(event, (Waiting, Finished, Failed)) for event in events):
            return True
        live.emit(event for event in events if isinstance(event, Waiting))
        if earlier.is_finished and not events:
            return False
    return True
