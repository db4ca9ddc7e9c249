"""``POST /api/generate``: one prompt, with the template unless ``raw``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response

from webapp.chat.messages import ToolCall
from webapp.web.api.answering import client_name
from webapp.web.api.body import read_body
from webapp.web.api.ollama.answers import GenerateLine
from webapp.web.api.ollama.lines import respond, without_question
from webapp.web.api.ollama.request import OllamaGenerate, generate_order
from webapp.web.api.served_model import served_model


def generate() -> Response:
    asked = read_body(OllamaGenerate)
    if not asked.prompt:
        return without_question(asked, make_line)
    model = served_model(asked.model)
    return respond(generate_order(asked, client_name()), model, asked.stream is not False, make_line)


def make_line(content: str, thinking: str, calls: Sequence[ToolCall], **fields: Any) -> GenerateLine:
    return GenerateLine(response=content, thinking=thinking, **fields)
