"""What is wrong with a request, of a person or a program, or with a tool in it."""

from __future__ import annotations

from webapp.errors.base import RoostError


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
    message_text = "The schema or grammar for the answer cannot be used: {reason}."
    hint_text = "Simplify it: common JSON Schema keywords, no look-around, fewer enum values."


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


class BenchCaseInvalid(ToolError):
    code = "bench_case_invalid"
    status = 422
    message_text = "The {field} of the case cannot be used: {reason}."
    hint_text = "Correct it; nothing was changed."


class BenchLineInvalid(BenchCaseInvalid):
    code = "bench_line_invalid"
    message_text = "Line {line} is no case of the tool bench: {reason}."
    hint_text = "Correct that line and import again; nothing was added."


class BenchNotFound(ToolError):
    code = "bench_not_found"
    status = 404
    message_text = "This case or run of the tool bench is not there (any more)."
    hint_text = "The page of the tool bench lists those there are."


class BenchRefused(ToolError):
    code = "bench_refused"
    status = 409
    message_text = "The tool bench cannot begin: {reason}."
    hint_text = "Nothing was run. The page of the tool bench shows what it needs."


class BenchInterrupted(ToolError):
    code = "bench_interrupted"
    status = 503
    message_text = "Roost was stopped while the tool bench ran."
    hint_text = "What it had is kept. Start it again."


class ApiError(RoostError):
    """``param`` of the subclasses is the dotted path of what is wrong, as OpenAI's ``error.param`` has it."""

    code = "api_error"
    status = 400
    message_text = "The request cannot be answered: {reason}"
    hint_text = "The page /docs shows what may be sent."


class BodyInvalid(ApiError):
    code = "body_invalid"
    message_text = "The body is not JSON: {reason}."
    hint_text = "Send one JSON object, in UTF-8."


class WrongMediaType(ApiError):
    code = "unsupported_media_type"
    status = 415
    message_text = "The body's type is {found}; it must be application/json."
    hint_text = "Send the header `Content-Type: application/json`."


class EncodedBody(ApiError):
    code = "unsupported_content_encoding"
    status = 415
    message_text = "The body is encoded as {found}; only plain bodies are read."
    hint_text = "Send it without the header `Content-Encoding`."


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
