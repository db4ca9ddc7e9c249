"""`roost run`: continue a text, once, on standard output."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from dataclasses import asdict
from typing import Any

from webapp.cli.options import add_model_options, add_sampling_options, sampling_from, settings_from
from webapp.engine.outputs import GenerationRequest, TokenOutput
from webapp.errors import error_from_dict
from webapp.i18n.terminal import t
from webapp.manager.model_manager import ModelManager
from webapp.services.presets.defaults import default_sampling
from webapp.tokenizer import StreamDecoder, Tokenizer


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("run", help=t("cli.run.about"))
    parser.add_argument("-p", "--prompt", required=True, help=t("cli.run.prompt"))
    add_model_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--json", action="store_true", help=t("cli.run.json"))
    return parser


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    params = sampling_from(args, default_sampling(settings))
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    manager = ModelManager(settings)
    try:
        tokenizer = manager.tokenizer()
        request = GenerationRequest(uuid.uuid4().hex, tuple(tokenizer.encode(prompt)), params)
        result = generate(manager, tokenizer, request, echo=not args.json)
    finally:
        manager.close()
    if args.json:
        print(json.dumps({"prompt": prompt, **result}, ensure_ascii=False))
    return 0


def generate(manager: ModelManager, tokenizer: Tokenizer, request: GenerationRequest, echo: bool) -> dict[str, Any]:
    """Runs the request, printing text as it comes when ``echo``; raises what the engine raised."""
    decoder = StreamDecoder(tokenizer)
    pieces: list[str] = []
    token_ids: list[int] = []
    last = TokenOutput(request.request_id)
    for event in manager.submit(request).events():
        if isinstance(event, TokenOutput):
            last = event
            token_ids += event.token_ids
            text = decoder.feed(event.token_ids) + (decoder.flush() if event.finish_reason else "")
            pieces.append(text)
            if echo:
                print(text, end="", flush=True)
    if echo:
        print()
    if last.error:
        raise error_from_dict(last.error)
    return {
        "text": "".join(pieces),
        "token_ids": token_ids,
        "finish_reason": last.finish_reason.value if last.finish_reason else None,
        "model": manager.status().model,
        "strategy": manager.status().strategy,
        "stats": {**asdict(last.stats), "tokens_per_s": last.stats.tokens_per_s} if last.stats else {},
    }
