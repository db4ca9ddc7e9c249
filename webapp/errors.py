"""Every error that a person can cause or see: rows of a code and its HTTP status.

An error has a code (stable: OpenAI's ``error.code`` and the key of its texts), a sentence and a way out. Both texts are
in the catalogues, as ``error.<code>.message`` and ``error.<code>.hint``; ``params`` are the values in them: texts,
numbers, or a :class:`~webapp.i18n.Text` for a reason that is translated with its error.

    raise RoostError("chat_not_found")
    raise WeightsError("file_truncated", path=path, reason=Text("weights.ends_early", found=size))

A separate class exists only if some ``except`` names it; it is raised with one of its codes, or without a code for the
one in its body. To add an error: a row in ``STATUSES``, its texts in ``catalogue/{en,zh}/errors.json``. Errors from the
engine and the reader process are sent as plain dicts (``to_dict``, :func:`error_from_dict`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from webapp.i18n import Text, plain, text_from_plain, translate

AnError = TypeVar("AnError", bound="RoostError")


class RoostError(Exception):
    code = "internal_error"

    def __init__(self, code: str = "", /, **params: Any) -> None:
        self.code = code or self.code
        self.params = params
        super().__init__()

    @property
    def status(self) -> int:
        """The HTTP status."""
        return ROWS[self.code].status

    @property
    def message(self) -> str:
        """The sentence, in English."""
        return translate_error(self, "en")[0]

    @property
    def hint(self) -> str:
        """The way out, in English."""
        return translate_error(self, "en")[1]

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return (error_from_dict, (self.to_dict(),))

    def with_params(self: AnError, **params: Any) -> AnError:
        """The same error with other values."""
        return type(self)(self.code, **{**self.params, **params})

    def to_dict(self) -> dict[str, Any]:
        """``{"code", "message", "hint", "params"}``, all JSON; the two texts are English."""
        params = {name: plain(value) for name, value in self.params.items()}
        return {"code": self.code, "message": self.message, "hint": self.hint, "params": params}


class WeightsError(RoostError):
    """A file on disk that is damaged or of the wrong kind."""

    code = "file_error"


class FileMissing(WeightsError):
    code = "file_not_found"


class FileReadingFailed(WeightsError):
    """The reader process took too long, needed too much memory, or ended."""

    code = "file_reading_failed"


class ConversionError(RoostError):
    """A model file could not be converted; nothing was written."""

    code = "conversion_failed"

    @classmethod
    def refused(cls, path: str, target: str | Text, reason: str | Text, way_out: str | Text) -> ConversionError:
        """``conversion_refused``: detected before anything is read."""
        return cls("conversion_refused", path=path, target=target, reason=reason, way_out=way_out)


class DownloadError(RoostError):
    """A file could not be downloaded from a hub; the library has no partial file."""

    code = "download_failed"


class BackendUnavailable(RoostError):
    """This machine cannot run the backend; the hint says what would change that."""

    code = "backend_unavailable"


class StrategyError(RoostError):
    """A strategy with a wrong syntax, or one that this model does not support."""

    code = "strategy_invalid"


class ModelError(RoostError):
    """The loaded model or its engine process."""

    code = "model_error"


class ModelNotFound(ModelError):
    code = "model_not_found"


class OutOfMemory(ModelError):
    code = "out_of_memory"


class EngineCrashed(ModelError):
    code = "engine_crashed"


class QueueFull(ModelError):
    code = "queue_full"


class RequestError(RoostError):
    """A generation request that cannot be run."""

    code = "request_invalid"


class InvalidOption(RequestError):
    """An option of a backend."""

    code = "option_invalid"


class GrammarInvalid(RequestError):
    """A schema or grammar that is given for an answer."""

    code = "grammar_invalid"


class UploadMissing(RoostError):
    code = "upload_missing"


class StorageError(RoostError):
    """The database, or something missing in it."""

    code = "storage_error"


class ChatNotFound(StorageError):
    code = "chat_not_found"


class PresetError(RoostError):
    code = "preset_error"


class PresetNotFound(PresetError):
    code = "preset_not_found"


class PresetNameTaken(PresetError):
    code = "preset_name_taken"


class ToolInvalid(RoostError):
    """``field``: the invalid part of the tool's definition."""

    code = "tool_invalid"


class ToolFailed(RoostError):
    code = "tool_failed"


class BenchCaseInvalid(RoostError):
    code = "bench_case_invalid"


class BenchRefused(RoostError):
    code = "bench_refused"


