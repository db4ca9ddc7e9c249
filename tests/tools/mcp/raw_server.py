"""Programs that claim to be MCP servers but are not, or only barely: ``python raw_server.py WAY``. Needs no package."""

from __future__ import annotations

import json
import os
import sys
import time

WAY = sys.argv[1]
MODERN = "2026-07-28"
META = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


def modern(request: dict) -> None:
    """A server with only the newest protocol, without a handshake."""
    method = request["method"]
    if method == "initialize":
        error = {"code": -32022, "message": "unsupported", "data": {"supported": [MODERN], "requested": "old"}}
        answer(request, error=error)
    elif method == "server/discover":
        answer(request, result={"supportedVersions": [MODERN], "capabilities": {"tools": {}}, **META})
    elif method == "tools/list":
        tool = {"name": "echo", "inputSchema": {"type": "object"}}
        answer(request, result={"tools": [tool], **META})
    elif method == "tools/call" and request["params"]["name"] != "slow":
        text = called(request["params"]["name"])
        answer(request, result={"content": [{"type": "text", "text": text}], "resultType": "complete"})


def called(name: str) -> str:
    if name == "die":
        print("out of seeds", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "pid":
        return str(os.getpid())
    if name == "secret":
        return f"{os.environ.get('ROOST_TOKEN', 'none')} {os.environ.get('API_KEY', 'none')}"
    return "modern"


def many(request: dict) -> None:
    """Completes the handshake, and lists an endless number of tools on endless pages."""
    if request["method"] == "tools/list":
        first = int(request["params"].get("cursor", 0)) if "params" in request else 0
        tools = [{"name": f"tool_{first + n}", "inputSchema": {"type": "object"}} for n in range(90)]
        answer(request, result={"tools": tools, "nextCursor": str(first + 90)})
    else:
        malformed(request)


def malformed(request: dict) -> None:
    """Completes the handshake, and lists invalid tools."""
    if request["method"] == "initialize":
        info = {"name": "odd", "version": "1"}
        version = request["params"]["protocolVersion"]
        answer(request, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
    elif request["method"] == "tools/list":
        answer(request, result={"tools": [{"name": 5}]})


def answer(request: dict, **fields: object) -> None:
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **fields}), flush=True)


WAYS = {"modern": modern, "malformed": malformed, "many": many}

if __name__ == "__main__":
    if WAY == "exit":
        print("starting", file=sys.stderr)
        print("Error: API_KEY=sk-123456789 is not valid", file=sys.stderr, flush=True)
        sys.exit(2)
    if WAY == "rubbish":
        print("Welcome to the weather service!", flush=True)
    if WAY == "deaf":  # does not end when its input ends
        print("ready", file=sys.stderr, flush=True)
        while True:
            time.sleep(1)
    for line in sys.stdin:
        request = json.loads(line)
        if WAY in WAYS and "id" in request:
            WAYS[WAY](request)
