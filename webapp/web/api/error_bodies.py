"""A RoostError as the JSON each dialect's clients read."""

from __future__ import annotations

from typing import Any

from webapp.errors import InvalidSampling, RoostError
from webapp.web.api.operations import dialect_of

OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
ANTHROPIC_TYPES = {**OPENAI_TYPES, 413: "request_too_large", 503: "overloaded_error"}
OPENAI_CODES = {"prompt_too_long": "context_length_exceeded"}
"""Where clients act upon OpenAI's own word."""


def error_body(path: str, error: RoostError, message: str, status: int) -> dict[str, Any]:
    """``message`` is the sentence with its way out, in the reader's language: many clients show nothing else."""
    dialect = dialect_of(path)
    if dialect == "anthropic":
        kind = ANTHROPIC_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    if dialect == "ollama":
        return {"error": message}
    if dialect == "runner":
        return {"detail": message}
    return {"error": openai_error(error, message, status)}


def openai_error(error: RoostError, message: str, status: int) -> dict[str, Any]:
    """``{"message", "type", "code", "param"}``; ``code`` is stable, ``param`` the dotted path of what is wrong."""
    kind = OPENAI_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    code = OPENAI_CODES.get(error.code, error.code)
    return {"message": message, "type": kind, "code": code, "param": param_of(error)}


def param_of(error: RoostError) -> str | None:
    if isinstance(error, InvalidSampling):
        return str(error.params.get("name"))
    param = error.params.get("param")
    return None if param is None else str(param)