class McpError(RoostError):
    """A server that offers tools over MCP; ``name`` is its name in Roost."""

    code = "mcp_error"


class McpServerInvalid(McpError):
    """``field``: a field of the form."""

    code = "mcp_server_invalid"


class McpServerNotFound(McpError):
    code = "mcp_server_not_found"


class Row(NamedTuple):
    status: int
    kind: type[RoostError]


STATUSES: dict[type[RoostError], dict[str, int]] = {
    RoostError: {
        "internal_error": 500,
        "settings_invalid": 400,
        "tool_not_found": 404,
        "bench_not_found": 404,
        "bench_interrupted": 503,
        "api_error": 400,
        "body_invalid": 400,
        "unsupported_media_type": 415,
        "unsupported_content_encoding": 415,
        "invalid_parameter": 400,
        "unsupported_parameter": 400,
        "model_not_served": 404,
        "unknown_url": 404,
        "answer_not_found": 404,
        "wrong_method": 405,
        "too_many_streams": 429,
        "server_busy": 503,
        "library_error": 409,
        "model_in_use": 409,
        "state_in_use": 409,
        "model_kept": 409,
        "file_name_taken": 409,
        "file_name_unusable": 400,
        "disk_full": 507,
        "folder_not_writable": 403,
        "upload_offset": 409,
        "upload_refused": 400,
        "trash_missing": 404,
        "file_outdated": 409,
        "job_not_found": 404,
        "measurement_not_found": 404,
        "batch_not_found": 404,
        "batch_invalid": 422,
        "item_not_found": 404,
        "item_changed": 409,
        "item_name_taken": 409,
        "item_invalid": 422,
        "too_many_items": 409,
        "notebook_not_found": 404,
        "notebook_changed": 409,
        "notebook_busy": 409,
        "notebook_token_gone": 409,
        "chat_error": 409,
        "chat_import_invalid": 422,
        "chat_file_invalid": 422,
        "cannot_replay": 409,
        "state_id_not_found": 404,
        "turn_running": 409,
        "nothing_to_continue": 409,
        "answer_without_tokens": 409,
        "answer_of_another_model": 409,
        "chat_template_failed": 422,
        "attachment_not_text": 422,
        "attachment_empty": 422,
        "attachment_too_large": 413,
        "attachments_full": 409,
        "attachment_sent": 409,
        "attachment_not_found": 404,
        "model_writes_music": 409,
        "not_a_music_model": 409,
        "music_ending": 415,
        "music_unreadable": 400,
        "music_too_long": 413,
        "music_many_voices": 422,
        "web_error": 400,
        "bad_frame": 400,
        "not_allowed": 403,
        "invalid_api_key": 401,
        "access_ended": 401,
        "owner_only": 403,
        "https_only": 400,
        "token_scope": 403,
        "limit_invalid": 422,
        "person_busy": 429,
        "person_tokens_used": 429,
        "token_invalid": 422,
        "token_not_found": 404,
        "no_own_authority": 404,
        "tls_needs_package": 400,
        "owner_link_used": 403,
        "invitation_over": 403,
        "account_name_taken": 409,
        "account_name_missing": 422,
        "password_too_short": 422,
        "wrong_password": 422,
        "person_not_found": 404,
        "not_running": 503,
        "too_many_requests": 429,
        "too_large": 413,
    },
    WeightsError: {
        "file_error": 400,
        "file_is_directory": 400,
        "file_empty": 400,
        "file_unreadable": 403,
        "file_truncated": 400,
        "unsafe_pickle": 400,
        "wrong_extension": 400,
        "unknown_format": 400,
        "not_a_model": 400,
        "state_mismatch": 400,
        "state_dropped": 400,
        "document_unreadable": 422,
        "blend_invalid": 400,
        "vocabulary_invalid": 400,
        "tokenizer_missing": 400,
        "music_of_remi": 400,
    },
    FileMissing: {
        "file_not_found": 404,
        "state_not_found": 404,
    },
    FileReadingFailed: {
        "file_reading_failed": 400,
    },
    ConversionError: {
        "conversion_failed": 422,
        "conversion_refused": 422,
        "conversion_cancelled": 409,
        "conversion_target_exists": 409,
        "conversion_no_space": 507,
        "lora_mismatch": 422,
    },
    DownloadError: {
        "download_failed": 502,
        "download_unreachable": 502,
        "download_untrusted": 502,
        "download_stalled": 504,
        "download_interrupted": 502,
        "download_not_found": 404,
        "download_needs_token": 401,
        "download_forbidden": 403,
        "download_rate_limited": 429,
        "download_refused": 502,
        "download_not_a_file": 502,
        "download_changed": 409,
        "download_range_refused": 502,
        "download_too_long": 502,
        "download_wrong_size": 502,
        "download_wrong_hash": 502,
        "download_bad_redirect": 502,
        "download_link_invalid": 400,
        "download_elsewhere": 409,
    },
    BackendUnavailable: {
        "backend_unavailable": 400,
    },
    StrategyError: {
        "strategy_invalid": 400,
    },
    ModelError: {
        "model_error": 503,
        "no_model": 503,
        "load_failed": 503,
        "load_cancelled": 409,
        "model_does_not_fit": 400,
        "engine_stalled": 503,
        "crash_loop": 503,
        "model_unloaded": 503,
        "shutting_down": 503,
        "non_finite_logits": 503,
    },
    ModelNotFound: {
        "model_not_found": 404,
    },
    OutOfMemory: {
        "out_of_memory": 503,
    },
    EngineCrashed: {
        "engine_crashed": 503,
    },
    QueueFull: {
        "queue_full": 503,
    },
    RequestError: {
        "request_invalid": 400,
        "prompt_empty": 400,
        "prompt_too_long": 400,
        "document_too_long": 413,
        "sampling_invalid": 400,
        "token_out_of_range": 400,
    },
    InvalidOption: {
        "option_invalid": 400,
    },
    GrammarInvalid: {
        "grammar_invalid": 400,
    },
    UploadMissing: {
        "upload_missing": 404,
    },
    StorageError: {
        "storage_error": 500,
        "message_not_found": 404,
        "database_too_new": 500,
        "database_broken": 500,
        "database_locked": 503,
        "database_read_only": 500,
        "database_full": 507,
        "database_gone": 500,
        "backup_no_room": 507,
        "backup_failed": 500,
        "data_folder_in_use": 500,
    },
    ChatNotFound: {
        "chat_not_found": 404,
    },
    PresetError: {
        "preset_error": 400,
        "preset_changed": 409,
        "too_many_presets": 409,
        "preset_file_invalid": 422,
        "preset_invalid": 422,
        "preset_unnamed": 422,
        "preset_out_of_range": 422,
        "preset_too_long": 422,
    },
    PresetNotFound: {
        "preset_not_found": 404,
    },
    PresetNameTaken: {
        "preset_name_taken": 409,
    },
    ToolInvalid: {
        "tool_invalid": 422,
    },
    ToolFailed: {
        "tool_failed": 502,
    },
    BenchCaseInvalid: {
        "bench_case_invalid": 422,
        "bench_line_invalid": 422,
    },
    BenchRefused: {
        "bench_refused": 409,
    },
    McpError: {
        "mcp_error": 502,
        "mcp_not_installed": 501,
        "mcp_command_missing": 502,
        "mcp_server_ended": 502,
        "mcp_timed_out": 504,
        "mcp_not_spoken": 502,
        "mcp_unreachable": 502,
        "mcp_refused": 502,
        "mcp_server_off": 409,
        "mcp_programs_off": 403,
    },
    McpServerInvalid: {
        "mcp_server_invalid": 422,
    },
    McpServerNotFound: {
        "mcp_server_not_found": 404,
    },
}
"""HTTP status by code, of each class."""
ROWS = {code: Row(status, kind) for kind, rows in STATUSES.items() for code, status in rows.items()}


def translate_error(error: RoostError, locale: str) -> tuple[str, str]:
    """(sentence, way out) in ``locale``."""
    message, hint = (translate(f"error.{error.code}.{part}", locale, **error.params) for part in ("message", "hint"))
    return message, hint


def error_from_dict(data: dict[str, Any]) -> RoostError:
    """The inverse of ``to_dict``; an unknown code becomes a plain RoostError."""
    row = ROWS.get(str(data.get("code")))
    if row is None:
        return RoostError(reason=str(data.get("message", "unknown error")))
    params = {name: text_from_plain(value) for name, value in data.get("params", {}).items()}
    return row.kind(str(data["code"]), **params)


def as_roost_error(exc: BaseException) -> RoostError:
    """``exc`` itself if it is a RoostError, otherwise a RoostError with its type and message."""
    if isinstance(exc, RoostError):
        return exc
    if isinstance(exc, MemoryError):
        return OutOfMemory(reason=str(exc) or Text("reason.common.out_of_memory"))
    return RoostError(reason=f"{type(exc).__name__}: {exc}")
