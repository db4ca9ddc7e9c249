"""Rounds of function calling in a chat: calls wait for approval, run, and their results start the next answer.

The status of each call is in its message's metadata, so a round continues after a reload, on a second device or after a
restart. Results become messages only when every call of the answer has one; then the next answer starts.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from webapp.chat.messages import Message, Role, ToolCall, call_key
from webapp.errors import RoostError, ToolInvalid
from webapp.i18n import Text, plain, text_from_plain
from webapp.storage.chats import ChatStore
from webapp.storage.records import Chat, StoredMessage
from webapp.storage.tools import StoredTool
from webapp.structured.grammar import matches
from webapp.tools.builtin.attachment_search import NamedText
from webapp.tools.definition import Approval, Behaviour
from webapp.tools.runner import Remote, ToolResult, bounded, check_call, error_result, run_call

MAX_ROUNDS = 8
"""Answers with calls in a row before a person must write again."""
CALLS = "calls"
REFUSED = Text("reason.services.call_refused")
STOPPED = "the person stopped this call"

Key = tuple[str, str]
"""Message id and call id."""

log = logging.getLogger(__name__)


class CallState(Struct, frozen=True):
    """``status``: "waiting" for approval, "running", "asking" for a typed result, "done". ``tool`` None: the chat has
    no tool with this name."""

    call: ToolCall
    tool: StoredTool | None
    status: str
    result: str = ""
    is_error: bool = False
    by: str = ""
    """The source of the result: "tool", "person", "refused", or "stopped" during the run."""
    reason: Text | str = ""
    """Why there is no better result; a Text if it can be translated."""


class ToolLoop:
    """``offered(chat)``: the tools that its model may call. ``go_on(message_id, results)``: stores the results below an
    answer and starts the next one. ``notify(chat_id)``: called when a call has its result. ``remote``: runs calls of
    MCP tools. ``files(message_id)``: the texts attached on the path to an answer."""

    def __init__(
        self,
        store: ChatStore,
        offered: Callable[[Chat], Sequence[StoredTool]],
        go_on: Callable[[str, Sequence[Message]], object],
        allowed_hosts: Collection[str] = (),
        notify: Callable[[str], None] = lambda chat_id: None,
        remote: Remote | None = None,
        files: Callable[[str], Sequence[NamedText]] = lambda message_id: (),
        start: Callable[[Callable[[], None]], object] = lambda work: work(),
    ) -> None:
        self._store = store
        self._offered = offered
        self._go_on = go_on
        self._allowed_hosts = allowed_hosts
        self._notify = notify
        self._remote = remote
        self._files = files
        self._start = start
        self._locks = KeyedLocks()
        self._running = RunningCalls()

    def calls(self, stored: StoredMessage) -> tuple[CallState, ...]:
        """The status of an answer's calls."""
        if not stored.message.tool_calls:
            return ()
        chat = self._store.get(stored.chat_id)
        offered = {tool.definition.name: tool for tool in self._offered(chat)}
        return tuple(
            self._as_running(stored.id, _state(call, offered, stored.message)) for call in stored.message.tool_calls
        )

    def is_waiting(self, stored: StoredMessage) -> bool:
        """Whether a person must act on a call."""
        return any(state.status != "done" for state in self.calls(stored))

    def running(self, message_id: str) -> tuple[str, ...]:
        """The ids of an answer's running calls; no database query."""
        return self._running.of(message_id)

    def advance(self, message_id: str) -> None:
        """Runs the calls that need no approval, and continues when all calls have results. Safe to call at any time."""
        stored = self._store.message(message_id)
        chat = self._store.get(stored.chat_id)
        for state in self.calls(stored):
            if state.status == "done":
                continue
            if state.tool is None:
                self._record(
                    message_id,
                    state.call.id,
                    error_result(Text("reason.services.no_tool", name=state.call.name)),
                    "tool",
                )
            elif state.status == "waiting" and (earlier := self._result_before(stored, state.call)) is not None:
                note = Text("reason.services.repeated_call")
                self._record(message_id, state.call.id, ToolResult(bounded(f"{note}\n{earlier}"), reason=note), "tool")
            elif (
                state.status == "waiting"
                and _may_run(chat, state.tool)
                and self._running.claim((message_id, state.call.id))
            ):
                self._notify(stored.chat_id)
                self._run(message_id, state.call, state.tool)
        self._finish_round(message_id)

    def resume(self, message_id: str) -> None:
        """Continues after the limit of rounds, or after another answer was running."""
        self._finish_round(message_id, is_asked=True)

    def approve(self, message_id: str, call_id: str, arguments: str | None = None, for_chat: bool = False) -> None:
        """Runs a waiting call, with edited ``arguments`` (JSON text) if given; raises ToolInvalid if they are not
        valid. ``for_chat``: needs no further approval of this tool in this chat."""
        if not self._running.claim((message_id, call_id)):
            raise RoostError("chat_error", reason=Text("reason.services.call_running"))
        with self._running.given_back_on_error((message_id, call_id)):
            call, tool = self._approved(message_id, call_id, arguments, for_chat)
            self._start(lambda: self._run_approved(message_id, call, tool))

    def give(self, message_id: str, call_id: str, result: str) -> None:
        """Sets a person's own result, for a tool that asks for it or instead of a run."""
        self._open_call(message_id, call_id)
        self._record(message_id, call_id, ToolResult(bounded(result)), "person")
        self._finish_round(message_id)

    def refuse(self, message_id: str, call_id: str) -> None:
        """Tells the model that the call was not allowed, or was stopped if it is running."""
        self._open_call(message_id, call_id)
        reason, by = (STOPPED, "stopped") if self._running.stop((message_id, call_id)) else (REFUSED, "refused")
        self._record(message_id, call_id, error_result(reason), by)
        self._finish_round(message_id)

    def _approved(
        self, message_id: str, call_id: str, arguments: str | None, for_chat: bool
    ) -> tuple[ToolCall, StoredTool]:
        """The call to run; its approved form is stored."""
        stored, state = self._open_call(message_id, call_id)
        if state.tool is None:
            raise RoostError("chat_error", reason=Text("reason.services.tool_is_gone"))
        call = state.call if arguments is None else replace(state.call, arguments=arguments)
        if call != state.call:
            self._edit(stored, call, state.tool)
        if for_chat:
            chat = self._store.get(stored.chat_id)
            approved = tuple({*chat.tools.approved, state.tool.id})
            self._store.set_tools(chat.id, replace(chat.tools, approved=approved))
        return call, state.tool

    def _as_running(self, message_id: str, state: CallState) -> CallState:
        is_running = state.status == "waiting" and (message_id, state.call.id) in self._running
        return replace(state, status="running") if is_running else state

    def _run_approved(self, message_id: str, call: ToolCall, tool: StoredTool) -> None:
        try:
            self._notify(self._store.message(message_id).chat_id)
            self._run(message_id, call, tool)
            self._finish_round(message_id)
        except RoostError as exc:  # the chat was deleted meanwhile, or the server is shutting down
            log.info("the result of a call was left: %s", exc)

    def _open_call(self, message_id: str, call_id: str) -> tuple[StoredMessage, CallState]:
        stored = self._store.message(message_id)
        for state in self.calls(stored):
            if state.call.id == call_id and state.status != "done":
                return stored, state
        raise RoostError("chat_error", reason=Text("reason.services.call_has_result"))

    def _edit(self, stored: StoredMessage, call: ToolCall, tool: StoredTool) -> None:
        """The sampled ids do not match the edited call, so the message is stored as text."""
        problems = check_call(call, tool.definition, matches)
        if problems:
            field = f"arguments.{problems[0].path}" if problems[0].path else "arguments"
            raise ToolInvalid(field=field, reason=problems[0].message)
        calls = tuple(call if other.id == call.id else other for other in stored.message.tool_calls)
        self._store.change_message(stored.id, replace(stored.message, tool_calls=calls, token_ids=()))

    def _run(self, message_id: str, call: ToolCall, tool: StoredTool) -> None:
        """Runs a claimed call; releases it when its result is stored."""
        key = (message_id, call.id)
        try:
            if call.id not in self._store.message(message_id).message.metadata.get(CALLS, {}):
                result = self._result(message_id, call, tool)
                if result is not None:
                    self._record(message_id, call.id, result, "tool")
        finally:
            self._running.give_back(key)

    def _result(self, message_id: str, call: ToolCall, tool: StoredTool) -> ToolResult | None:
        hosts, definition = self._allowed_hosts, tool.definition
        try:
            is_stopped = partial(self._running.is_stopped, (message_id, call.id))
            return run_call(call, definition, hosts, matches, self._remote, lambda: self._files(message_id), is_stopped)
        except Exception as exc:  # an error of a tool must not stop the chat
            log.exception("the tool %s broke", definition.name)
            return error_result(Text("reason.services.tool_broke", error=type(exc).__name__))

    def _record(self, message_id: str, call_id: str, result: ToolResult, by: str) -> None:
        """Only the first result of a call is stored."""
        with self._store.database.transaction():
            stored = self._store.message(message_id)
            message = stored.message
            results = dict(message.metadata.get(CALLS, {}))
            results.setdefault(call_id, _recorded(result, by))
            self._store.change_message(message_id, replace(message, metadata={**message.metadata, CALLS: results}))
        self._notify(stored.chat_id)

    def _finish_round(self, message_id: str, is_asked: bool = False) -> None:
        with self._locks.held(message_id):
            stored = self._store.message(message_id)
            states = self.calls(stored)
            is_open = not states or any(state.status != "done" for state in states)
            is_too_long = not is_asked and (self._rounds(message_id) > MAX_ROUNDS or self._turns_in_circles(stored))
            if is_open or not self._is_last(stored) or is_too_long:
                return
            results = [
                Message(Role.TOOL, state.result, tool_call_id=state.call.id, name=state.call.name) for state in states
            ]
            try:
                self._go_on(message_id, results)
            except RoostError as exc:  # the server is shutting down, or another answer is running
                log.warning("the round did not go on: %s", exc)

    def _is_last(self, stored: StoredMessage) -> bool:
        """False if the chat continued after it or shows another version: an answer below this one would replace what
        the person sees and wrote."""
        return self._store.get(stored.chat_id).head_id == stored.id

    def _result_before(self, stored: StoredMessage, call: ToolCall) -> str | None:
        """The result of the same call in the previous answer; None if it was not made there or failed. If the model
        repeats a call, it gets the same result and nothing runs twice."""
        before = self._answer_before(stored)
        if before is None:
            return None
        known = before.message.metadata.get(CALLS, {})
        for other in before.message.tool_calls:
            result = known.get(other.id)
            if result and not result["is_error"] and call_key(other) == call_key(call):
                output: str = result["result"]
                note = f"{Text('reason.services.repeated_call')}\n"
                return output.removeprefix(note)
        return None

    def _turns_in_circles(self, stored: StoredMessage) -> bool:
        """Whether this answer and the previous one only repeat calls that already have results."""
        for _ in range(2):
            calls = stored.message.tool_calls
            if not calls or any(self._result_before(stored, call) is None for call in calls):
                return False
            before = self._answer_before(stored)
            if before is None:
                return False
            stored = before
        return True

    def _answer_before(self, stored: StoredMessage) -> StoredMessage | None:
        """The answer whose results led to this one."""
        for other in reversed(self._store.path_to(stored.id)[:-1]):
            if other.message.role is Role.USER:
                return None
            if other.message.role is Role.ASSISTANT:
                return other
        return None

    def _rounds(self, message_id: str) -> int:
        rounds = 0
        for stored in reversed(self._store.path_to(message_id)):
            if stored.message.role is Role.USER:
                break
            rounds += bool(stored.message.tool_calls)
        return rounds


