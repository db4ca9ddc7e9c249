"""Every endpoint for programs as one row: its view, its types and an example.

Routes, the OpenAPI document, the page /docs and the list of API paths are all made from :data:`OPERATIONS`. Views and
types are given by name and not imported ("module:name" in this package), because the dialects are not needed before the
first request. The texts are in the catalogues: ``api.op.<key>.title`` and ``.text``.
"""

from __future__ import annotations

import functools
import uuid
from importlib import import_module
from typing import Any

from flask import Response, g
from msgspec import Struct

from webapp.errors import RoostError

ROOM = "webapp.web.api"
SSE = "text/event-stream"
LINES = "application/x-ndjson"
ANY_MODEL = "rwkv"
GROUPS = ("openai", "tokens", "states", "anthropic", "ollama", "llama_cpp", "runner", "server")
HELLO = [{"role": "user", "content": "Why do birds sit on wires?"}]
BIRD_AND_BOAT = ["a bird on a wire", "a boat on the river"]
MUSIC = "<start> p:24:a pi:3c:a t63 p:24:0 pi:3c:0 pi:40:a t63 pi:40:0 <end>"
PREFIXES = ("/v1/", "/api/")
ERRORS = {
    "anthropic": "anthropic:AnthropicError",
    "ollama": "ollama.chat:OllamaError",
    "runner": "runner:RunnerError",
}


@functools.cache
def named(target: str) -> Any:
    """The object that "module:name" names in this package."""
    module, _, name = target.partition(":")
    return getattr(import_module(f"{ROOM}.{module}"), name)


class Operation(Struct, frozen=True):
    """``paths``: the first one is documented; ``{name}`` in it matches the rest of the URL.

    ``query``, ``body``, ``answer`` and ``chunk`` name types; ``answer`` "" is plain text, "bytes" a file of the type
    ``media``, "str" and "dict" are themselves. ``chunk``: the type of a stream's parts, sent as ``stream`` (a media
    type). ``upload``: the form field with a file. ``generates``: it counts against the limits.
    """

    key: str
    group: str
    method: str
    paths: tuple[str, ...]
    view: str
    body: str = ""
    answer: str = ""
    stream: str = ""
    chunk: str = ""
    example: dict[str, Any] | None = None
    generates: bool = False
    is_documented: bool = True
    query: str = ""
    upload: str = ""
    media: str = "application/octet-stream"

    @property
    def path(self) -> str:
        return self.paths[0]

    @property
    def query_type(self) -> Any:
        return named(self.query) if self.query else None

    @property
    def body_type(self) -> Any:
        return named(self.body) if self.body else None

    @property
    def answer_type(self) -> Any:
        plain = {"": None, "bytes": None, "str": str, "dict": dict[str, str]}
        return plain[self.answer] if self.answer in plain else named(self.answer)

    @property
    def chunk_type(self) -> Any:
        return named(self.chunk) if self.chunk else None

    @property
    def error_type(self) -> Any:
        return named(ERRORS.get(self.group, "openai.answers:ErrorAnswer"))

    def example_with(self, model: str) -> dict[str, Any] | None:
        """The example, ready to send: with the name of the served model, if there is one."""
        if self.example is None or self.example.get("model") != ANY_MODEL:
            return self.example
        return {**self.example, "model": model or ANY_MODEL}


