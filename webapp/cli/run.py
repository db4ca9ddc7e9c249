"""`roost run`: continues a text once and prints it."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

from webapp.chat.messages import ContentDelta
from webapp.cli.options import add_model_options, add_sampling_options, sampling_from, settings_from
from webapp.errors import RequestError
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import PromptModel, prepare, raw_prompt
from webapp.services.presets.presets import default_sampling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--prompt", help=t("cli.run.prompt"))
    add_model_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--json", action="store_true", help=t("cli.run.json"))


def prompt_of(given: str | None) -> str:
    """``given``, or everything on standard input; in a terminal, what is typed until Ctrl-D. Raises
    ``prompt_empty``."""
    if given is not None and given != "-":
        return given
    if sys.stdin.isatty():
        print(t("cli.run.type"), file=sys.stderr)
    text = sys.stdin.read()
    if not text:
        raise RequestError("prompt_empty")
    return text


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    params = sampling_from(args, default_sampling(settings))
    prompt = prompt_of(args.prompt)
    with closing(ModelManager(settings)) as manager:
        model = PromptModel.chosen(manager)
        generation = Generation(manager, prepare(model, raw_prompt(prompt, info=model.info), params))
        generation.start()
        for event in generation.events():
            if isinstance(event, ContentDelta) and not args.json:
                print(event.text, end="", flush=True)
        if not args.json:
            print()
        end, status = generation.finish(), manager.status()
    if args.json:
        document = {
            "prompt": prompt,
            "text": generation.text.content,
            "token_ids": generation.text.token_ids,
            "finish_reason": end.finish_reason,
            "model": status.model,
            "strategy": status.strategy,
            "adapter": status.adapter,
            "stats": dict(end.stats),
        }
        print(json.dumps(document, ensure_ascii=False))
    return 0