class RunningCalls:
    """The running calls, in memory only: after a restart such a call waits again. Thread-safe. Only the thread that
    claimed a call runs it, until it is released."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[Key, threading.Event] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._stops

    def of(self, message_id: str) -> tuple[str, ...]:
        """The running calls of a message."""
        return tuple(sorted(call_id for found_in, call_id in list(self._stops) if found_in == message_id))

    def claim(self, key: Key) -> bool:
        """False if it already runs: nothing runs twice, however often the button is pressed."""
        with self._lock:
            if key in self._stops:
                return False
            self._stops[key] = threading.Event()
            return True

    def give_back(self, key: Key) -> None:
        with self._lock:
            self._stops.pop(key, None)

    @contextmanager
    def given_back_on_error(self, key: Key) -> Iterator[None]:
        """Releases a claimed call if its preparation fails."""
        try:
            yield
        except BaseException:
            self.give_back(key)
            raise

    def stop(self, key: Key) -> bool:
        """Returns whether it was running; the running thread sees :meth:`is_stopped`."""
        found = self._stops.get(key)
        if found is not None:
            found.set()
        return found is not None

    def is_stopped(self, key: Key) -> bool:
        found = self._stops.get(key)
        return found is not None and found.is_set()


class KeyedLocks:
    """One lock per key, as long as a thread holds it or waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, tuple[threading.Lock, list[None]]] = {}

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        with self._lock:
            lock, users = self._by_key.setdefault(key, (threading.Lock(), []))
            users.append(None)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                users.pop()
                if not users:
                    del self._by_key[key]


