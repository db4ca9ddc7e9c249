"""A blocking interface to the connections of all servers: other code does not use asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from typing import Any, TypeVar

from webapp.errors import McpError, ModelError
from webapp.i18n import Text
from webapp.tools.mcp.answers import Listing
from webapp.tools.mcp.connection import CLOSE_S, Connection, NotSent
from webapp.tools.mcp.server_config import ServerConfig, ServerState
from webapp.tools.runner import IsStopped, ToolResult, never

CONNECT_TIMEOUT_S = 60.0
"""`npx` and `uvx` download a server the first time."""

STOP_CHECK_S = 0.2

log = logging.getLogger(__name__)


class McpClient:
    """Thread-safe; its own thread starts with the first connection. ``server_id`` identifies a server.
    ``on_tools(server_id, listing)`` is called with every listing, in a thread of its own."""

    def __init__(
        self,
        on_tools: Callable[[str, Listing], None] = lambda server_id, listing: None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.on_tools = on_tools
        self._connect_timeout_s = connect_timeout_s
        self._thread = LoopThread("mcp")
        self._connections: dict[str, Connection] = {}
        """Changed only in the loop's thread."""

    def state(self, server_id: str) -> ServerState:
        found = self._connections.get(server_id)
        return ServerState(found.phase, found.error, found.server) if found else ServerState()

    def start(self, server_id: str, config: ServerConfig) -> None:
        """Starts to connect unless connected; :meth:`state` shows the result."""
        self._thread.submit(self._begun(server_id, config)).result()

    def connect(self, server_id: str, config: ServerConfig) -> Listing:
        """Connects if needed and returns the server's tools. Raises McpError."""
        return self._thread.submit(self._connected(server_id, config)).result().listing

    def call(
        self,
        server_id: str,
        config: ServerConfig,
        tool: str,
        arguments: Mapping[str, Any],
        is_stopped: IsStopped = never,
    ) -> ToolResult:
        """Returns the tool's result; raises McpError. Connects again once if the connection was lost; a call that may
        have reached the server is never repeated. If ``is_stopped`` becomes true, the server is asked to cancel."""
        found = self._thread.submit(self._call(server_id, config, tool, arguments))
        while True:
            try:
                return found.result(STOP_CHECK_S)
            except (WaitTimeout, TimeoutError):
                if found.done():  # it has just finished, or has raised a TimeoutError itself
                    return found.result()
                if is_stopped():
                    found.cancel()
                    raise McpError(name=config.name, reason=Text("reason.tools.call_was_stopped")) from None

    def drop(self, server_id: str) -> None:
        """Closes the connection, ends the server's program and waits for it."""
        if self._thread.is_running:
            self._thread.submit(self._drop(server_id)).result()

    def close(self) -> None:
        """Closes all connections and ends the thread; may be called twice."""
        try:
            self._thread.close(self._drop_all(), timeout_s=4 * CLOSE_S)
        except (WaitTimeout, TimeoutError):
            log.warning("an MCP server does not end")

    async def _begun(self, server_id: str, config: ServerConfig) -> Connection:
        """The existing connection, or a new one that starts to connect."""
        found = self._connections.get(server_id)
        if found is not None and found.config == config and found.phase in ("connecting", "connected"):
            return found
        made = Connection(config, lambda listing: self.on_tools(server_id, listing), self._connect_timeout_s)
        self._connections[server_id] = made
        try:
            if found is not None:
                await found.stop()
        finally:  # other tasks already wait for it
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


Answer = TypeVar("Answer")


class LoopThread:
    """Thread-safe. After :meth:`close` every call raises ``shutting_down``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_running(self) -> bool:
        return self._loop is not None and not self._is_closed

    def submit(self, coroutine: Coroutine[Any, Any, Answer]) -> Future[Answer]:
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        except BaseException:
            coroutine.close()
            raise

    def close(self, last: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Runs ``last``, then ends the loop and the thread; a second call does nothing."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            loop, thread = self._loop, self._thread
        if was_closed or loop is None or thread is None:
            last.close()
            return
        try:
            asyncio.run_coroutine_threadsafe(last, loop).result(timeout_s)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout_s)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                raise ModelError("shutting_down")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            _end_tasks(loop)
            loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
