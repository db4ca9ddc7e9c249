"""Options that several commands share, and their conversion to Settings and SamplingParams."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from webapp.engine.sampling_params import PARAMETERS, SamplingParams
from webapp.errors import RoostError, translate_error
from webapp.i18n import Text, sentences
from webapp.i18n.terminal import t, terminal_locale
from webapp.settings import SETTINGS, Settings, default_data_dir, load_settings

if TYPE_CHECKING:
    from webapp.storage.database import Database

FLAGS = {"data_dir": "--data", "models_dir": "--models"}
ADAPTER_OPTIONS = ("adapter", "adapter_alpha", "adapter_start")
MODEL_OPTIONS = ("strategy", *ADAPTER_OPTIONS, "state", "threads", "models_dir", "data_dir", "load_anyway")
SAMPLING_OPTIONS = {row.name: row.kind for row in PARAMETERS if row.kind is not bool}


def in_one_line(error: RoostError) -> str:
    """The error's sentence and what to do."""
    return in_terminal(" ".join(sentences(*translate_error(error, terminal_locale())).split()))


def in_terminal(line: str) -> str:
    """Replaces control characters with escapes, so that a text cannot control the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def output_file(text: str) -> Path:
    """An argparse type: the file that a command writes at its end. Raises OSError at once if it cannot be written."""
    path, problem = Path(text), 0
    place = path if path.exists() else path.parent
    if path.is_dir():
        problem = errno.EISDIR
    elif place is not path and not place.is_dir():
        problem = errno.ENOTDIR if place.exists() else errno.ENOENT
    elif not os.access(place, os.W_OK):
        problem = errno.EACCES
    if problem:
        raise OSError(problem, os.strerror(problem), str(place))
    return path


def flag_of(name: str) -> str:
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def help_of(name: str) -> str:
    return t(f"setting.{name}")


def add_settings(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    """One flag for each setting, with help from the settings table."""
    for name in names:
        if SETTINGS[name].kind is bool:
            parser.add_argument(flag_of(name), dest=name, action="store_true", default=None, help=help_of(name))
        else:
            parser.add_argument(flag_of(name), dest=name, metavar=name.upper(), default=None, help=help_of(name))


def add_model_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument("-m", "--model", dest="model", default=None, help=help_of("model"))
    model.completer = model_names  # type: ignore[attr-defined]  # argcomplete's
    add_settings(parser, MODEL_OPTIONS)


def model_names(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Completes ``--model``. Lists file names only; no file is opened."""
    from webapp.manager.library import ModelLibrary

    settings = settings_from(parsed_args)
    return [file.name for file in ModelLibrary(settings.models_dir, extra_dirs=settings.extra_models_dirs).files()]


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    for name, kind in SAMPLING_OPTIONS.items():
        text = t(f"sampling.{name}.short")
        parser.add_argument(flag_of(name), dest=name, type=kind, default=None, metavar="N", help=text)


def settings_from(args: argparse.Namespace, **fixed: Any) -> Settings:
    """The settings, with every flag that was given; ``fixed`` overrides all."""
    given = {name: getattr(args, name, None) for name in SETTINGS}
    return load_settings({**given, **fixed}, config_path=getattr(args, "config", None))


def sampling_given(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in SAMPLING_OPTIONS if getattr(args, name) is not None}


def sampling_from(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    """``defaults`` with the given flags. Raises ``sampling_invalid`` if a value is out of range."""
    return replace(defaults, **sampling_given(args))


@contextlib.contextmanager
def stored(settings: Settings, may_create: bool = False) -> Iterator[Database]:
    """Opens the database of the data folder, also while a server uses it. Raises ``settings_invalid`` if there is none,
    so that a mistyped path does not become a folder. ``may_create`` creates one if the folder exists or is the
    default."""
    from webapp.storage.database import Database

    folder = settings.data_dir
    if not settings.database_path.is_file() and not (may_create and (folder.is_dir() or folder == default_data_dir())):
        reason = Text("reason.cli.no_database")
        raise RoostError("settings_invalid", name="data_dir", value=str(folder), reason=reason)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(Database(settings.database_path)) as database:
        yield database
