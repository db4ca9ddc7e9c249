"""`roost logits`: saves the logits after a text as a .npy file, to compare engines."""

from __future__ import annotations

import argparse
from contextlib import closing

import numpy as np

from webapp.cli.options import add_model_options, output_file, settings_from
from webapp.errors import RequestError
from webapp.i18n import Text
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", help=t("cli.logits.text"))
    text.add_argument("--tokens", help=t("cli.logits.tokens"))
    parser.add_argument("--all", action="store_true", help=t("cli.logits.all"))
    parser.add_argument("--out", required=True, type=output_file, metavar="FILE", help=t("cli.logits.out"))


def run(args: argparse.Namespace) -> int:
    with closing(ModelManager(settings_from(args))) as manager:
        token_ids = manager.tokenizer().encode(args.text) if args.text is not None else read_ids(args.tokens)
        found = manager.logits(token_ids, every_position=args.all)
    with open(args.out, "wb") as file:
        np.save(file, found)
    highest = int(found.reshape(-1, found.shape[-1])[-1].argmax())
    print(t("cli.logits.done", path=args.out, shape=found.shape, token=highest))
    return 0


def read_ids(text: str) -> list[int]:
    """``"1,2,3"`` as ids."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as exc:
        reason = Text("reason.cli.not_a_list_of_token_ids", text=repr(text))
        raise RequestError(reason=reason) from exc
