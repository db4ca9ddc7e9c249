"""Options that several commands share, and how they become Settings and SamplingParams."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError, sentences
from webapp.settings import SETTINGS, Settings, load_settings

FLAGS = {"data_dir": "--data", "models_dir": "--models"}
MODEL_OPTIONS = ("strategy", "state", "threads", "models_dir", "data_dir")
SAMPLING_OPTIONS: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "Longest answer, in tokens."),
    "temperature": (float, "Randomness; 0 always takes the likeliest token."),
    "top_p": (float, "Keep the likeliest tokens up to this share of probability."),
    "top_k": (int, "Keep at most this many tokens; 0 keeps all."),
    "min_p": (float, "Drop tokens less likely than this share of the likeliest."),
    "presence_penalty": (float, "Push away tokens that were used already."),
    "frequency_penalty": (float, "Push away tokens the more often they were used."),
    "penalty_decay": (float, "How long penalties last: 0.99 short, 0.999 long."),
    "seed": (int, "Number that makes the same randomness again."),
}


def in_one_line(error: RoostError) -> str:
    """Sentence and way out, in English; a name in it that would steer the terminal is spelled out."""
    line = " ".join(sentences(error.message, error.hint).split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def flag_of(name: str) -> str:
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def add_settings(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    """One flag a setting, help and default from the table."""
    for name in names:
        row = SETTINGS[name]
        if row.kind == "bool":
            parser.add_argument(flag_of(name), dest=name, action="store_true", default=None, help=row.help)
        else:
            parser.add_argument(flag_of(name), dest=name, metavar=name.upper(), default=None, help=row.help)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", dest="model", default=None, help=SETTINGS["model"].help)
    add_settings(parser, MODEL_OPTIONS)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    for name, (kind, text) in SAMPLING_OPTIONS.items():
        parser.add_argument(flag_of(name), dest=name, type=kind, default=None, metavar="N", help=text)


def settings_from(args: argparse.Namespace, **fixed: Any) -> Settings:
    """Settings with every flag that was given; ``fixed`` wins over all."""
    given = {name: getattr(args, name, None) for name in SETTINGS}
    return load_settings({**given, **fixed}, config_path=getattr(args, "config", None))


def sampling_from(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    """``defaults`` with every sampling flag that was given; InvalidSampling outside its range."""
    given = {name: getattr(args, name) for name in SAMPLING_OPTIONS if getattr(args, name) is not None}
    return replace(defaults, **given)