# fmt: off
OPERATIONS = (
    Operation(
        "chat", "openai", "POST", ("/v1/chat/completions", "/chat/completions", "/api/v0/chat/completions"),
        "openai.chat:create",
        "openai.chat:ChatRequest", "openai.answers:ChatCompletion", SSE, "openai.answers:ChatChunk",
        {"model": ANY_MODEL, "messages": HELLO, "max_tokens": 200, "stream": True}, generates=True,
    ),
    Operation(
        "responses", "openai", "POST", ("/v1/responses", "/responses"), "openai.responses:create",
        "openai.response_types:ResponseRequest", "openai.response_types:ResponseObject", SSE,
        example={"model": ANY_MODEL, "input": "Why do birds sit on wires?", "max_output_tokens": 200}, generates=True,
    ),
    Operation(
        "input_tokens", "openai", "POST", ("/v1/responses/input_tokens", "/responses/input_tokens"),
        "openai.responses:count_tokens", "openai.response_types:InputRequest", "openai.response_types:InputTokens",
        example={"model": ANY_MODEL, "input": "Why do birds sit on wires?"},
    ),
    Operation(
        "response", "openai", "GET", ("/v1/responses/{name}",), "openai.responses:show",
        answer="openai.response_types:ResponseObject", stream=SSE, query="openai.response_types:ResponseQuery",
    ),
    Operation(
        "response_input", "openai", "GET", ("/v1/responses/{name}/input_items",), "openai.responses:list_input",
        answer="openai.response_types:ItemList", query="openai.response_types:ItemQuery",
    ),
    Operation(
        "response_delete", "openai", "DELETE", ("/v1/responses/{name}",), "openai.responses:delete",
        answer="openai.response_types:Deleted",
    ),
    Operation(
        "completions", "openai", "POST", ("/v1/completions", "/completions", "/api/v0/completions"),
        "openai.completions:create", "openai.completions:CompletionRequest",
        "openai.answers:TextCompletion", SSE, "openai.answers:TextCompletion",
        {"model": ANY_MODEL, "prompt": "Once upon a time", "max_tokens": 60, "temperature": 1}, generates=True,
    ),
    Operation(
        "embeddings", "openai", "POST",
        (
            "/v1/embeddings", "/embeddings", "/api/v0/embeddings",
            "/v1/engines/text-embedding-ada-002/embeddings", "/engines/text-embedding-ada-002/embeddings",
        ),
        "openai.models:embed",
        "openai.models:EmbeddingRequest", "openai.answers:EmbeddingList",
        example={"model": ANY_MODEL, "input": BIRD_AND_BOAT}, generates=True,
    ),
    Operation("models", "openai", "GET", ("/v1/models",), "openai.models:index", answer="openai.answers:ModelList"),
    Operation("model", "openai", "GET", ("/v1/models/{name}",), "openai.models:show", answer="openai.answers:Model"),
    Operation(
        "studio_models", "openai", "GET", ("/api/v0/models",), "openai.models:studio_index",
        answer="openai.models:StudioModelList",
    ),
    Operation(
        "tokenize", "tokens", "POST", ("/v1/tokenize", "/tokenize"), "openai.models:tokenize",
        "openai.models:TokenizeRequest", "openai.answers:Tokens",
        example={"text": "A bird sits on a wire.", "with_pieces": True},
    ),
    Operation(
        "detokenize", "tokens", "POST", ("/v1/detokenize", "/detokenize"), "openai.models:detokenize",
        "openai.models:DetokenizeRequest", "openai.answers:PlainText", example={"tokens": [33, 35]},
    ),
    Operation(
        "states", "states", "GET", ("/v1/states",), "states:index", answer="states:StateList", query="states:StateQuery"
    ),
    Operation(
        "state_upload", "states", "POST", ("/v1/states",), "states:upload", answer="states:StateObject", upload="file"
    ),
    Operation("state", "states", "GET", ("/v1/states/{name}",), "states:show", answer="states:StateObject"),
    Operation("state_content", "states", "GET", ("/v1/states/{name}/content",), "states:content", answer="bytes"),
    Operation(
        "state_fork", "states", "POST", ("/v1/states/{name}/fork",), "states:fork",
        "states:ForkRequest", "states:StateList", example={"n": 2},
    ),
    Operation(
        "state_rollback", "states", "POST", ("/v1/states/{name}/rollback",), "states:rollback",
        "states:RollbackRequest", "states:StateObject", example={"turns": 1},
    ),
    Operation(
        "state_delete", "states", "DELETE", ("/v1/states/{name}",), "states:delete", answer="states:StateDeleted"
    ),
    Operation(
        "session_chat", "states", "POST", ("/state/chat/completions",), "states:say",
        "states:LightningRequest", "states:LightningAnswer", SSE,
        example={"session_id": "one", "contents": ["User: Why do birds sit on wires?\n\nAssistant:"]}, generates=True,
    ),
    Operation(
        "session_branch", "states", "POST", ("/multi_state/chat/completions",), "states:branch",
        "states:LightningRequest", "states:LightningAnswer", SSE,
        example={"session_id": "one", "dialogue_idx": 0, "contents": ["User: Hello\n\nAssistant:"]}, generates=True,
    ),
    Operation("session_status", "states", "POST", ("/state/status",), "states:status", answer="states:SessionList"),
    Operation(
        "session_delete", "states", "POST", ("/state/delete",), "states:drop", "states:SessionRequest",
        "states:SessionDeleted",
        example={"session_id": "one"},
    ),
    Operation(
        "messages", "anthropic", "POST", ("/v1/messages",), "anthropic:create",
        "anthropic:MessageRequest", "anthropic:MessageAnswer", SSE,
        example={"model": ANY_MODEL, "max_tokens": 200, "messages": HELLO, "system": "Answer in one sentence."},
        generates=True,
    ),
    Operation(
        "count_tokens", "anthropic", "POST", ("/v1/messages/count_tokens",), "anthropic:count_tokens",
        "anthropic:CountRequest", "anthropic:TokenCount",
        example={"model": ANY_MODEL, "messages": HELLO},
    ),
    Operation(
        "ollama_chat", "ollama", "POST", ("/api/chat",), "ollama.chat:chat",
        "ollama.chat:OllamaChat", "ollama.chat:ChatLine", LINES, "ollama.chat:ChatLine",
        {"model": ANY_MODEL, "messages": HELLO, "options": {"num_predict": 100}}, generates=True,
    ),
    Operation(
        "ollama_generate", "ollama", "POST", ("/api/generate",), "ollama.chat:generate",
        "ollama.chat:OllamaGenerate", "ollama.chat:GenerateLine", LINES, "ollama.chat:GenerateLine",
        {"model": ANY_MODEL, "prompt": "Why do birds sit on wires?", "stream": False}, generates=True,
    ),
    Operation(
        "ollama_embed", "ollama", "POST", ("/api/embed",), "ollama.models:embed",
        "ollama.models:OllamaEmbed", "ollama.models:EmbedAnswer",
        example={"model": ANY_MODEL, "input": BIRD_AND_BOAT}, generates=True,
    ),
    Operation(
        "ollama_embeddings", "ollama", "POST", ("/api/embeddings",), "ollama.models:embed_one",
        "ollama.models:OllamaEmbedding", "ollama.models:EmbeddingAnswer",
        example={"model": ANY_MODEL, "prompt": BIRD_AND_BOAT[0]}, generates=True,
    ),
    Operation(
        "ollama_pull", "ollama", "POST", ("/api/pull",), "ollama.models:pull",
        "ollama.models:ModelRequest", "ollama.models:Progress", LINES, "ollama.models:Progress", {"model": ANY_MODEL},
    ),
    Operation(
        "ollama_delete", "ollama", "DELETE", ("/api/delete",), "ollama.models:delete",
        "ollama.models:ModelRequest", "ollama.models:Progress",
    ),
    Operation(
        "ollama_making", "ollama", "POST", ("/api/create", "/api/copy"), "ollama.models:refuse_making",
        is_documented=False,
    ),
    Operation("ollama_tags", "ollama", "GET", ("/api/tags",), "ollama.models:tags", answer="ollama.models:Tags"),
    Operation(
        "ollama_ps", "ollama", "GET", ("/api/ps",), "ollama.models:running", answer="ollama.models:RunningModels"
    ),
    Operation(
        "ollama_show", "ollama", "POST", ("/api/show",), "ollama.models:show",
        "ollama.models:ShowRequest", "ollama.models:ShowAnswer", example={"model": ANY_MODEL},
    ),
    Operation(
        "ollama_version", "ollama", "GET", ("/api/version",), "ollama.models:version",
        answer="ollama.models:VersionAnswer",
    ),
    Operation(
        "llama_completion", "llama_cpp", "POST", ("/completion",), "llama_cpp:complete",
        "llama_cpp:LlamaCompletion", "llama_cpp:LlamaAnswers", SSE, "llama_cpp:LlamaPiece",
        {"prompt": "Once upon a time", "n_predict": 60, "stream": True}, generates=True,
    ),
    Operation(
        "llama_infill", "llama_cpp", "POST", ("/infill",), "llama_cpp:infill",
        "llama_cpp:LlamaInfill", "llama_cpp:LlamaAnswer", SSE, "llama_cpp:LlamaPiece",
        {"input_prefix": "def add(a, b):\n", "input_suffix": "\n", "n_predict": 60}, generates=True,
    ),
    Operation(
        "llama_template", "llama_cpp", "POST", ("/apply-template",), "llama_cpp:apply_template",
        "openai.chat:ChatRequest", "llama_cpp:PromptText", example={"messages": HELLO},
    ),
    Operation("llama_props", "llama_cpp", "GET", ("/props",), "llama_cpp:props", answer="llama_cpp:Props"),
    Operation("llama_slots", "llama_cpp", "GET", ("/slots",), "llama_cpp:slots", answer="llama_cpp:Slots"),
    Operation(
        "switch_model", "runner", "POST", ("/switch-model",), "runner:switch_model",
        "runner:SwitchModel", "str",
        example={"model": "models/RWKV-x070-World-0.1B.pth", "strategy": "auto"},
    ),
    Operation(
        "update_config", "runner", "POST", ("/update-config",), "runner:update_config",
        "runner:RunnerConfig", "str", example={"temperature": 1, "top_p": 0.3, "max_tokens": 500},
    ),
    Operation(
        "runner_status", "runner", "GET", ("/status",), "runner:status", answer="runner:RunnerStatus"
    ),
    Operation(
        "reset_state", "runner", "POST", ("/reset-state", "/enable-state-cache", "/disable-state-cache"),
        "runner:reset_states", answer="str",
    ),
    Operation(
        "file_to_text", "runner", "POST", ("/file-to-text",), "runner:file_to_text", answer="runner:Pages",
        upload="file_data",
    ),
    Operation(
        "text_to_midi", "runner", "POST", ("/text-to-midi",), "runner:text_to_midi", "runner:MidiText", "bytes",
        example={"text": MUSIC}, media="audio/midi",
    ),
    Operation(
        "midi_to_text", "runner", "POST", ("/midi-to-text",), "runner:midi_to_text", answer="runner:MidiText",
        upload="file_data",
    ),
    Operation(
        "txt_to_midi", "runner", "POST", ("/txt-to-midi",), "runner:txt_to_midi", "runner:TxtToMidi", "str",
        example={"txt_path": "midi/sample.txt", "midi_path": "midi/sample.mid"},
    ),
    Operation(
        "midi_to_wav", "runner", "POST", ("/midi-to-wav",), "runner:midi_to_wav", "runner:MidiToWav", "str",
        example={"midi_path": "midi/sample.mid", "wav_path": "midi/sample.wav"},
    ),
    Operation(
        "text_to_wav", "runner", "POST", ("/text-to-wav",), "runner:text_to_wav", "runner:TextToWav", "str",
        example={"text": MUSIC, "wav_name": "sample"},
    ),
    Operation(
        "credit_grants", "runner", "GET", ("/dashboard/billing/credit_grants",), "runner:credit_grants",
        is_documented=False,
    ),
    Operation("exit", "runner", "POST", ("/exit",), "runner:leave", answer="str"),
    Operation("health", "server", "GET", ("/health",), "", answer="dict"),
    Operation("metrics", "server", "GET", ("/metrics",), "calls:metrics"),
    Operation("openapi", "server", "GET", ("/openapi.json",), "docs:openapi", is_documented=False),
)
# fmt: on
GENERATING_PATHS = frozenset(path for op in OPERATIONS if op.generates for path in op.paths)
DOCUMENTED = tuple(op for op in OPERATIONS if op.is_documented)
RUNNER_PATHS = frozenset(path for op in OPERATIONS if op.group == "runner" for path in op.paths)
NOT_ONLY_FOR_PROGRAMS = {"/health", "/metrics"}
ROOT_PATHS = (
    frozenset(path for op in OPERATIONS for path in op.paths if not path.startswith(PREFIXES)) - NOT_ONLY_FOR_PROGRAMS
)
"""Without a prefix: the base_url in RWKV-Runner's manual has no /v1."""


