"""All servers' connections behind plain calls that block: the rest of Roost knows nothing of asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as WaitTimeout
from dataclasses import dataclass
from typing import Any

from webapp.errors import McpError, RoostError
from webapp.tools.mcp.connection import CLOSE_S, Connection, NotSent
from webapp.tools.mcp.listing import Listing
from webapp.tools.mcp.loop_thread import LoopThread
from webapp.tools.mcp.server_config import ServerConfig
from webapp.tools.runner import IsStopped, ToolResult, never

CONNECT_TIMEOUT_S = 60.0
"""`npx` and `uvx` download a server the first time."""

STOP_CHECK_S = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerState:
    """``phase``: "idle" (connects at its first call), "connecting", "connected", "failed" (with its ``error``).
    ``server`` is what it calls itself."""

    phase: str = "idle"
    error: RoostError | None = None
    server: str = ""


class McpClient:
    """Safe from any thread; the thread of its own begins with the first connection. Servers are known by the ids they
    are given here. ``on_tools(server_id, listing)`` hears every listing, in a thread of its own."""

    def __init__(
        self,
        on_tools: Callable[[str, Listing], None] = lambda server_id, listing: None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.on_tools = on_tools
        self._connect_timeout_s = connect_timeout_s
        self._thread = LoopThread("mcp")
        self._connections: dict[str, Connection] = {}
        """Changed in the loop's thread alone."""

    def state(self, server_id: str) -> ServerState:
        found = self._connections.get(server_id)
        return ServerState(found.phase, found.error, found.server) if found else ServerState()

    def start(self, server_id: str, config: ServerConfig) -> None:
        """Begins to connect unless it is connected; :meth:`state` says what becomes of it."""
        self._thread.submit(self._begun(server_id, config)).result()

    def connect(self, server_id: str, config: ServerConfig) -> Listing:
        """The tools of the server, connected now if it was not; McpError."""
        return self._thread.submit(self._connected(server_id, config)).result().listing

    def call(
        self,
        server_id: str,
        config: ServerConfig,
        tool: str,
        arguments: Mapping[str, Any],
        is_stopped: IsStopped = never,
    ) -> ToolResult:
        """The tool's result; McpError when there is none. A server that was lost since the last call is connected
        again, once; a call that may have reached it is never made twice. Once ``is_stopped`` the server is told so."""
        found = self._thread.submit(self._call(server_id, config, tool, arguments))
        while True:
            try:
                return found.result(STOP_CHECK_S)
            except (WaitTimeout, TimeoutError):
                if found.done():  # just now, or with a TimeoutError of its own
                    return found.result()
                if is_stopped():
                    found.cancel()
                    raise McpError(name=config.name, reason="the call was stopped") from None

    def drop(self, server_id: str) -> None:
        """Ends the connection, and the program behind it; returns when that is done."""
        if self._thread.is_running:
            self._thread.submit(self._drop(server_id)).result()

    def close(self) -> None:
        """Ends every connection and the thread; may be called twice."""
        try:
            self._thread.close(self._drop_all(), timeout_s=4 * CLOSE_S)
        except (WaitTimeout, TimeoutError):
            log.warning("an MCP server does not end")

    async def _begun(self, server_id: str, config: ServerConfig) -> Connection:
        """The connection that is there, else one that begins now."""
        found = self._connections.get(server_id)
        if found is not None and found.config == config and found.phase in ("connecting", "connected"):
            return found
        made = Connection(config, lambda listing: self.on_tools(server_id, listing), self._connect_timeout_s)
        self._connections[server_id] = made
        try:
            if found is not None:
                await found.stop()
        finally:  # others wait for it already
            made.begin()
        return made

    async def _connected(self, server_id: str, config: ServerConfig) -> Connection:
        connection = await self._begun(server_id, config)
        await connection.ready()
        return connection

    async def _call(self, server_id: str, config: ServerConfig, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        connection = await self._connected(server_id, config)
        try:
            return await connection.call(tool, arguments)
        except NotSent as lost:
            log.info("connecting to an MCP server again: %s", type(lost.error).__name__)
        await connection.stop()
        connection = await self._connected(server_id, config)
        try:
            return await connection.call(tool, arguments)
        except NotSent as lost:
            raise lost.error from lost

    async def _drop(self, server_id: str) -> None:
        found = self._connections.pop(server_id, None)
        if found is not None:
            await found.stop()

    async def _drop_all(self) -> None:
        await asyncio.gather(*(self._drop(server_id) for server_id in list(self._connections)))
