"""`roost open`: a new link that gives a browser the owner's rights on a running server."""

from __future__ import annotations

import argparse
import contextlib
import socket
import webbrowser
from urllib.parse import urlsplit

from webapp.cli.options import add_settings, settings_from
from webapp.errors import RoostError
from webapp.i18n.terminal import t
from webapp.services.access import OwnerProof, owner_link


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, ("data_dir",))
    parser.add_argument("--config", metavar="FILE", help=t("cli.serve.config"))
    parser.add_argument("--print", dest="only_print", action="store_true", help=t("cli.open.print"))


def run(args: argparse.Namespace) -> int:
    """Write access to the data folder is the proof; the server is not contacted."""
    folder = settings_from(args).data_dir
    proof = OwnerProof(folder)
    urls = proof.addresses()
    if not urls or not answers(urls[0]):
        raise RoostError("not_running", path=str(folder))
    secret = proof.new_secret()
    print(t("cli.open.link"))
    for url in urls:
        print(f"  {owner_link(url, secret)}", flush=True)
    if not args.only_print:
        webbrowser.open(owner_link(urls[0], proof.new_secret(is_for_own_account=True)))
    return 0


def answers(url: str) -> bool:
    """A killed server leaves its file behind."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port or 80), timeout=2):
        return True
    return False
