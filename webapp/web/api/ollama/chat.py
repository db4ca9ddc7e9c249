"""``POST /api/chat`` and ``/api/generate`` (one prompt, with the template unless ``raw``): they stream unless told
otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response

from webapp.chat.messages import ToolCall
from webapp.web.api.answering import client_name
from webapp.web.api.body import read_body
from webapp.web.api.call_arguments import read_arguments
from webapp.web.api.ollama.answers import CalledTool, ChatLine, GenerateLine, OllamaCallOut, OllamaText
from webapp.web.api.ollama.lines import respond, without_question
from webapp.web.api.ollama.request import OllamaChat, OllamaGenerate, chat_order, generate_order
from webapp.web.api.served_model import served_model


def chat() -> Response:
    asked = read_body(OllamaChat)
    if not asked.messages:
        return without_question(asked, chat_line)
    model = served_model(asked.model)
    return respond(chat_order(asked, client_name()), model, asked.stream is not False, chat_line)


def chat_line(content: str, thinking: str, calls: Sequence[ToolCall], **fields: Any) -> ChatLine:
    called = [OllamaCallOut(CalledTool(call.name, read_arguments(call.arguments))) for call in calls]
    text = OllamaText(role="assistant", content=content, thinking=thinking, tool_calls=called)
    return ChatLine(message=text, **fields)


def generate() -> Response:
    asked = read_body(OllamaGenerate)
    if not asked.prompt:
        return without_question(asked, generate_line)
    model = served_model(asked.model)
    return respond(generate_order(asked, client_name()), model, asked.stream is not False, generate_line)


def generate_line(content: str, thinking: str, calls: Sequence[ToolCall], **fields: Any) -> GenerateLine:
    return GenerateLine(response=content, thinking=thinking, **fields)
