"""A blocking interface to the connections of all servers: other code does not use asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from typing import TYPE_CHECKING, Any, TypeVar

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
        """The tool's result; raises McpError when there is none. A server that was lost since the last call is
        connected again, once; a call that may have reached it is never made twice. Once ``is_stopped`` the server is
        told so."""
        found = self._thread.submit(self._call(server_id, config, tool, arguments))
        while True:
            try:
                return found.result(STOP_CHECK_S)
            except (WaitTimeout, TimeoutError):
                if found.done():  # just now, or with a TimeoutError of its own
                    return found.result()
                if is_stopped():
                    found.cancel()
                    raise McpError(name=config.name, reason=Text("reason.tools.call_was_stopped")) from None

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


if TYPE_CHECKING:
    import asyncio

Answer = TypeVar("Answer")


class LoopThread:
    """Safe from any thread. After :meth:`close` everything raises ``shutting_down``."""

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
        import asyncio

        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        except BaseException:
            coroutine.close()
            raise

    def close(self, last: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Runs ``last``, then ends loop and thread; the second call does nothing."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            loop, thread = self._loop, self._thread
        if was_closed or loop is None or thread is None:
            last.close()
            return
        import asyncio

        try:
            asyncio.run_coroutine_threadsafe(last, loop).result(timeout_s)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout_s)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._is_closed:
                raise ModelError("shutting_down")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            _end_tasks(loop)
            loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
