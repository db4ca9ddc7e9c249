"""Side questions to the model about a chat: a title, follow-up questions, a summary. They start from the chat's state,
so only the question needs prefill, and nothing is added to the chat."""

from __future__ import annotations

import re
from dataclasses import replace

from webapp.chat.messages import Message, Role, ThinkMode, title_of
from webapp.errors import RequestError
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import prompt_of_path
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import PromptModel
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore
from webapp.storage.records import StoredMessage

MAX_TOKENS = {"title": 32, "questions": 120, "summary": 300}
"""For each kind of answer."""
MOST_QUESTIONS = 3
_MARKS = re.compile(r"^(?:\d+[.)、]|[-*•#>]+)\s*|[*_`]+")
_QUOTES = "\"'“”‘’「」《》"


def ask_aside(
    manager: ModelManager, presets: Presets, store: ChatStore, chat_id: str, kind: str, question: str, client: str = ""
) -> tuple[list[str], int]:
    """Lines of the answer to ``question``, whose ``kind`` is "title" (one line), "questions" (at most
    :data:`MOST_QUESTIONS`) or "summary"; and how many tokens were prefilled. Raises ``prompt_empty`` for a chat without
    messages, and errors of the generation."""
    chat = replace(store.get(chat_id), think_mode=ThinkMode.NONE)
    path = [row for row in store.branch(chat_id) if row.status != "streaming"]
    if not path:
        raise RequestError("prompt_empty")
    asked = [StoredMessage("", chat_id, None, message) for message in (Message(Role.USER, question), _ANSWER)]
    values = {**chat.sampling, "max_tokens": MAX_TOKENS[kind], "seed": None}
    params = presets.sampling(presets.of_chat(chat), values, manager.model_info())
    model = PromptModel.chosen(manager)
    prompt, _ = prompt_of_path(manager, presets, store, chat, model, [*path, *asked], False, params)
    generation = Generation(manager, prompt, client, origin=chat.origin)
    generation.start()
    end = generation.finish()
    return _lines(kind, generation.text.content), int(end.stats.get("prefilled_tokens", 0))


_ANSWER = Message(Role.ASSISTANT, "")


def _lines(kind: str, text: str) -> list[str]:
    if kind == "summary":
        return [text.strip()] if text.strip() else []
    found = [_MARKS.sub("", line.strip()).strip().strip(_QUOTES).strip() for line in text.splitlines()]
    found = [line for line in found if line]
    return [title_of(found[0])] if kind == "title" and found else found[:MOST_QUESTIONS]
