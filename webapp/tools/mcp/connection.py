"""The connection to one server, from the first attempt to its end. Runs on the loop's thread.

One task owns it, because the SDK's scopes must be closed in the task that opened them. Calls from other tasks only use
the client. If a program ends, the connection notices at once; over HTTP, at the next call.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TextIO

from webapp import __version__
from webapp.errors import McpError, RoostError
from webapp.tools.mcp.answers import Listing, Seen, clean, failure_of, is_unsent, list_tools, tool_result, wants_modern
from webapp.tools.mcp.server_config import ServerConfig, ServerKind
from webapp.tools.runner import ToolResult, error_result

CLOSE_S = 4.0
LAST_WORDS_S = 0.5
GRACE_S = 2.0
"""The protocol's own timeout comes first, so that the server is asked to cancel."""
CHANGES_S = 0.2
"""The least time between two listings, for servers whose tools change all the time."""
LISTING_CHANGED = "ToolListChangedNotification"
PHASES = ("connecting", "connected", "failed", "idle")

log = logging.getLogger(__name__)


class NotSent(Exception):
    """The call has not reached the server and may be repeated; ``error`` is raised if it is not."""

    def __init__(self, error: RoostError) -> None:
        super().__init__(error.message)
        self.error = error


class Connection:
    """``on_tools`` is called in a worker thread with each listing, before the phase is "connected"."""

    def __init__(self, config: ServerConfig, on_tools: Callable[[Listing], None], connect_timeout_s: float) -> None:
        self.config = config
        self.phase = "connecting"
        self.error: RoostError | None = None
        self.server = ""
        self.listing = Listing()
        self._on_tools = on_tools
        self._connect_timeout_s = connect_timeout_s
        self._client: Any = None
        self._scope: Any = None
        self._seen = Seen(seconds=connect_timeout_s)
        self._settled, self._wake = asyncio.Event(), asyncio.Event()
        self._has_changed = self._has_ended = self._is_stopping = False
        self._is_unsent = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def ready(self) -> None:
        """Returns when it is connected; raises its error if it cannot connect."""
        await self._settled.wait()
        if self.phase != "connected":
            raise self.error or McpError("mcp_server_ended", name=self.config.name, said="—")

    async def stop(self) -> None:
        """Closes the connection, ends the program and waits for it."""
        self._is_stopping = True
        self._wake.set()
        if self.phase == "connecting" and self._scope is not None:
            self._scope.cancel()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=2 * CLOSE_S)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Raises McpError if there is no answer, NotSent if the call may be repeated. An error that the server reports
        becomes an error result."""
        import anyio

        if self.phase != "connected" or self._has_ended:
            raise NotSent(self.error or McpError("mcp_server_ended", name=self.config.name, said="—"))
        seconds, self._seen.status = self.config.timeout_s, 0
        try:
            with anyio.fail_after(seconds + GRACE_S):
                found = await self._client.call_tool(tool, sendable(arguments), read_timeout_seconds=seconds)
        except Exception as exc:
            return await self._failed_call(exc)
        return tool_result(found)

    async def _failed_call(self, exc: Exception) -> ToolResult:
        from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT

        code = getattr(exc, "code", None)
        seen = Seen(self._seen.status, said=self._seen.said, seconds=self.config.timeout_s)
        if code == CONNECTION_CLOSED and self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_S)
            error = self.error or failure_of(exc, self.config, seen)
            raise (NotSent(error) if self._is_unsent else error) from exc
        if code == INVALID_REQUEST and seen.status == 404:  # the server no longer knows the session
            raise NotSent(failure_of(exc, self.config, seen)) from exc
        if not isinstance(code, int) or code == REQUEST_TIMEOUT or seen.status in (401, 403) or seen.status >= 500:
            raise failure_of(exc, self.config, seen) from exc
        return error_result(clean(str(exc), self.config))

    async def _run(self) -> None:
        try:
            await self._serve_either()
        except Exception as exc:  # any error is shown as the server's state
            if not self._is_stopping:
                await self._fail(exc)
        self._client = None
        if self.phase != "failed":
            self.phase = "idle"
        self._settled.set()

    async def _serve_either(self) -> None:
        """Tries the handshake that every older server knows; then, if refused, the newer protocol."""
        try:
            await self._serve("legacy")
        except Exception as exc:
            if self._is_stopping or not wants_modern(exc):
                raise
            await self._serve("auto")

    async def _serve(self, mode: str) -> None:
        import anyio
        from mcp import Client

        quieten()
        with anyio.fail_after(self._connect_timeout_s) as self._scope:
            async with self._transport() as transport:
                client = Client(
                    transport, mode=mode, cache=None, client_info=client_info(), message_handler=self._heard
                )
                async with client:
                    self._client = client
                    await self._list()
                    self._scope.deadline = math.inf
                    self.server = server_words(client.server_info)
                    self.phase = "connected"
                    self._settled.set()
                    await self._until_over()
                    self._scope.deadline = anyio.current_time() + CLOSE_S

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[Any]:
        if self.config.kind is ServerKind.HTTP:
            yield http_transport(self.config, self._note_status, self._note_end)
            return
        tail = StderrTail()
        try:
            yield stdio_transport(self.config, tail, self._note_end)
        finally:
            self._seen.said = await asyncio.to_thread(tail.last_line, LAST_WORDS_S)

    async def _until_over(self) -> None:
        while not self._is_stopping:
            await self._wake.wait()
            self._wake.clear()
            if self._has_ended and not self._is_stopping:
                from mcp import MCPError
                from mcp_types import CONNECTION_CLOSED

                raise MCPError(CONNECTION_CLOSED, "the connection has ended")
            if self._has_changed:
                self._has_changed = False
                await self._list()
                await asyncio.sleep(CHANGES_S)

    async def _list(self) -> None:
        self.listing = await list_tools(self._client)
        await asyncio.to_thread(self._on_tools, self.listing)

    async def _fail(self, exc: BaseException) -> None:
        self._is_unsent = is_unsent(exc)
        self.error = failure_of(exc, self.config, self._seen)
        self.phase = "failed"
        log.info("the MCP server %s failed: %s", self.config.name, type(self.error).__name__)

    async def _heard(self, message: Any) -> None:
        if isinstance(message, Exception):
            self._seen.is_rubbish = True
        elif type(message).__name__ == LISTING_CHANGED:
            self._has_changed = True
            self._wake.set()

    def _note_status(self, status: int) -> None:
        self._seen.status = status

    def _note_end(self) -> None:
        self._has_ended = True
        self._wake.set()


def sendable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Removes halves of surrogate pairs, which models sometimes write; JSON can contain them, UTF-8 cannot."""
    text = json.dumps(dict(arguments), ensure_ascii=False).encode("utf-8", "replace")
    return dict(json.loads(text))


