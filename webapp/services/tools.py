"""Tools and MCP servers: stored servers and their connections, their tools as stored tools, and trying a tool.

Chats, approval and prompt treat a server's tool like any other tool. It keeps its id and name here as long as the
server lists it under the same name, even after a time without it. A server's data about its tools is checked and
limited; tools that Roost could not enforce are refused with the reason. If a tool's description or parameters change
after a person allowed it to run without approval, the person is asked again.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import all_dialects
from webapp.chat.tool_grammars import ToolRules
from webapp.errors import GrammarInvalid, McpError, McpServerNotFound, RoostError, ToolInvalid
from webapp.i18n import Text
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.tools import McpServerStore, StoredServer, StoredTool, ToolList, ToolStore
from webapp.structured.grammar import check, matches
from webapp.tools.definition import Approval, Behaviour, McpTool, ToolDefinition, checked
from webapp.tools.mcp.answers import Listing, RemoteTool
from webapp.tools.mcp.server_config import ServerConfig, ServerKind, ServerState, checked_server, read_servers
from webapp.tools.runner import IsStopped, ToolResult, error_result, never, run_call

DELETED_KEPT_S = 86_400.0
"""A removed server can be restored for a day; then the next start deletes it with its secrets."""

if TYPE_CHECKING:
    from webapp.tools.mcp.client import McpClient

log = logging.getLogger(__name__)


class McpServers:
    """One per database. Starts nothing before a person or a call needs it. The caller must check who may change
    servers: a program runs with all rights of Roost's account, and a URL may be one that only this machine can
    reach."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.store = McpServerStore(database)
        self._tools = ToolStore(database)
        self._settings = settings
        self._made: McpClient | None = None
        self._making = threading.Lock()
        self._lock = threading.Lock()
        self.store.purge(time.time() - DELETED_KEPT_S)

    def state(self, server: StoredServer) -> ServerState:
        return self._client.state(server.id) if server.is_on else ServerState("off")

    def tools(self, server_id: str) -> list[StoredTool]:
        """The tools that it currently offers."""
        return self._tools.of_server(server_id)

    def may_change(self, config: ServerConfig) -> RoostError | None:
        """Why this server cannot be changed, or None."""
        return McpError("mcp_programs_off") if self._is_forbidden(config) else None

    def add(self, config: ServerConfig) -> StoredServer:
        """Stores the server, switched on; it is connecting when this returns."""
        self._check(checked_server(config))
        server = self.store.create_all([config], is_on=True)[0]
        self._client.start(server.id, config)
        return server

    def import_text(self, text: str) -> list[StoredServer]:
        """Adds all servers from another program's JSON, switched off, so that a person checks each before it runs."""
        configs = read_servers(text)
        for config in configs:
            self._check(config)
        return self.store.create_all(configs, is_on=False)

    def change(self, server_id: str, config: ServerConfig, seen_at: float | None) -> StoredServer:
        self._check(self.store.get(server_id).config)
        self._check(checked_server(config))
        server = self.store.update(server_id, config, seen_at)
        if server.is_on:
            self._client.start(server.id, config)
        return server

    def connect(self, server_id: str) -> None:
        """Connects again, even if connected, and requests the list of tools again."""
        server = self._allowed(server_id)
        if not server.is_on:
            raise McpError("mcp_server_off", name=server.config.name)
        self._client.drop(server_id)
        self._client.start(server_id, server.config)

    def switch(self, server_id: str, is_on: bool) -> StoredServer:
        server = self._allowed(server_id)
        with self._lock:
            self.store.switch(server_id, is_on)
            if is_on:
                bring_back(self._tools, server)
            else:
                take_away(self._tools, server_id)
        if is_on:
            self._client.start(server_id, server.config)
        else:
            self._client.drop(server_id)
        return replace(server, is_on=is_on)

    def remove(self, server_id: str) -> StoredServer:
        """Until :meth:`restore`."""
        server = self._allowed(server_id)
        with self._lock:
            self.store.delete(server_id)
            take_away(self._tools, server_id)
        self._client.drop(server_id)
        return server

    def restore(self, server_id: str) -> StoredServer:
        server = self.store.restore(server_id)
        refusal = self.may_change(server.config)
        if refusal is not None:
            self.store.delete(server_id)
            raise refusal
        if server.is_on:
            bring_back(self._tools, server)
        return server

    def try_out(self, config: ServerConfig) -> tuple[ServerState, Listing]:
        """Connects with the form's values, stores nothing and waits for the answer. Raises McpError without one."""
        self._check(checked_server(config))
        server_id = f"try-{uuid.uuid4().hex}"
        try:
            listing = self._client.connect(server_id, config)
            return self._client.state(server_id), listing
        finally:
            self._client.drop(server_id)

    def set_tools(
        self,
        server_id: str,
        hidden: Collection[str],
        approvals: Mapping[str, Approval],
        for_guests: Collection[str] | None = None,
    ) -> None:
        """``hidden``: the server's names of tools not to offer; ``approvals``: by stored tool id; ``for_guests``: tools
        for everybody's chats (None: unchanged)."""
        with self._lock:
            server = self._allowed(server_id)
            tools = replace(server.tools, hidden=tuple(name for name in server.tools.names if name in hidden))
            self.store.set_tools(server_id, tools)
            for tool in self._tools.of_server(server_id):
                known, is_hidden = tool.definition, tool.definition.mcp.name in tools.hidden
                is_open = known.for_guests if for_guests is None else tool.id in for_guests
                wanted = replace(known, approval=approvals.get(tool.id, known.approval), for_guests=is_open)
                if wanted != known:
                    self._tools.update(tool.id, wanted)
                if is_hidden:
                    self._tools.delete(tool.id)
            bring_back(self._tools, replace(server, tools=tools))

    def warm(self, definitions: Iterable[ToolDefinition]) -> None:
        """Starts to connect the servers of tools that a model may call; the call reports errors."""
        for server_id in {row.mcp.server_id for row in definitions if row.mcp.server_id}:
            try:
                server = self.store.get(server_id)
                if self.state(server).phase == "idle" and not self._is_forbidden(server.config):
                    self._client.start(server_id, server.config)
            except RoostError as exc:
                log.info("an MCP server was not connected beforehand: %s", type(exc).__name__)

    def call(
        self, definition: ToolDefinition, arguments: Mapping[str, Any], is_stopped: IsStopped = never
    ) -> ToolResult:
        """For :func:`webapp.tools.runner.run_call`: never raises for errors of a server."""
        try:
            server = self.store.get(definition.mcp.server_id)
            if not server.is_on:
                raise McpError("mcp_server_off", name=server.config.name)
            if self._is_forbidden(server.config):
                raise McpError("mcp_programs_off")
            return self._client.call(server.id, server.config, definition.mcp.name, arguments, is_stopped)
        except RoostError as exc:
            return error_result(exc.message)

    @property
    def _client(self) -> McpClient:
        """Created when needed: it imports asyncio, which a start does not need."""
        from webapp.tools.mcp.client import McpClient

        with self._making:
            if self._made is None:
                self._made = McpClient(self._listed)
            return self._made

    def close(self) -> None:
        """Ends every connection and program."""
        if self._made is not None:
            self._made.close()

    def _allowed(self, server_id: str) -> StoredServer:
        server = self.store.get(server_id)
        self._check(server.config)
        return server

    def _check(self, config: ServerConfig) -> None:
        refusal = self.may_change(config)
        if refusal is not None:
            raise refusal

    def _is_forbidden(self, config: ServerConfig) -> bool:
        return config.kind is ServerKind.STDIO and not self._settings.mcp_stdio

    def _listed(self, server_id: str, listing: Listing) -> None:
        """Called in a thread of the client: a server has sent its list of tools."""
        with self._lock:
            try:
                server = self.store.get(server_id)
            except McpServerNotFound:  # only a trial, or removed meanwhile
                return
            if server.is_on:
                self.store.set_tools(server_id, sync(self._tools, server, listing))


