"""`roost models`: lists and manages the files of the library, as the Models page does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

from msgspec.structs import asdict

from webapp.cli.options import add_settings, in_one_line, settings_from
from webapp.errors import error_from_dict
from webapp.i18n import say, size_text
from webapp.i18n.terminal import t, terminal_locale
from webapp.manager.library import ModelEntry
from webapp.manager.manager import ModelManager
from webapp.services.downloads.catalogue import known_models
from webapp.services.library.model_files import IMPORT_MODES, ModelFiles

NAME_COLUMNS = 44


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, ("models_dir", "extra_models_dirs", "data_dir"))
    parser.add_argument("--json", action="store_true", help=t("cli.option.json"))
    parser.set_defaults(action=list_models)
    actions = parser.add_subparsers(title=t("cli.models.actions"), metavar="ACTION")
    _action(actions, "list", list_models)
    show = _action(actions, "show", show_model)
    show.add_argument("--tensors", action="store_true", help=t("cli.option.tensors"))
    _action(actions, "delete", delete_model)
    rename = _action(actions, "rename", rename_model)
    rename.add_argument("new_name", help=t("cli.models.new_name"))
    bring = _action(actions, "import", import_model)
    bring.add_argument("--mode", choices=IMPORT_MODES, default="copy", help=t("cli.models.mode"))
    _action(actions, "trash", list_trash)
    _action(actions, "restore", restore_model)
    _action(actions, "known", list_known)


# The argument of an action, and the key of its help text.
ARGUMENTS = {
    "show": ("name", "name"),
    "delete": ("name", "name"),
    "rename": ("name", "name"),
    "import": ("path", "path"),
    "restore": ("name", "trashed"),
}


def _action(actions: Any, name: str, run: Callable[..., int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=t(f"cli.models.{name}"))
    if name in ARGUMENTS:
        argument, about = ARGUMENTS[name]
        parser.add_argument(argument, help=t(f"cli.models.{about}"))
    # The same flags are allowed before and after the action; SUPPRESS keeps the value given before it.
    for flag, kind in (
        ("--models", "models_dir"),
        ("--data", "data_dir"),
        ("--extra-models-dirs", "extra_models_dirs"),
    ):
        parser.add_argument(flag, dest=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=t("cli.option.json"))
    parser.set_defaults(action=run)
    return parser


def run(args: argparse.Namespace) -> int:
    with closing(ModelManager(settings_from(args))) as manager:
        return int(args.action(args, ModelFiles(manager)))


def list_models(args: argparse.Namespace, files: ModelFiles) -> int:
    entries = files.library.list()
    if args.json:
        return _print_json([describe(entry) for entry in entries])
    if not entries:
        print(t("cli.models.none", folder=files.models_dir))
    for entry in entries:
        print(f"{entry.name:<{NAME_COLUMNS}} {size_text(entry.size_bytes):>8}  {summary(entry)}")
    return 0


def show_model(args: argparse.Namespace, files: ModelFiles) -> int:
    from webapp.cli.inspect import as_table, facts

    entry = files.library.entry(args.name)
    if args.json:
        return _print_json(describe(entry, args.tensors))
    if entry.inspection is None:
        raise entry.error or error_from_dict({})
    print(as_table([(t("cli.fact.name"), entry.name), *facts(entry.inspection)]))
    for tensor in entry.inspection.tensors if args.tensors else ():
        print(f"{tensor.name:<40} {tensor.dtype:<10} {tuple(tensor.shape)}")
    return 0


def delete_model(args: argparse.Namespace, files: ModelFiles) -> int:
    trashed = files.delete(args.name)
    return _report(args, asdict(trashed), t("cli.models.deleted", name=args.name, id=trashed.id))


def rename_model(args: argparse.Namespace, files: ModelFiles) -> int:
    name = files.rename(args.name, args.new_name)
    return _report(args, {"name": name}, t("cli.models.renamed", name=name))


def import_model(args: argparse.Namespace, files: ModelFiles) -> int:
    """Ctrl-C cancels the copy and removes its unfinished file."""
    from pathlib import Path

    job = files.start_import(str(Path(args.path).expanduser().absolute()), args.mode)
    try:
        while not job.is_over:
            if sys.stderr.isatty():
                print(f"\r{100 * job.done // job.total} %", end="", file=sys.stderr)
            job = files.jobs.wait(job.id, 0.2)
    finally:
        files.jobs.close()
    if job.error:
        raise job.error
    return _report(args, {"name": job.title, "path": job.details["path"]}, t("cli.models.imported", name=job.title))


def list_trash(args: argparse.Namespace, files: ModelFiles) -> int:
    items = files.trashed()
    if args.json:
        return _print_json([asdict(item) for item in items])
    for item in items:
        print(f"{item.name:<{NAME_COLUMNS}} {size_text(item.size_bytes):>8}  {item.id}")
    return 0


def restore_model(args: argparse.Namespace, files: ModelFiles) -> int:
    """Accepts an id, or a name: then the one deleted last."""
    found = next((item.id for item in files.trashed() if args.name in (item.id, item.name)), args.name)
    name = files.restore(found)
    return _report(args, {"name": name}, t("cli.models.restored", name=name))


def list_known(args: argparse.Namespace, files: ModelFiles) -> int:
    if args.json:
        return _print_json([asdict(model) for model in known_models()])
    for model in known_models():
        print(f"{model.file:<48} {size_text(model.size_bytes):>8}  {model.licence:<11} {model.page}")
    return 0


def describe(entry: ModelEntry, tensors: bool = True) -> dict[str, Any]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "size_bytes": entry.size_bytes,
        "inspection": entry.inspection.to_dict(tensors) if entry.inspection else None,
        "error": entry.error.to_dict() if entry.error else None,
    }


def summary(entry: ModelEntry) -> str:
    found = entry.inspection
    if found is None:
        return in_one_line(entry.error) if entry.error else ""
    if found.config is None:
        kind = t(f"cli.kind.{found.kind}")
        return f"{kind}: {say(found.reason, terminal_locale())}" if found.reason else kind
    config = found.config
    return t(
        "cli.models.summary",
        version=config.architecture,
        layers=config.n_layer,
        width=config.n_embd,
        parameters=f"{found.parameters:,}",
        dtype=found.dtype,
    )


def _print_json(found: Any) -> int:
    print(json.dumps(found, ensure_ascii=False))
    return 0


def _report(args: argparse.Namespace, found: dict[str, Any], sentence: str) -> int:
    """Prints the sentence, or ``found`` as JSON."""
    if args.json:
        return _print_json(found)
    print(sentence)
    return 0
