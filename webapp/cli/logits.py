"""`roost logits`: the model's raw output after a text, as a .npy file, for comparing engines."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from webapp.cli.options import add_model_options, settings_from
from webapp.errors import RequestError
from webapp.manager.model_manager import ModelManager


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("logits", help="Write the logits after a text to a file.")
    add_model_options(parser)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", help="Text to read.")
    text.add_argument("--tokens", help="Token ids to read, with commas between.")
    parser.add_argument("--all", action="store_true", help="Logits at every position: (tokens, vocab_size).")
    parser.add_argument("--out", required=True, help="File to write, float32 .npy.")
    return parser


def run(args: argparse.Namespace) -> int:
    manager = ModelManager(settings_from(args))
    try:
        token_ids = manager.tokenizer().encode(args.text) if args.text is not None else read_ids(args.tokens)
        found = manager.logits(token_ids, every_position=args.all)
    finally:
        manager.close()
    with open(args.out, "wb") as file:
        np.save(file, found)
    print(f"{args.out}: float32 {found.shape}, highest at token {int(found.reshape(-1, found.shape[-1])[-1].argmax())}")
    return 0


def read_ids(text: str) -> list[int]:
    """``"1,2,3"`` to ids."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as exc:
        raise RequestError(reason=f"--tokens {text!r} is not a list of numbers with commas between") from exc