NAME_CHARS = 64
MAX_SCHEMA_CHARS = 20_000
"""A fifth of a person's limit: it comes without review, and the model processes all of it."""


def sync(store: ToolStore, server: StoredServer, listing: Listing) -> ToolList:
    """Updates the stored tools from a listing; returns the resulting list."""
    before = {tool.definition.mcp.name: tool for tool in store.of_server(server.id, deleted=True)}
    living = {tool.definition.mcp.name: tool for tool in store.of_server(server.id)}
    before |= living
    wanted: dict[str, ToolDefinition] = {}
    refused: dict[str, Text | str] = {}
    for remote in listing.tools:
        try:
            if remote.name not in server.tools.hidden:
                wanted[remote.name] = definition_of(server, remote, before.get(remote.name))
        except ToolInvalid as exc:
            refused[remote.name] = reason_of(exc)
    with store.database.transaction():
        for name in living.keys() - wanted.keys():
            store.delete(living[name].id)
        for name, definition in wanted.items():
            try:
                keep(store, server, definition, before.get(name), name in living)
            except ToolInvalid as exc:  # one tool too many
                refused[name] = reason_of(exc)
    names = tuple(remote.name for remote in listing.tools)
    hidden = tuple(name for name in server.tools.hidden if name in names)
    return ToolList(names, tuple(refused.items()), hidden, listing.left_out)