def client_info() -> Any:
    from mcp_types import Implementation

    return Implementation(name="Roost", version=__version__)


def server_words(info: Any) -> str:
    """The server's own name: title or name, and version."""
    if info is None:
        return ""
    return " ".join(filter(None, (info.title or info.name, info.version)))[:100]


def quieten() -> None:
    """The SDK logs what servers send, stack traces, and addresses with keys. Roost reports errors itself."""
    for name in ("mcp", "client", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


MAX_RESPONSE_BYTES = 16 << 20
"""Of one HTTP response. The model reads much less of it."""
CONNECT_S = 15.0


@asynccontextmanager
async def stdio_transport(config: ServerConfig, tail: StderrTail, on_end: Callable[[], None]) -> AsyncIterator[Any]:
    """Starts the program in its own process group and ends the whole group with it. Raises OSError if it cannot be
    started. ``on_end`` is called when the program closes its output."""
    from mcp.client.stdio import StdioServerParameters, stdio_client

    parameters = StdioServerParameters(
        command=config.command, args=list(config.args), env=dict(config.env), encoding_error_handler="replace"
    )
    try:
        async with stdio_client(parameters, errlog=tail.sink) as (read, write):
            tail.release()
            yield WatchedStream(read, on_end), write
    finally:
        tail.release()


@asynccontextmanager
async def http_transport(
    config: ServerConfig, on_status: Callable[[int], None], on_end: Callable[[], None]
) -> AsyncIterator[Any]:
    """``on_status`` is called with the status of every response to a POST, which the SDK does not report. Follows
    redirects only within the configured scheme, host and port. ``on_end`` is called when it gives up."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async def look(response: Any) -> None:
        if response.request.method == "POST":
            on_status(response.status_code)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = bounded(response.stream)

    client = httpx2.AsyncClient(
        headers={"User-Agent": "Roost", **config.headers},
        timeout=httpx2.Timeout(CONNECT_S, read=None),  # the protocol limits the time of every request
        event_hooks={"response": [look]},
        trust_env=not is_this_machine(config.host),
    )
    async with (
        client,
        streamable_http_client(config.url, http_client=client, max_sse_event_size=MAX_RESPONSE_BYTES) as (read, write),
    ):
        yield WatchedStream(read, on_end), write


def is_this_machine(host: str) -> bool:
    """If so, proxies in the environment are not used."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def bounded(stream: Any) -> Any:
    """The same bytes; raises httpx2's StreamError above :data:`MAX_RESPONSE_BYTES`."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > MAX_RESPONSE_BYTES:
                    raise httpx2.StreamError(f"the answer is larger than {MAX_RESPONSE_BYTES >> 20} MiB")
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


class WatchedStream:
    """The SDK's read stream; ``on_end`` is called once, when it ends."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        import anyio

        try:
            return await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._on_end()
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> WatchedStream:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._on_end()
            raise

    async def __aenter__(self) -> WatchedStream:
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.aclose()


KEPT_LINES = 20
LINE_CHARS = 500


class StderrTail:
    """The program writes to ``sink``. A thread reads from it, so that the program is never blocked; it ends when the
    program and :meth:`release` have closed the pipe."""

    def __init__(self) -> None:
        read_end, write_end = os.pipe()
        self.sink: TextIO = os.fdopen(write_end, "w", encoding="utf-8", errors="replace")
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._thread = threading.Thread(target=self._read, args=(read_end,), name="mcp stderr", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Closes our copy of the pipe's writing end; may be called twice."""
        self.sink.close()

    def last_line(self, wait_s: float = 0.0) -> str:
        """Empty if there is none. ``wait_s``: how long to wait for the last lines of a program that has just ended."""
        self._thread.join(wait_s)
        return next((line for line in reversed(self._lines) if line.strip()), "")

    def _read(self, read_end: int) -> None:
        with os.fdopen(read_end, encoding="utf-8", errors="replace", newline=None) as lines:
            while line := lines.readline(64 * 1024):
                if line.strip():
                    self._lines.append(line.strip()[:LINE_CHARS])
