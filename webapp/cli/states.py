"""`roost states`: lists, inspects and blends states, and makes a state from a document."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from webapp.cli.options import add_model_options, add_settings, settings_from
from webapp.cli.parser import pad
from webapp.errors import FileMissing, RoostError, WeightsError, translate_error
from webapp.i18n import Text
from webapp.i18n.terminal import t, terminal_locale
from webapp.manager.manager import ModelManager
from webapp.services.attachments import DOCUMENT_BYTES, file_text
from webapp.services.generation.request import PrefixSource
from webapp.services.states import Prefixes, StateEntry, StateLibrary, source_of_document
from webapp.weights.state_sheet import DOCUMENT, PROMPT, StateSheet

BARS = " ▁▂▃▄▅▆▇█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|inspect|blend|bake")
    listing = actions.add_parser("list", help=t("cli.states.list"))
    looking = actions.add_parser("inspect", help=t("cli.states.inspect"))
    blend = actions.add_parser("blend", help=t("cli.states.blend"))
    bake = actions.add_parser("bake", help=t("cli.states.bake"))
    for action in (listing, looking, blend):
        add_settings(action, ("models_dir", "data_dir"))
    add_model_options(bake)
    bake.add_argument("document", help=t("cli.states.document"))
    bake.add_argument("--as", dest="kind", choices=(DOCUMENT, PROMPT), default=DOCUMENT, help=t("cli.states.kind"))
    bake.add_argument("--name", default="", help=t("cli.states.name"))
    for action in (listing, looking):
        action.add_argument("--json", action="store_true", help=t("cli.option.json"))
    looking.add_argument("file", help=t("cli.states.file"))
    looking.add_argument("--with", dest="other", metavar="NAME", default="", help=t("cli.states.other"))
    blend.add_argument("parts", nargs="+", metavar="NAME=WEIGHT", help=t("cli.states.parts"))
    blend.add_argument("--name", required=True, help=t("cli.states.name"))


def run(args: argparse.Namespace) -> int:
    with closing(ModelManager(settings_from(args))) as manager:
        return ACTIONS[args.action](StateLibrary(manager), args)


def list_states(states: StateLibrary, args: argparse.Namespace) -> int:
    entries = states.list()
    if args.json:
        print(json.dumps([_as_dict(entry) for entry in entries], ensure_ascii=False))
        return 0
    for entry in entries:
        print(f"{entry.name}\n  {_line(entry)}")
    if not entries:
        print(t("cli.states.none", folder=states.folder))
    return 0


def inspect_state(states: StateLibrary, args: argparse.Namespace) -> int:
    """A state of the library with this name; otherwise the file at this path. Raises an error if it is not a state."""
    is_known = args.file in states.names()
    path = states.entry(args.file).path if is_known else Path(args.file)
    sheet = states.library.reader.state_sheet(path, again=True)
    other = states.entry(args.other).path if args.other else None
    apart = states.library.reader.state_measures(path, other) if other else None
    if args.json:
        found = {
            "file": str(path),
            **to_builtins(sheet),
            **({"with": {"name": args.other, **to_builtins(apart)}} if apart else {}),
        }
        print(json.dumps(found, ensure_ascii=False))
        return 0
    digest, norms = pad(t("cli.states.digest"), 6), pad(t("cli.states.norms"), 6)
    spread = t("cli.states.range", least=f"{min(sheet.norms):.3g}", most=f"{max(sheet.norms):.3g}")
    print(f"{path}\n  {_sizes(sheet)}\n  {digest} {sheet.digest}\n  {norms} {bars(sheet.norms)}  {spread}")
    if apart is not None:
        share = apart.difference / apart.norm if apart.norm else 0.0
        params = {"name": args.other, "difference": f"{apart.difference:.3g}", "share": f"{share:.1%}"}
        print(f"  {t('cli.states.apart', **params, cosine='-' if apart.cosine is None else f'{apart.cosine:.4f}')}")
    return 0


def blend_states(states: StateLibrary, args: argparse.Namespace) -> int:
    name = states.blend([_part(text) for text in args.parts], args.name)
    print(f"{states.folder / name}\n  {_line(states.entry(name))}")
    return 0


def bake_state(states: StateLibrary, args: argparse.Namespace) -> int:
    """``document`` is a file, or the name of an existing state, which is made again with the chosen model."""
    prefixes, path = Prefixes(states), Path(args.document)
    if args.document in states.names():
        job = prefixes.bake_again(args.document)
    else:
        if not path.is_file():
            raise FileMissing(path=args.document)
        with path.open("rb") as file:
            text = file_text(states.manager, path.name, file.read(DOCUMENT_BYTES + 1), reads_html=True)
        source = (
            PrefixSource(PROMPT, path.stem, text.strip())
            if args.kind == PROMPT
            else source_of_document(path.name, text)
        )
        job = prefixes.bake(source, args.name or path.stem)
    ended = states.jobs.wait(job.id, None)
    if ended.error is not None:
        raise ended.error
    entry = states.entry(ended.details["name"])
    print(f"{entry.path}\n  {_line(entry)}")
    return 0


ACTIONS = {"list": list_states, "inspect": inspect_state, "blend": blend_states, "bake": bake_state}


def bars(norms: tuple[float, ...]) -> str:
    """One block per layer, scaled to the largest norm."""
    most = max(norms, default=0.0) or 1.0
    return "".join(BARS[round((len(BARS) - 1) * norm / most)] for norm in norms)


def _part(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        return name, float(weight)
    except ValueError as exc:
        raise WeightsError("blend_invalid", reason=Text("reason.cli.is_not_name_and_weight", text=repr(text))) from exc


def _line(entry: StateEntry) -> str:
    if entry.sheet is None:
        return translate_error(entry.error, terminal_locale())[0] if isinstance(entry.error, RoostError) else "?"
    prefix = entry.sheet.prefix
    if prefix is not None:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(prefix.made_at))
        kind = t(f"states.prefix.{prefix.kind}")
        return t(
            "cli.states.prefix", kind=kind, title=prefix.title, tokens=prefix.tokens, model=prefix.model, made=made
        )
    if not entry.fits:
        return t("cli.states.fits_none", sizes=_sizes(entry.sheet))
    return t("cli.states.fits", sizes=_sizes(entry.sheet), names=t("cli.states.comma").join(entry.fits))


def _sizes(sheet: StateSheet) -> str:
    version = f"RWKV-{sheet.architecture}" if sheet.architecture else t("cli.states.unknown_version")
    sizes = {"layers": sheet.n_layer, "heads": sheet.n_head, "size": sheet.head_size, "width": sheet.n_embd}
    return t("cli.states.sizes", version=version, **sizes)


def _as_dict(entry: StateEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "size_bytes": entry.size_bytes,
        "fits": entry.fits,
        "error": entry.error.to_dict() if entry.error else None,
        **(to_builtins(entry.sheet) if entry.sheet else {}),
    }