MODEL_KEYS = ("switch_model", "update_config", "reset_state", "ollama_pull", "ollama_delete", "ollama_making")
OPEN_KEYS = (
    "models", "model", "studio_models", "ollama_tags", "ollama_ps", "ollama_show", "ollama_version", "runner_status",
    "llama_props", "health", "openapi",
)  # fmt: skip
"""Endpoints that programs check first, allowed for every token."""
SHARED_ENDPOINTS = ("chat.index", "models.index", "models.details")


def scope_of(endpoint: str, is_for_program: bool) -> str | None:
    """The scope that a Flask endpoint requires: "chat", "models", "" for any, None if no token is enough."""
    if endpoint == "health" or (is_for_program and endpoint in SHARED_ENDPOINTS):
        return ""
    if not endpoint.startswith("api "):
        return None
    _, method, rule = endpoint.split(" ", 2) if endpoint.count(" ") == 2 else ("", "", endpoint)
    path = rule.replace("<path:name>", "{name}")
    key = next((op.key for op in OPERATIONS if op.method == method and path in op.paths), "")
    if key == "exit":
        return None
    return "models" if key in MODEL_KEYS else "" if key in OPEN_KEYS or not key else "chat"


def is_api_path(path: str) -> bool:
    """Whether the URL is for programs; errors then have the form of :func:`dialect_of`."""
    return f"{path}/".startswith(PREFIXES) or path.rstrip("/") in ROOT_PATHS