def _state(call: ToolCall, offered: dict[str, StoredTool], message: Message) -> CallState:
    tool = offered.get(call.name)
    known: dict[str, Any] | None = message.metadata.get(CALLS, {}).get(call.id)
    if known is not None:
        why = known.get("reason", "")
        reason = text_from_plain(why)
        return CallState(call, tool, "done", known["result"], known["is_error"], known["by"], reason)
    asks = tool is not None and tool.definition.behaviour is Behaviour.ASK
    return CallState(call, tool, "asking" if asks else "waiting")


def _recorded(result: ToolResult, by: str) -> dict[str, Any]:
    """The form in the message's metadata."""
    reason = plain(result.reason)
    return {"result": result.text, "is_error": result.is_error, "by": by, **({"reason": reason} if reason else {})}


def _may_run(chat: Chat, tool: StoredTool) -> bool:
    approval = tool.definition.approval
    return approval is Approval.NEVER or (approval is Approval.ONCE and tool.id in chat.tools.approved)


def as_pretty_json(text: str) -> str:
    """For display; returns the text itself if it is not JSON."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except ValueError:
        return text


KNOWN_CALLERS = ("roost-starter", "rwkv7-g1", "rwkv7a-g1", "rwkv7b-g1", "mobius")


def is_known_to_call(model_name: str) -> bool:
    """True for model families that were trained on function calling; others may describe a call instead."""
    return any(family in model_name.lower() for family in KNOWN_CALLERS)
