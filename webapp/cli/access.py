"""Access to a server for those who may write in its data folder, also while it runs.

`roost open` makes a link that gives a browser the owner's rights; `roost tokens` lists, creates and revokes API tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
import webbrowser
from urllib.parse import urlsplit

from webapp.cli.options import add_settings, in_terminal, settings_from, stored
from webapp.cli.parser import pad
from webapp.errors import RoostError
from webapp.i18n.terminal import t
from webapp.services.access import OwnerProof, owner_link
from webapp.storage.credentials import SCOPES, ApiTokens
from webapp.storage.people import People, Person, tidy


def add_arguments_open(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, ("data_dir",))
    parser.add_argument("--config", metavar="FILE", help=t("cli.serve.config"))
    parser.add_argument("--print", dest="only_print", action="store_true", help=t("cli.open.print"))


def run_open(args: argparse.Namespace) -> int:
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


def add_arguments_tokens(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, ("data_dir",))
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help=t("cli.tokens.actions"))
    actions.add_parser("list", help=t("cli.tokens.list"))
    make = actions.add_parser("make", help=t("cli.tokens.make"))
    make.add_argument("name", help=t("cli.tokens.name"))
    make.add_argument("--may", nargs="+", choices=SCOPES, default=[SCOPES[0]], help=t("cli.tokens.may"))
    make.add_argument("--person", default="", help=t("cli.tokens.person"))
    revoke = actions.add_parser("revoke", help=t("cli.tokens.revoke"))
    revoke.add_argument("name", help=t("cli.tokens.which"))


def run_tokens(args: argparse.Namespace) -> int:
    """Prints a new token alone on standard output. Raises ``token_not_found``, ``person_not_found``, ``token_invalid``,
    or ``settings_invalid`` for a data folder without a database."""
    with stored(settings_from(args)) as database:
        tokens, people = ApiTokens(database), People(database)
        if args.action == "make":
            print(tokens.make(args.name, tuple(args.may), person_of(people, args.person).id))
        elif args.action == "revoke":
            named = [token for token in tokens.list() if args.name in (token.id, token.name)]
            if len(named) != 1:
                raise RoostError("token_not_found", name=args.name, count=len(named))
            tokens.revoke(named[0].id)
            print(t("cli.tokens.revoked", name=in_terminal(named[0].name)))
        else:
            print_tokens(tokens, people)
    return 0


def person_of(people: People, name: str) -> Person:
    """Finds a person by name or id; "" means the owner."""
    wanted = tidy(name).casefold()
    known = [person for person in people.list() if person.revoked_at is None]
    found = [person for person in known if name == person.id or (person.name and person.name.casefold() == wanted)]
    if name and len(found) != 1:
        raise RoostError("person_not_found")
    return found[0] if name else people.owner


def print_tokens(tokens: ApiTokens, people: People) -> None:
    names = {person.id: person.name for person in people.list()}
    for token in tokens.list():
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(token.used_at)) if token.used_at else ""
        facts = [" ".join(token.scopes), in_terminal(names.get(token.person_id) or t("tokens.owner"))]
        facts.append(t("tokens.used", date=used) if used else t("tokens.unused"))
        print(f"{token.id}  {pad(in_terminal(token.name), 24)}  {' · '.join(facts)}")
    if not tokens.list():
        print(t("tokens.none"))
