"""What went wrong, from whatever the SDK and the system raise: one typed error with a way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from webapp.errors import (
    McpCommandMissing,
    McpError,
    McpNotInstalled,
    McpNotSpoken,
    McpRefused,
    McpServerEnded,
    McpTimedOut,
    McpUnreachable,
    RoostError,
)
from webapp.tools.mcp.server_config import ServerConfig, ServerKind

RUBBISH = "it writes something else than MCP to its standard output"
OTHER_FORM = "what it sent has not the form it should have"
WORDS_CHARS = 400


@dataclass
class Seen:
    """What was noticed on the way. ``status`` is of the last HTTP answer, ``said`` the program's last line."""

    status: int = 0
    is_rubbish: bool = False
    said: str = ""
    seconds: float = 0.0


def failure_of(exc: BaseException, config: ServerConfig, seen: Seen) -> RoostError:
    """One error for what may be a whole group of exceptions."""
    for leaf in leaves(exc):
        if isinstance(leaf, RoostError):
            return leaf
        if isinstance(leaf, ImportError):
            return McpNotInstalled()
    found = [_failure(leaf, config, seen) for leaf in leaves(exc)]
    return next((error for error in found if type(error) is not McpError), found[0])


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, which on Python 3.10 has no class of its own."""
    inner = getattr(exc, "exceptions", None)
    if not isinstance(inner, tuple):
        yield exc
        return
    for part in inner:
        yield from leaves(part)


def is_unsent(exc: BaseException) -> bool:
    """True when nothing reached the server: no connection was made."""
    return any(type(leaf).__name__ in ("ConnectError", "ConnectTimeout") for leaf in leaves(exc))


def wants_modern(exc: BaseException) -> bool:
    """True when the server knows no handshake: it speaks only versions that begin with `server/discover`."""
    from mcp_types import UNSUPPORTED_PROTOCOL_VERSION

    return any(getattr(leaf, "code", None) == UNSUPPORTED_PROTOCOL_VERSION for leaf in leaves(exc))


def _failure(exc: BaseException, config: ServerConfig, seen: Seen) -> McpError:
    words = clean(str(exc) or type(exc).__name__, config)
    if isinstance(exc, TimeoutError):
        return _timed_out(config, seen)
    if hasattr(exc, "error") and hasattr(exc, "code"):
        return _protocol_failure(int(exc.code), words, config, seen)
    if type(exc).__module__.startswith("httpx2"):
        return McpUnreachable(name=config.name, reason=words)
    if isinstance(exc, OSError) and config.kind is ServerKind.STDIO:
        return McpCommandMissing(name=config.name, command=config.command, reason=exc.strerror or words)
    if type(exc).__name__ == "ValidationError":
        return McpNotSpoken(name=config.name, reason=OTHER_FORM)
    if isinstance(exc, RuntimeError):
        return McpNotSpoken(name=config.name, reason=words)
    return McpError(name=config.name, reason=words)


def _protocol_failure(code: int, words: str, config: ServerConfig, seen: Seen) -> McpError:
    from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

    if code == REQUEST_TIMEOUT:
        return _timed_out(config, seen)
    if config.kind is ServerKind.HTTP and seen.status >= 400:
        return McpRefused(name=config.name, found=seen.status)
    if code == CONNECTION_CLOSED and config.kind is ServerKind.STDIO:
        if seen.is_rubbish and not seen.said:
            return McpNotSpoken(name=config.name, reason=RUBBISH)
        return McpServerEnded(name=config.name, said=clean(seen.said, config) or "—")
    if code == CONNECTION_CLOSED:
        return McpUnreachable(name=config.name, reason=words)
    return McpNotSpoken(name=config.name, reason=words)


def _timed_out(config: ServerConfig, seen: Seen) -> McpError:
    if seen.is_rubbish:
        return McpNotSpoken(name=config.name, reason=RUBBISH)
    return McpTimedOut(name=config.name, seconds=f"{seen.seconds:g}")


def clean(text: str, config: ServerConfig) -> str:
    """A server's words for a page or the model: without secrets, one line, not endless."""
    return " ".join(config.without_secrets(text).split())[:WORDS_CHARS]
