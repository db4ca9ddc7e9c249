"""`roost compose`: writes a piece with a music model and saves it to a file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from webapp.chat.messages import ContentDelta
from webapp.cli.options import add_model_options, add_sampling_options, output_file, sampling_given, settings_from
from webapp.errors import FileMissing, RoostError
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services import compose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", required=True, type=output_file, metavar="FILE", help=t("cli.compose.out"))
    parser.add_argument("-p", "--prompt", default="", help=t("cli.compose.prompt"))
    parser.add_argument("--seed-file", type=Path, metavar="FILE", help=t("cli.compose.seed_file"))
    parser.add_argument("--instruments", default="", metavar="NAMES", help=t("cli.compose.instruments"))
    for name in compose.RULES:
        kind = int if name == "bars" else float
        text = t(f"cli.compose.{name}")
        parser.add_argument("--" + name.replace("_", "-"), dest=f"rule_{name}", type=kind, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", help=t("cli.compose.json"))
    add_model_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    ending = args.out.suffix.lower()
    with closing(ModelManager(settings_from(args))) as manager:
        info = manager.model_info()
        kind, vocabulary = compose.kind_of(info), compose.vocabulary_of(info)
        if ending not in compose.ENDINGS[kind]:  # before the piece is generated
            raise RoostError("music_ending", ending=ending, names=", ".join(compose.ENDINGS[kind]))
        prompt = args.prompt
        if args.seed_file is not None:
            prompt = compose.read_seed(kind, args.seed_file.name, _content(args.seed_file), vocabulary)
        given = sampling_given(args)
        tokens = given.pop("max_tokens", compose.PIECE_TOKENS)
        rules: dict[str, Any] = {name: getattr(args, f"rule_{name}") for name in compose.RULES}
        rules["instruments"] = [name.strip() for name in args.instruments.split(",") if name.strip()]
        (generation,) = compose.compose(
            manager, compose.CompositionRequest(prompt, rules=rules, sampling=given, max_tokens=tokens)
        )
        generation.start()
        for event in generation.events():
            if isinstance(event, ContentDelta) and sys.stderr.isatty():
                print(event.text, end="", flush=True, file=sys.stderr)
        end = generation.finish()
    text = prompt + generation.text.content
    notes = compose.notes_of_text(kind, text, vocabulary)
    args.out.write_bytes(compose.saved(kind, text, ending, vocabulary))
    length = max(note.start_s + note.duration_s for note in notes)
    document = {
        "file": str(args.out),
        "seconds": round(length, 3),
        "notes": len(notes),
        "tokens": len(generation.text.token_ids),
        "finish_reason": end.finish_reason,
        "seed": end.stats.get("seed"),
    }
    print(json.dumps(document) if args.json else t("cli.compose.done", **document))
    return 0


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise FileMissing(path=os.fspath(path)) from exc
