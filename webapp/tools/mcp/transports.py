"""The two ways to a server, as the SDK's client wants them: pairs of streams."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from webapp.tools.mcp.server_config import ServerConfig
from webapp.tools.mcp.stderr_tail import StderrTail

MAX_RESPONSE_BYTES = 16 << 20
"""Of one HTTP answer. What the model reads of it is cut much shorter."""
CONNECT_S = 15.0


@asynccontextmanager
async def stdio_transport(config: ServerConfig, tail: StderrTail, on_end: Callable[[], None]) -> AsyncIterator[Any]:
    """Starts the program in a process group of its own and ends the whole group with it. OSError when it cannot be
    started. ``on_end`` is called when it closes its output."""
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
    """``on_status`` hears the status of every answer to a POST: the SDK keeps it to itself. It follows redirects within
    the configured scheme, host and port only. ``on_end`` is called when it gives up."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async def look(response: Any) -> None:
        if response.request.method == "POST":
            on_status(response.status_code)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = bounded(response.stream)

    client = httpx2.AsyncClient(
        headers={"User-Agent": "Roost", **config.headers},
        timeout=httpx2.Timeout(CONNECT_S, read=None),  # every request has the protocol's own time limit
        event_hooks={"response": [look]},
        trust_env=not is_this_machine(config.host),
    )
    async with (
        client,
        streamable_http_client(config.url, http_client=client, max_sse_event_size=MAX_RESPONSE_BYTES) as (read, write),
    ):
        yield WatchedStream(read, on_end), write


def is_this_machine(host: str) -> bool:
    """Then no proxy of the environment is asked."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def bounded(stream: Any) -> Any:
    """The same bytes, or httpx2's StreamError when there are more than :data:`MAX_RESPONSE_BYTES`."""
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
