"""Every operation with its types and an example: the OpenAPI document and the page at /docs are both made of this.

Words are in the catalogues: ``api.op.<key>.title`` and ``.text``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp.web.api.anthropic.answers import AnthropicError, MessageAnswer, TokenCount
from webapp.web.api.anthropic.request import CountRequest, MessageRequest
from webapp.web.api.ollama.answers import (
    ChatLine,
    EmbedAnswer,
    GenerateLine,
    OllamaError,
    RunningModels,
    ShowAnswer,
    Tags,
    VersionAnswer,
)
from webapp.web.api.ollama.embed import OllamaEmbed
from webapp.web.api.ollama.models import ShowRequest
from webapp.web.api.ollama.request import OllamaChat, OllamaGenerate
from webapp.web.api.openai.answers import (
    ChatChunk,
    ChatCompletion,
    EmbeddingList,
    ErrorAnswer,
    Model,
    ModelList,
    Text,
    TextCompletion,
    Tokens,
)
from webapp.web.api.openai.chat_request import ChatRequest
from webapp.web.api.openai.completions import CompletionRequest
from webapp.web.api.openai.embeddings import EmbeddingRequest
from webapp.web.api.openai.tokens import DetokenizeRequest, TokenizeRequest
from webapp.web.api.runner.routes import RunnerConfig, RunnerError, RunnerStatus, SwitchModel

SSE = "text/event-stream"
LINES = "application/x-ndjson"
ANY_MODEL = "rwkv"
GROUPS = ("openai", "tokens", "anthropic", "ollama", "runner", "house")
HELLO = [{"role": "user", "content": "Why do birds sit on wires?"}]


@dataclass(frozen=True)
class Operation:
    """``answer`` None: plain text. ``chunk``: what a stream is made of, sent as ``stream`` (a media type)."""

    key: str
    group: str
    method: str
    path: str
    body: type | None = None
    answer: Any = None
    stream: str = ""
    chunk: type | None = None
    example: dict[str, Any] | None = None

    def example_with(self, model: str) -> dict[str, Any] | None:
        """The example as it can be sent: with the name of the model that is served, where there is one."""
        if self.example is None or self.example.get("model") != ANY_MODEL:
            return self.example
        return {**self.example, "model": model or ANY_MODEL}

    @property
    def error(self) -> type:
        kinds = {"anthropic": AnthropicError, "ollama": OllamaError, "runner": RunnerError}
        return kinds.get(self.group, ErrorAnswer)


# fmt: off
OPERATIONS = (
    Operation(
        "chat", "openai", "POST", "/v1/chat/completions", ChatRequest, ChatCompletion, SSE, ChatChunk,
        {"model": ANY_MODEL, "messages": HELLO, "max_tokens": 200, "stream": True},
    ),
    Operation(
        "completions", "openai", "POST", "/v1/completions", CompletionRequest, TextCompletion, SSE, TextCompletion,
        {"model": ANY_MODEL, "prompt": "Once upon a time", "max_tokens": 60, "temperature": 1},
    ),
    Operation(
        "embeddings", "openai", "POST", "/v1/embeddings", EmbeddingRequest, EmbeddingList,
        example={"model": ANY_MODEL, "input": ["a bird on a wire", "a boat on the river"]},
    ),
    Operation("models", "openai", "GET", "/v1/models", answer=ModelList),
    Operation("model", "openai", "GET", "/v1/models/{name}", answer=Model),
    Operation(
        "tokenize", "tokens", "POST", "/v1/tokenize", TokenizeRequest, Tokens,
        example={"text": "A bird sits on a wire.", "with_pieces": True},
    ),
    Operation(
        "detokenize", "tokens", "POST", "/v1/detokenize", DetokenizeRequest, Text, example={"tokens": [33, 35]}
    ),
    Operation(
        "messages", "anthropic", "POST", "/v1/messages", MessageRequest, MessageAnswer, SSE,
        example={"model": ANY_MODEL, "max_tokens": 200, "messages": HELLO, "system": "Answer in one sentence."},
    ),
    Operation(
        "count_tokens", "anthropic", "POST", "/v1/messages/count_tokens", CountRequest, TokenCount,
        example={"model": ANY_MODEL, "messages": HELLO},
    ),
    Operation(
        "ollama_chat", "ollama", "POST", "/api/chat", OllamaChat, ChatLine, LINES, ChatLine,
        {"model": ANY_MODEL, "messages": HELLO, "options": {"num_predict": 100}},
    ),
    Operation(
        "ollama_generate", "ollama", "POST", "/api/generate", OllamaGenerate, GenerateLine, LINES, GenerateLine,
        {"model": ANY_MODEL, "prompt": "Why do birds sit on wires?", "stream": False},
    ),
    Operation(
        "ollama_embed", "ollama", "POST", "/api/embed", OllamaEmbed, EmbedAnswer,
        example={"model": ANY_MODEL, "input": ["a bird on a wire", "a boat on the river"]},
    ),
    Operation("ollama_tags", "ollama", "GET", "/api/tags", answer=Tags),
    Operation("ollama_ps", "ollama", "GET", "/api/ps", answer=RunningModels),
    Operation("ollama_show", "ollama", "POST", "/api/show", ShowRequest, ShowAnswer, example={"model": ANY_MODEL}),
    Operation("ollama_version", "ollama", "GET", "/api/version", answer=VersionAnswer),
    Operation(
        "switch_model", "runner", "POST", "/switch-model", SwitchModel, str,
        example={"model": "models/RWKV-x070-World-0.1B.pth", "strategy": "cpu fp32"},
    ),
    Operation(
        "update_config", "runner", "POST", "/update-config", RunnerConfig, str,
        example={"temperature": 1, "top_p": 0.3, "max_tokens": 500},
    ),
    Operation("runner_status", "runner", "GET", "/status", answer=RunnerStatus),
    Operation("exit", "runner", "POST", "/exit", answer=str),
    Operation("health", "house", "GET", "/health", answer=dict[str, str]),
    Operation("metrics", "house", "GET", "/metrics"),
)
# fmt: on