@functools.cache
def methods_of(path: str) -> tuple[str, ...]:
    """The methods of an API path; () if there is none."""
    plain = path.rstrip("/")
    return tuple(op.method for op in OPERATIONS if any(_is_at(plain, known) for known in op.paths))


def _is_at(path: str, known: str) -> bool:
    """OpenAI has URLs below /v1/responses that are not response ids: a program that tries one must get 404."""
    begin, brace, _ = known.partition("{")
    rest = path.removeprefix(begin)
    is_named = bool(brace) and path.startswith(begin) and (rest.startswith("resp_") or "responses" not in begin)
    return path == known or (is_named and bool(rest))


def dialect_of(path: str) -> str:
    """openai, anthropic, ollama or runner. LM Studio's own paths, below /api/v0, are OpenAI's otherwise."""
    if path.rstrip("/") in RUNNER_PATHS:
        return "runner"
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "ollama" if path.startswith("/api/") and not path.startswith("/api/v0/") else "openai"


OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
ANTHROPIC_TYPES = {**OPENAI_TYPES, 413: "request_too_large", 503: "overloaded_error"}
OPENAI_CODES = {"prompt_too_long": "context_length_exceeded"}
"""Codes that clients check by OpenAI's own name."""


TOO_LONG = {
    "openai": "This model's maximum context length is {limit} tokens. "
    "However, your messages resulted in {found} tokens.",
    "anthropic": "prompt is too long: {found} tokens > {limit} maximum.",
}
"""Agents look for exactly these words before they shorten a conversation."""


