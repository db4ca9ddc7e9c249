"""Every error a person can cause or meet, as one tree.

    RoostError
    ├── SettingsError           a setting, flag or config file that cannot be used
    ├── WeightsError            a file on disk is not what it should be
    │   ├── FileMissing  FileIsDirectory  FileEmpty  FileUnreadable  FileTruncated
    │   ├── UnsafePickle        a pickle that wants to run code
    │   ├── WrongExtension      content and name disagree
    │   ├── UnknownFormat       none of the formats Roost reads
    │   ├── NotAModel           a good file of another kind (state, LoRA, music, not RWKV)
    │   ├── StateMismatch       a state that does not fit: says expected and found
    │   ├── BlendInvalid        states that make no weighted mean
    │   └── LegacyPth  VocabularyInvalid  TokenizerMissing
    ├── ConversionError         a model file could not be made into another; nothing was written
    │   ├── ConversionRefused  ConversionCancelled  ConversionTargetExists  ConversionNotFound
    │   ├── ConversionNoSpace  LoraMismatch
    ├── StrategyError           a strategy string, or a strategy this model cannot take
    ├── BackendUnavailable      this machine cannot run it, and what would change that
    ├── RequestError            a generation request out of range
    │   ├── PromptEmpty  PromptTooLong  InvalidSampling  InvalidOption  TokenOutOfRange  GrammarInvalid
    ├── ModelError              the one model and its engine process
    │   ├── ModelNotFound  NoModelLoaded  ModelLoadFailed  LoadCancelled  OutOfMemory
    │   ├── EngineCrashed  CrashLoop  ModelUnloaded  QueueFull  ShuttingDown  NonFiniteLogits
    ├── LibraryError            a file of the library that cannot be added, renamed or deleted
    │   ├── ModelInUse  ModelKept  FileNameTaken  FileNameUnusable  DiskFull  FolderNotWritable
    │   └── UploadMissing  UploadOffset  UploadRefused  TrashMissing  FileOutdated
    ├── StorageError            ChatNotFound  MessageNotFound  DatabaseTooNew  DatabaseBroken
    ├── PresetError             a saved way of answering
    │   ├── PresetNotFound  PresetNameTaken  PresetChanged  TooManyPresets  PresetFileInvalid
    │   └── PresetInvalid       one value that cannot be: PresetOutOfRange, PresetTooLong
    ├── ChatError               TurnRunning  NothingToContinue
    ├── ToolError               ToolInvalid  ToolNotFound  ToolFailed
    ├── WebError                BadFrame  NotAllowed  TokenRequired  TooManyRequests  TooLarge
    └── ApiError                a request of a program
        └── BodyInvalid  WrongMediaType  ParameterInvalid  ParameterUnsupported  ModelNotServed  UnknownAddress
            TooManyStreams  ServerBusy  LoopbackOnly

Each class carries ``code`` (stable: the OpenAI ``error.code`` and the translation key), ``status`` (HTTP), a sentence
and the way out. Both texts are ``str.format`` templates over the keyword arguments given, so the edge can say them in
the reader's language: ``error.<code>.message`` and ``error.<code>.hint`` in the catalogues of :mod:`webapp.i18n`.
An error crosses the engine pipe as a plain dict (:meth:`RoostError.to_dict`, :func:`error_from_dict`).
"""

from __future__ import annotations

from typing import Any


class RoostError(Exception):
    """Base of the tree. ``params`` are the values named in the texts: strings and numbers only."""

    code = "internal_error"
    status = 500
    message_text = "Something went wrong inside Roost: {reason}"
    hint_text = "Try again; if it happens twice, the log of `roost serve` says more."

    def __init__(self, **params: Any) -> None:
        self.params = params
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The sentence, in English."""
        return fill(self.message_text, self.params)

    @property
    def hint(self) -> str:
        """The way out, in English."""
        return fill(self.hint_text, self.params)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return (error_from_dict, (self.to_dict(),))

    def to_dict(self) -> dict[str, Any]:
        """``{"code", "message", "hint", "params"}``, all JSON."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "params": dict(self.params)}


