"""Converters for text given on the command line: Taskmaster-4 (CC BY 4.0) and glaive tool-call demos (Apache-2.0).

Expected below a folder: `taskmaster-4/*.json.gz`, `glaive-demo/*.json.gz`. Missing files are skipped with a message.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.starter.data import tool_formats as formats
from models.starter.data.document import Dialogue, Document

MAX_CHARACTERS = 2200


def read_corpora(folder: Path | None) -> list[Document]:
    """All usable dialogues in a fixed order; an empty list without a folder."""
    if folder is None:
        return []
    found: list[Document] = []
    for name, convert in (("taskmaster-4", taskmaster), ("glaive-demo", glaive)):
        files = sorted((folder / name).glob("*.json.gz"))
        if not files:
            print(f"training: no {name}/*.json.gz in {folder}; going on without it", file=sys.stderr)
        for file in files:
            with gzip.open(file, "rt", encoding="utf-8") as stream:
                found.extend(convert(json.load(stream)))
    return [d for d in found if d.segments and sum(len(s.text) for s in d.segments) <= MAX_CHARACTERS]


def taskmaster(dialogues: list[dict[str, Any]]) -> Iterator[Document]:
    """Coffee orders: only utterances; consecutive ones of one speaker are joined, API calls are left out."""
    for entry in dialogues:
        turns: list[tuple[str, str]] = []
        for utterance in entry["utterances"]:
            text, speaker = " ".join(utterance["text"].split()), utterance["speaker"]
            if not text:
                continue
            if turns and turns[-1][0] == speaker:
                turns[-1] = (speaker, turns[-1][1] + " " + text)
            else:
                turns.append((speaker, text))
        if turns and turns[0][0] != "user":
            turns = turns[1:]
        if len(turns) < 2:
            continue
        dialogue = Dialogue(random.Random(entry["conversation_id"]), "You are a coffee shop assistant.")
        for speaker, text in turns[: len(turns) // 2 * 2]:
            dialogue.user(text) if speaker == "user" else dialogue.assistant(text, weight=0.5)
        yield dialogue.document()


def glaive(dialogues: list[dict[str, Any]]) -> Iterator[Document]:
    """Function-calling conversations in the G1x JSON format."""
    for number, entry in enumerate(dialogues):
        definitions = json.loads(entry.get("tools") or "[]")
        dialogue = Dialogue(
            random.Random(f"glaive:{number}"),
            formats.tools_text(definitions, formats.JSON_LIST) if definitions else None,
        )
        before = "gpt"
        for turn in entry["conversations"]:
            text, speaker = turn["value"].strip(), turn["from"]
            if speaker in ("human", "observation") and before in ("gpt", "function_call"):
                dialogue.user(text if speaker == "human" else "Function output:\n" + text)
            elif speaker in ("gpt", "function_call") and before in ("human", "observation"):
                if speaker == "function_call":
                    call = json.loads(text)
                    text = formats.call_text([(call["name"], call.get("arguments", {}))], formats.JSON_LIST)
                dialogue.assistant(text, weight=0.5)
            else:
                break  # an order that the format does not support: keep the part before it
            before = speaker
        if before in ("gpt", "function_call") and len(dialogue.segments) > 2:
            yield dialogue.document()