def request_id() -> str:
    """Id of the current request: its response and the API log contain it, so that they can be matched."""
    if "request_id" not in g:
        g.request_id = f"req_{uuid.uuid4().hex}"
    found: str = g.request_id
    return found


TOOLS_LEFT_OUT = "X-Roost-Tools-Left-Out"


def name_request(response: Response) -> None:
    """Every response, also an error, contains its :func:`request_id` in OpenAI's and Anthropic's headers, and the types
    of tools that were not offered."""
    response.headers["X-Request-Id"] = response.headers["Request-Id"] = request_id()
    if names := g.get("tools_left_out"):
        response.headers[TOOLS_LEFT_OUT] = ", ".join(names)


def error_body(path: str, error: RoostError, message: str, status: int) -> dict[str, Any]:
    """``message``: the sentence with its way out, in the reader's language, because many clients show nothing else."""
    dialect = dialect_of(path)
    if error.code == "prompt_too_long" and dialect in TOO_LONG:
        message = f"{TOO_LONG[dialect].format(**error.params)} {message}"
    if dialect == "anthropic":
        kind = ANTHROPIC_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id()}
    if dialect == "ollama":
        return {"error": message}
    if dialect == "runner":
        return {"detail": message}
    return {"error": openai_error(error, message, status)}


def openai_error(error: RoostError, message: str, status: int) -> dict[str, Any]:
    """``{"message", "type", "code", "param"}``; ``code`` is stable, ``param`` the dotted path of the problem. For a
    prompt that is too long, llama.cpp's two counts are added."""
    kind = OPENAI_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    code = OPENAI_CODES.get(error.code, error.code)
    found = {"message": message, "type": kind, "code": code, "param": param_of(error)}
    if error.code == "prompt_too_long":
        found |= {"n_prompt_tokens": error.params["found"], "n_ctx": error.params["limit"]}
    return found


def param_of(error: RoostError) -> str | None:
    if error.code == "sampling_invalid":
        return str(error.params.get("name"))
    param = error.params.get("param")
    return None if param is None else str(param)