def definition_of(server: StoredServer, remote: RemoteTool, before: StoredTool | None) -> ToolDefinition:
    """Raises ToolInvalid for a tool that could not be offered. An unchanged tool keeps its approval; a changed one is
    for the owner only until it is shared again."""
    known = before.definition if before else ToolDefinition(safe_name(remote.name))
    parameters = remote.parameters or known.parameters
    mcp = McpTool(server.id, remote.name, remote.hints)
    if before and (known.description, dict(known.parameters)) == (remote.description, parameters):
        return replace(known, mcp=mcp)
    length = len(json.dumps(parameters))
    if length > MAX_SCHEMA_CHARS:
        reason = Text("reason.common.too_long", found=length, limit=MAX_SCHEMA_CHARS)
        raise ToolInvalid(field="parameters", reason=reason)
    return usable(
        replace(
            known,
            description=remote.description,
            parameters=parameters,
            behaviour=Behaviour.MCP,
            approval=Approval.ALWAYS,
            mcp=mcp,
            for_guests=False,
        )
    )


def keep(
    store: ToolStore, server: StoredServer, definition: ToolDefinition, before: StoredTool | None, is_living: bool
) -> None:
    if before is not None and is_living:
        if definition != before.definition:
            store.update(before.id, definition)
        return
    made = replace(definition, name=free_name(store, server, definition))
    if before is None:
        store.create(made)
    else:
        store.put_back(before.id, made)


def take_away(store: ToolStore, server_id: str) -> None:
    """Its tools are no longer offered; :func:`bring_back` restores them."""
    with store.database.transaction():
        for tool in store.of_server(server_id):
            store.delete(tool.id)


def bring_back(store: ToolStore, server: StoredServer) -> None:
    """Offers the tools of the last listing, without asking the server."""
    kept_out = {*server.tools.hidden, *(name for name, _ in server.tools.refused)}
    wanted = set(server.tools.names) - kept_out - {tool.definition.mcp.name for tool in store.of_server(server.id)}
    with store.database.transaction():
        for tool in store.of_server(server.id, deleted=True):
            if tool.definition.mcp.name in wanted:
                wanted.discard(tool.definition.mcp.name)
                keep(store, server, tool.definition, tool, is_living=False)


def free_name(store: ToolStore, server: StoredServer, definition: ToolDefinition) -> str:
    """The tool's own name, prefixed with the server's name if another tool has the same name."""
    taken = {tool.definition.name for tool in store.list()}
    return next(name for name in names_for(server.config.name, definition) if name not in taken)


def names_for(server_name: str, definition: ToolDefinition) -> Iterator[str]:
    yield definition.name
    plain = safe_name(definition.mcp.name)
    prefixed = f"{safe_name(server_name.lower(), 'mcp')}_{plain}"[:NAME_CHARS]
    yield prefixed
    for number in range(2, 10_000):
        yield f"{prefixed[: NAME_CHARS - 6]}_{number}"


def safe_name(text: str, fallback: str = "tool") -> str:
    """Replaces characters that OpenAI does not allow in names; servers may use dots, slashes and any letter."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")[:NAME_CHARS] or fallback


def reason_of(error: ToolInvalid) -> Text | str:
    place, reason = str(error.params.get("field", "")), error.params.get("reason", "")
    return reason if place in ("", "tools") else Text("reason.common.place_and_problem", path=place, problem=reason)


def usable(definition: ToolDefinition) -> ToolDefinition:
    """Returns the definition; raises ToolInvalid if it cannot be stored, offered or enforced."""
    rules = ToolRules((checked(definition).function,), is_required=True)
    for dialect in all_dialects():
        try:
            check({"kind": "lark", "grammar": dialect.grammar(rules)})
        except GrammarInvalid as exc:
            raise ToolInvalid(field="parameters", reason=exc.params["reason"]) from exc
    return definition


def try_call(definition: ToolDefinition, arguments: str, allowed_hosts: Collection[str]) -> ToolResult | None:
    """None if a person would be asked for the result."""
    return run_call(ToolCall("try", definition.name, arguments), definition, allowed_hosts, matches)
