"""Which addresses are for programs, and in whose dialect they are spoken to. Light: the guard asks at every request."""

from __future__ import annotations

PREFIXES = ("/v1/", "/api/")
RUNNER_PATHS = frozenset({"/switch-model", "/update-config", "/status", "/exit"})
ROOT_PATHS = RUNNER_PATHS | {
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/tokenize",
    "/detokenize",
    "/openapi.json",
}
"""Without a prefix: the base_url in RWKV-Runner's manual has no /v1."""


def is_api_path(path: str) -> bool:
    return f"{path}/".startswith(PREFIXES) or path in ROOT_PATHS


def dialect_of(path: str) -> str:
    """openai, anthropic, ollama or runner."""
    if path in RUNNER_PATHS:
        return "runner"
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "ollama" if path.startswith("/api/") else "openai"
