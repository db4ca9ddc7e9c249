"""`python -m models.starter.train RUN_FOLDER`: starts a run, or continues an existing one.

Ctrl-C or SIGTERM saves and ends; the same command resumes. When resuming, mixture, planned tokens, decay, batch and
learning rate may be changed; other options stay as they were.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import fields, replace
from pathlib import Path

import torch

from models.starter.checkpoint import LATEST, RunConfig, load_checkpoint
from models.starter.data.mixture import Mixture
from models.starter.loop import Trainer
from models.starter.workers import Workers, start_workers
from webapp.tokenizer.loading import world_tokenizer
from webapp.training import operations

CHANGEABLE = ("batch", "learning_rate")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m models.starter.train", description=__doc__)
    made.add_argument("folder", type=Path, help="run folder: checkpoint, curve.jsonl")
    made.add_argument("--tokens", type=float, default=10e6, help="tokens to train in all (default 10e6)")
    made.add_argument("--minutes", type=float, help="stop after this time in this process")
    made.add_argument("--decay-tokens", type=float, help="lower the learning rate from now on, over this many tokens")
    made.add_argument("--corpus", type=Path, help="folder with taskmaster-4/ and glaive-demo/")
    made.add_argument("--mixture", help='shares of the parts, such as "tools=30,copying=20,smalltalk=10"')
    made.add_argument(
        "--grow-documents",
        type=int,
        default=0,
        help="on resuming, take the tokens of this many documents into the vocabulary",
    )
    made.add_argument(
        "--processes",
        type=int,
        default=0,
        help="single-threaded CPU processes (default: one a core; 1 on a GPU)",
    )
    for field in fields(RunConfig):
        made.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            help=f"default {field.default}" + (", may change on resuming" if field.name in CHANGEABLE else ""),
        )
    return made


def read_mixture(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    return {name.strip(): float(share) for name, _, share in (part.partition("=") for part in text.split(","))}


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    processes = options.processes or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    if not torch.cuda.is_available():
        operations.compiled_kernels()  # compiled once here, loaded by every process
    if processes == 1:
        train(Workers(), options)
    else:
        start_workers(processes, train, options)
    return 0


def train(workers: Workers, options: argparse.Namespace) -> None:
    """Runs in each process."""
    operations.keep_freed_memory()
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {field.name: getattr(options, field.name) for field in fields(RunConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    resuming = (options.folder / LATEST).exists()
    config = load_checkpoint(options.folder)[0] if resuming else RunConfig(**given)
    mixture = Mixture(config.seed, read_mixture(options.mixture), options.corpus)
    encode = world_tokenizer().encode
    trainer = (
        Trainer.resumed(options.folder, mixture, encode, device, workers, options.grow_documents)
        if resuming
        else Trainer.fresh(config, mixture, encode, device, workers)
    )
    if resuming:
        trainer.config = replace(trainer.config, **{n: v for n, v in given.items() if n in CHANGEABLE})
    if options.decay_tokens and (trainer.decay is None or trainer.tokens >= sum(trainer.decay)):
        trainer.decay = (trainer.tokens, int(options.decay_tokens))
    tokens = sum(trainer.decay) if trainer.decay else int(options.tokens)
    if workers.rank == 0:
        parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
        print(
            f"{'resuming' if resuming else 'starting'}: {trainer.config}, {trainer.vocabulary.n_rows} rows,"
            f" {parameters:.2f}M parameters, {type(trainer.model.ops).__name__}, {workers.size} processes, {device},"
            f" mixture {mixture.weights}",
            flush=True,
        )
    stopped: list[int] = []
    for number in (signal.SIGTERM,) if workers.size > 1 else (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopped.append(received))
    end = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    trainer.run(options.folder, tokens, lambda: bool(stopped) or time.monotonic() > end)
    if workers.rank == 0:
        hours = trainer.seconds / 3600
        print(f"\nsaved at step {trainer.step}, {trainer.tokens / 1e6:.2f}M tokens, {hours:.2f} h", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