class _Blank(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def fill(template: str, params: dict[str, Any]) -> str:
    """``template.format`` that never raises over a missing value."""
    return template.format_map(_Blank(params))


def all_errors() -> dict[str, type[RoostError]]:
    """Every class of the tree by its code."""
    found: dict[str, type[RoostError]] = {}
    todo: list[type[RoostError]] = [RoostError]
    while todo:
        cls = todo.pop()
        found.setdefault(cls.code, cls)
        todo.extend(cls.__subclasses__())
    return found


def error_from_dict(data: dict[str, Any]) -> RoostError:
    """The error that :meth:`RoostError.to_dict` described; an unknown code becomes a plain RoostError."""
    cls = all_errors().get(str(data.get("code")))
    if cls is None:
        return RoostError(reason=str(data.get("message", "unknown error")))
    return cls(**data.get("params", {}))


def as_roost_error(exc: BaseException) -> RoostError:
    """``exc`` itself when it is one of ours, else a RoostError that keeps its type and words."""
    if isinstance(exc, RoostError):
        return exc
    if isinstance(exc, MemoryError):
        return OutOfMemory(reason=str(exc) or "the system refused more memory")
    return RoostError(reason=f"{type(exc).__name__}: {exc}")


class SettingsError(RoostError):
    code = "settings_invalid"
    status = 400
    message_text = "The setting {name} cannot be {value!r}: {reason}"
    hint_text = "`roost serve --help` lists every setting with its range."


class WeightsError(RoostError):
    code = "file_error"
    status = 400
    message_text = "{path} cannot be used: {reason}"
    hint_text = "`roost inspect FILE` says what is in a file."


class FileMissing(WeightsError):
    code = "file_not_found"
    status = 404
    message_text = "There is no file {path}."
    hint_text = "Check the name; `roost models` lists the models Roost can see."


class FileIsDirectory(WeightsError):
    code = "file_is_directory"
    message_text = "{path} is a folder, not a model file."
    hint_text = "Name one file inside it."


class FileEmpty(WeightsError):
    code = "file_empty"
    message_text = "{path} is empty (0 bytes)."
    hint_text = "Download or copy it again."


class FileUnreadable(WeightsError):
    code = "file_unreadable"
    status = 403
    message_text = "{path} cannot be read: {reason}"
    hint_text = "Check who may read the file."


class FileTruncated(WeightsError):
    code = "file_truncated"
    message_text = "{path} is cut off: {reason}"
    hint_text = "The download or copy did not finish; fetch it again."


class UnsafePickle(WeightsError):
    code = "unsafe_pickle"
    message_text = "{path} asks to run code when it is opened ({reason}); Roost refuses."
    hint_text = "Get the model from a source you trust, best as .safetensors."


class WrongExtension(WeightsError):
    code = "wrong_extension"
    message_text = "{path} is named {extension} but holds {found}."
    hint_text = "Rename it to end in {expected}."


class UnknownFormat(WeightsError):
    code = "unknown_format"
    message_text = "{path} is in no format Roost knows."
    hint_text = "Roost reads .pth, .safetensors and .st files of RWKV models."


class NotAModel(WeightsError):
    code = "not_a_model"
    message_text = "{path} is {found}, not an RWKV model."
    hint_text = "{way_out}"


class StateMismatch(WeightsError):
    code = "state_mismatch"
    message_text = "The state {path} does not fit: {what} should be {expected}, but is {found}."
    hint_text = "Choose a state made for this model's architecture and size; the state in use stays."


class BlendInvalid(WeightsError):
    code = "blend_invalid"
    message_text = "These states cannot be blended: {reason}"
    hint_text = "Choose two or more states of the same size, with weights from 0 up."


class LegacyPth(WeightsError):
    code = "legacy_pth"
    message_text = "{path} was saved by a PyTorch older than 1.6, in a format Roost does not open."
    hint_text = "Load it with torch and save it again: torch.save(torch.load(FILE), NEW_FILE)."


class VocabularyInvalid(WeightsError):
    code = "vocabulary_invalid"
    message_text = "The vocabulary {path} cannot be used: {reason}"
    hint_text = "Replace it, or take it away if the model uses the World vocabulary."


class TokenizerMissing(WeightsError):
    code = "tokenizer_missing"
    message_text = "Roost has no tokenizer for {path} ({vocab_size} tokens)."
    hint_text = "Put {wanted} into the models folder or beside the model."


class ConversionError(RoostError):
    code = "conversion_failed"
    status = 422
    message_text = "The conversion failed: {reason}"
    hint_text = "Nothing was written; the original file is as it was."


class ConversionRefused(ConversionError):
    code = "conversion_refused"
    message_text = "{path} cannot be converted to {target}: {reason}"
    hint_text = "{way_out}"


class ConversionCancelled(ConversionError):
    code = "conversion_cancelled"
    status = 409
    message_text = "The conversion was cancelled."
    hint_text = "Nothing was written; start it again whenever you like."


class ConversionTargetExists(ConversionError):
    code = "conversion_target_exists"
    status = 409
    message_text = "{path} is there already."
    hint_text = "Choose another name, or overwrite it (`--overwrite`)."


class ConversionNotFound(ConversionError):
    code = "conversion_not_found"
    status = 404
    message_text = "There is no such conversion."
    hint_text = "It was removed from the list, or Roost was started anew since."


class ConversionNoSpace(ConversionError):
    code = "conversion_no_space"
    status = 507
    message_text = "{path} would need {needed}, and {free} are free there."
    hint_text = "Free some space, or name a file on another disk."


class LoraMismatch(ConversionError):
    code = "lora_mismatch"
    message_text = "The LoRA {path} does not fit: {what} should be {expected}, found {found}."
    hint_text = "Merge it into the model it was trained for. Nothing was written."


class StrategyError(RoostError):
    code = "strategy_invalid"
    status = 400
    message_text = "The strategy {strategy!r} cannot be used: {reason}"
    hint_text = "{way_out}"


class BackendUnavailable(RoostError):
    code = "backend_unavailable"
    status = 400
    message_text = "{backend} cannot run on this machine: {reason}"
    hint_text = "{way_out}"


class RequestError(RoostError):
    code = "request_invalid"
    status = 400
    message_text = "The request cannot be run: {reason}"
    hint_text = "Correct the request and send it again."


class PromptEmpty(RequestError):
    code = "prompt_empty"
    message_text = "There is nothing to read: the prompt is empty."
    hint_text = "Write something first."


class PromptTooLong(RequestError):
    code = "prompt_too_long"
    message_text = "The prompt has {found} tokens; the limit here is {limit}."
    hint_text = "Shorten it, or raise the setting max_prompt_tokens."


class InvalidSampling(RequestError):
    code = "sampling_invalid"
    message_text = "{name} is {value}; it must be {allowed}."
    hint_text = "Set it within that range."


class InvalidOption(RequestError):
    code = "option_invalid"
    message_text = "The option {name} is {value}; it must be {allowed}."
    hint_text = "Set it within that range, or leave it to its default."


class TokenOutOfRange(RequestError):
    code = "token_out_of_range"
    message_text = "Token id {found} is outside this model's vocabulary of {vocab_size}."
    hint_text = "The text was encoded for another model; choose the tokenizer that belongs to this one."


class GrammarInvalid(RequestError):
    code = "grammar_invalid"
    message_text = "The schema or grammar for the answer cannot be used: {reason}"
    hint_text = "Simplify it: common JSON Schema keywords, no look-around, fewer enum values."


class ModelError(RoostError):
    code = "model_error"
    status = 503
    message_text = "The model is not available: {reason}"
    hint_text = "Load it again."


class ModelNotFound(ModelError):
    code = "model_not_found"
    status = 404
    message_text = "There is no model {name}."
    hint_text = "`roost models` and the Models page list what is here; put files into the models folder."


class NoModelLoaded(ModelError):
    code = "no_model"
    message_text = "No model is chosen yet."
    hint_text = "Put an RWKV model into the models folder and load it."


class ModelLoadFailed(ModelError):
    code = "load_failed"
    message_text = "{name} could not be loaded: {reason}"
    hint_text = "Nothing was changed. Try another strategy, or another model."


class LoadCancelled(ModelError):
    code = "load_cancelled"
    status = 409
    message_text = "Loading was cancelled."
    hint_text = "Load it again whenever you like."


class OutOfMemory(ModelError):
    code = "out_of_memory"
    message_text = "Memory ran out: {reason}"
    hint_text = "Choose a smaller model or a strategy that needs less memory (bf16 or int8)."


class EngineCrashed(ModelError):
    code = "engine_crashed"
    message_text = "The engine stopped while it worked: {reason}"
    hint_text = "Send again: the model is loaded anew by itself."


class CrashLoop(ModelError):
    code = "crash_loop"
    message_text = "The engine stopped {tries} times in a row; the last time: {reason}"
    hint_text = "Load the model by hand with another strategy, or choose another model."


class ModelUnloaded(ModelError):
    code = "model_unloaded"
    message_text = "The model was unloaded or changed before this answer was done."
    hint_text = "Send again: the answer will come from the model loaded now."


class QueueFull(ModelError):
    code = "queue_full"
    message_text = "{waiting} requests are waiting already."
    hint_text = "Try again in a moment."


class ShuttingDown(ModelError):
    code = "shutting_down"
    message_text = "Roost is stopping."
    hint_text = "Start it again, then repeat the request."


class NonFiniteLogits(ModelError):
    code = "non_finite_logits"
    message_text = "The model's output is not a number (NaN or infinite) after {tokens} tokens."
    hint_text = "The weights or the state may be damaged, or the precision too low: try fp32 or bf16."


class LibraryError(RoostError):
    code = "library_error"
    status = 409
    message_text = "That cannot be done with {name}: {reason}"
    hint_text = "Nothing was changed."


class ModelInUse(LibraryError):
    code = "model_in_use"
    message_text = "{name} is loaded or being loaded."
    hint_text = "Unload it first; nothing was changed."


class StateInUse(LibraryError):
    code = "state_in_use"
    message_text = "{name} is the state new answers begin with now."
    hint_text = "Choose another one, or none, first; nothing was changed."


class ModelKept(LibraryError):
    code = "model_kept"
    message_text = "{name} came with Roost and stays."
    hint_text = "It is what Roost answers with when no other model is there."


class FileNameTaken(LibraryError):
    code = "file_name_taken"
    message_text = "There is already a file {name}."
    hint_text = "Choose another name, or delete that file first."


class FileNameUnusable(LibraryError):
    code = "file_name_unusable"
    status = 400
    message_text = "{name} cannot be the name of a model file."
    hint_text = "A name ends in {endings}, and holds more than that."


class DiskFull(LibraryError):
    code = "disk_full"
    status = 507
    message_text = "The disk has {free} free; {needed} are needed."
    hint_text = "Make room, for example by emptying the trash on the Models page, then try again."


class FolderNotWritable(LibraryError):
    code = "folder_not_writable"
    status = 403
    message_text = "{folder} cannot be written to: {reason}"
    hint_text = "Check who may write there; nothing was changed."


class UploadMissing(LibraryError):
    code = "upload_missing"
    status = 404
    message_text = "This upload is not under way any more."
    hint_text = "Choose the file again; it begins anew."


class UploadOffset(LibraryError):
    code = "upload_offset"
    message_text = "The upload goes on at byte {expected}, not {found}."
    hint_text = "Choose the file again; it goes on where it stopped."


class UploadRefused(LibraryError):
    code = "upload_refused"
    status = 400
    message_text = "More bytes came than the {size} that were announced."
    hint_text = "Choose the file again once nothing writes to it any more."


class TrashMissing(LibraryError):
    code = "trash_missing"
    status = 404
    message_text = "This file is not in the trash any more."
    hint_text = "Reload the page to see what is there."


class FileOutdated(LibraryError):
    code = "file_outdated"
    message_text = "{name} changed while it was being copied."
    hint_text = "Wait until nothing writes to it any more, then import it again."


class StorageError(RoostError):
    code = "storage_error"
    message_text = "The database cannot do that: {reason}"
    hint_text = "Check that the data folder can be written and the disk is not full."


class ChatNotFound(StorageError):
    code = "chat_not_found"
    status = 404
    message_text = "This chat does not exist any more."
    hint_text = "Choose another from the list, or begin a new one."


class MessageNotFound(StorageError):
    code = "message_not_found"
    status = 404
    message_text = "This message does not exist any more."
    hint_text = "Reload the page to see the chat as it is now."


class DatabaseTooNew(StorageError):
    code = "database_too_new"
    message_text = "{path} was written by a newer Roost (schema {found}; this one knows {known})."
    hint_text = "Update Roost, or start it with another --data folder."


class DatabaseBroken(StorageError):
    code = "database_broken"
    message_text = "{path} is not a readable Roost database: {reason}"
    hint_text = "Move the file aside and start again, or restore a copy of it."


class DataFolderInUse(StorageError):
    code = "data_folder_in_use"
    message_text = "Another Roost is running on the data folder {path}."
    hint_text = "Use that one or end it, or start this one with another --data folder."


class PresetError(RoostError):
    code = "preset_error"
    status = 400
    message_text = "The preset cannot be used: {reason}"
    hint_text = "Choose another, or open the Presets page."


class PresetNotFound(PresetError):
    code = "preset_not_found"
    status = 404
    message_text = "This preset does not exist any more."
    hint_text = "Choose another from the list of presets."


class PresetNameTaken(PresetError):
    code = "preset_name_taken"
    status = 409
    message_text = "There is a preset named {name} already."
    hint_text = "Choose another name."


class PresetChanged(PresetError):
    code = "preset_changed"
    status = 409
    message_text = "{name} was saved somewhere else meanwhile; your changes are not saved yet."
    hint_text = "Open it again to see what is there now, or save yours over it."


class TooManyPresets(PresetError):
    code = "too_many_presets"
    status = 409
    message_text = "There is room for {limit} presets, and no more."
    hint_text = "Delete some that are not needed."


class PresetFileInvalid(PresetError):
    code = "preset_file_invalid"
    status = 422
    message_text = "These are no presets Roost can read: {reason}"
    hint_text = "Nothing was imported. Export presets here or in RWKV-Runner and import that file."


class PresetInvalid(PresetError):
    """``name`` is the parameter's, as in the table of :mod:`webapp.services.preset_parameters`."""

    code = "preset_invalid"
    status = 422
    message_text = "{name} cannot be {value}: {reason}"
    hint_text = "Correct it and save again."


class PresetOutOfRange(PresetInvalid):
    code = "preset_out_of_range"
    message_text = "{name} is {value}; it must be from {least} to {most}."


class PresetTooLong(PresetInvalid):
    code = "preset_too_long"
    message_text = "{name} is too long: {found}, the limit is {limit}."


class ChatError(RoostError):
    code = "chat_error"
    status = 409
    message_text = "This chat cannot do that now: {reason}"
    hint_text = "Wait for the answer or stop it, then try again."


class TurnRunning(ChatError):
    code = "turn_running"
    message_text = "An answer is still being written in this chat."
    hint_text = "Wait for it, or stop it first."


class NothingToContinue(ChatError):
    code = "nothing_to_continue"
    message_text = "There is no answer here that could go on."
    hint_text = "Write a message first."


class ToolError(RoostError):
    code = "tool_error"
    status = 400
    message_text = "The tool failed: {reason}"
    hint_text = "Look at its definition on the Tools page."


class ToolInvalid(ToolError):
    code = "tool_invalid"
    status = 422
    message_text = "{field} of the tool cannot be used: {reason}."
    hint_text = "Correct that field; nothing was changed."


class ToolNotFound(ToolError):
    code = "tool_not_found"
    status = 404
    message_text = "This tool is not there (any more)."
    hint_text = "The Tools page lists those there are."


class ToolFailed(ToolError):
    code = "tool_failed"
    status = 502
    message_text = "{name} gave no result: {reason}."
    hint_text = "The model was told so. Check the tool on the Tools page, or type the result yourself."


class WebError(RoostError):
    code = "web_error"
    status = 400
    message_text = "The request was not understood: {reason}"
    hint_text = "Reload the page and try again."


class BadFrame(WebError):
    code = "bad_frame"
    message_text = "That message was not understood: {reason}"
    hint_text = "Reload the page; what you wrote is kept."


class NotAllowed(WebError):
    code = "not_allowed"
    status = 403
    message_text = "That is not allowed: {reason}"
    hint_text = "Open Roost by the address it printed when it started."


class TokenRequired(NotAllowed):
    code = "invalid_api_key"
    status = 401
    message_text = "A token is needed here."
    hint_text = "Send it as `Authorization: Bearer TOKEN`, or open the address Roost printed when it started."


class TooManyRequests(WebError):
    code = "too_many_requests"
    status = 429
    message_text = "Too many requests at once."
    hint_text = "Wait a moment, then try again."


class TooLarge(WebError):
    code = "too_large"
    status = 413
    message_text = "That is {found} bytes; the limit is {limit}."
    hint_text = "Send less at once."


class ApiError(RoostError):
    """``param`` of the subclasses is the dotted path of what is wrong, as OpenAI's ``error.param`` has it."""

    code = "api_error"
    status = 400
    message_text = "The request cannot be answered: {reason}"
    hint_text = "The page /docs shows what may be sent."


class BodyInvalid(ApiError):
    code = "body_invalid"
    message_text = "The body is not JSON: {reason}"
    hint_text = "Send one JSON object, in UTF-8."


class WrongMediaType(ApiError):
    code = "unsupported_media_type"
    status = 415
    message_text = "The body's type is {found}; it must be application/json."
    hint_text = "Send the header `Content-Type: application/json`."


class ParameterInvalid(ApiError):
    code = "invalid_parameter"
    message_text = "{param}: {reason}."
    hint_text = "The page /docs shows what may be sent."


class ParameterUnsupported(ApiError):
    code = "unsupported_parameter"
    message_text = "{param} is not supported: {reason}."
    hint_text = "Leave it out."


class ModelNotServed(ApiError):
    code = "model_not_served"
    status = 404
    message_text = "The model {name} is here, but {served} is the one that answers."
    hint_text = "Load it on the Models page, or let requests choose the model with the setting api_switch_models."


class UnknownAddress(ApiError):
    code = "unknown_url"
    status = 404
    message_text = "There is nothing at {method} {path}."
    hint_text = "The page /docs lists every address."


class TooManyStreams(ApiError):
    code = "too_many_streams"
    status = 429
    message_text = "{limit} requests of yours are being answered already."
    hint_text = "Wait until one has ended, or raise the setting api_streams_per_client."


class ServerBusy(ApiError):
    code = "server_busy"
    status = 503
    message_text = "{limit} requests are being answered already."
    hint_text = "Try again in a moment."


class LoopbackOnly(ApiError):
    code = "loopback_only"
    status = 403
    message_text = "This may only be asked on the machine Roost runs on."
    hint_text = "Send it to 127.0.0.1 there."
