"""The form of a server as it came in, and as it goes out: secrets only ever come in.

A value that is shown hidden and comes back hidden is the one that is kept. Where the address leads to another place
than before, it has to be typed again: a key is for the server it was given for.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from werkzeug.datastructures import MultiDict

from webapp.errors import McpServerInvalid
from webapp.tools.mcp.server_config import DEFAULT_TIMEOUT_S, HIDDEN, ServerConfig, ServerKind, checked_server

MOST_CHARS = 20_000
FORMS = {
    "env": "each line is a variable's name, = and its value",
    "headers": "each line is a name, a colon and a value",
}


@dataclass(frozen=True)
class ServerDraft:
    """What a person typed, right or wrong. ``command`` is a whole command line; ``env`` and ``headers`` are lines."""

    name: str = ""
    kind: str = ServerKind.STDIO.value
    command: str = ""
    env: str = ""
    url: str = ""
    headers: str = ""
    timeout_s: str = f"{DEFAULT_TIMEOUT_S:g}"
    updated_at: str = ""


def draft_of(config: ServerConfig, updated_at: float) -> ServerDraft:
    return ServerDraft(
        name=config.name,
        kind=config.kind.value,
        command=joined((config.command, *config.args)) if config.command else "",
        env="\n".join(f"{name}={HIDDEN}" for name in config.env),
        url=config.url,
        headers="\n".join(f"{name}: {HIDDEN}" for name in config.headers),
        timeout_s=f"{config.timeout_s:g}",
        updated_at=repr(updated_at),
    )


def read_draft(form: MultiDict[str, str]) -> ServerDraft:
    """Never raises: what is too long is cut, what is no choice becomes the first."""
    texts = {name: form.get(name, "")[:MOST_CHARS] for name in ServerDraft.__dataclass_fields__}
    if texts["kind"] not in [kind.value for kind in ServerKind]:
        texts["kind"] = ServerKind.STDIO.value
    return ServerDraft(**texts)


def config_of(draft: ServerDraft, before: ServerConfig | None = None) -> ServerConfig:
    """McpServerInvalid with the field that is wrong. ``before`` has the secrets that are kept."""
    kind = ServerKind(draft.kind)
    known = before if before is not None and before.kind is kind else ServerConfig("")
    shared: dict[str, Any] = {
        "name": " ".join(draft.name.split()),
        "kind": kind,
        "timeout_s": _seconds(draft.timeout_s),
    }
    if kind is ServerKind.STDIO:
        words = split_command(draft.command)
        env = _lines(draft.env, "=", "env", known.env)
        return checked_server(ServerConfig(**shared, command=words[0] if words else "", args=tuple(words[1:]), env=env))
    url = draft.url.strip()
    kept = known.headers if _place(url) == _place(known.url) else {}
    return checked_server(ServerConfig(**shared, url=url, headers=_lines(draft.headers, ":", "headers", kept)))


def split_command(text: str) -> list[str]:
    """The words of a command line, as a shell would read them but without doing anything else a shell does."""
    is_windows = os.name == "nt"
    try:
        words = shlex.split(text, posix=not is_windows)
    except ValueError as exc:
        raise McpServerInvalid(field="command", reason="a quotation mark has no end") from exc
    return [word.strip('"') for word in words] if is_windows else words


def joined(words: tuple[str, ...]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _lines(text: str, mark: str, field: str, kept: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        name, has_mark, value = line.partition(mark)
        name, value = name.strip(), value.strip()
        if not has_mark or not name:
            raise McpServerInvalid(field=field, reason=FORMS[field])
        if value == HIDDEN and name not in kept:
            raise McpServerInvalid(field=field, reason="a hidden value has to be typed again here")
        found[name] = kept[name] if value == HIDDEN else value
    return found


def _place(url: str) -> tuple[str, str]:
    """Scheme and host with its port; what is no address is checked later, and like no other."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", url
    return parts.scheme, parts.netloc.lower()


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise McpServerInvalid(field="timeout_s", reason="it must be from 1 to 600 seconds") from None
