"""``/people``: your own identity, and for the owner everybody's: devices, roles and links. ``/tokens``: the owner's
tokens for programs. ``/join`` is the target of invitation links; only its form uses a link up, because programs may
fetch a preview."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, g, redirect, request, url_for
from markupsafe import Markup
from msgspec.structs import asdict
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.access import owner_link
from webapp.services.batch import KIND as BATCH
from webapp.services.limits import Limits
from webapp.storage.chats import ChatStore
from webapp.storage.credentials import SCOPES, ApiToken, Session
from webapp.storage.people import ACCOUNT, GUEST, NAME_CHARS, SHARED_ID, Invitation, People, Person
from webapp.storage.programs import ResponseStore, StateHandles
from webapp.storage.records import OWNER_ID
from webapp.web import login
from webapp.web.error_answers import answer_error
from webapp.web.guard import client_address, cookie_name, current_role, the_guard
from webapp.web.kit.page import Choice, PageContext, Values, current_page, fresh_page, moment_text, render_page
from webapp.web.login import DoorField, DoorForm
from webapp.web.peer import address_key, is_loopback
from webapp.web.roles import Role

blueprint = Blueprint("people", __name__)
KEY = re.compile(r"[0-9a-f]{64}")
BROWSERS = ("Edg", "OPR", "Firefox", "Chrome", "Safari")
SYSTEMS = ("Android", "iPhone", "iPad", "Windows", "Mac OS X", "Linux")
OF_THIS_MACHINE = re.compile(r"https?://(127\.|localhost|\[::1\])")
HERE_S = 120.0
"""A person who was active less long ago counts as present."""
HOURS = {"1": 1, "24": 24, "168": 168, "720": 720}
USES = {"1": 1, "5": 5, "40": 40}
"""Values allowed in a form; others mean no expiry and no limit."""
DEVICE_LINK_S = 86_400.0
KINDS = {"guest": (GUEST, False), "user": (ACCOUNT, False), "admin": (ACCOUNT, True)}
LIMITS = ("answers", "day_tokens", "answer_tokens")
LIMIT_DIGITS = 12
TOASTS = ("saved", "revoked", "admitted", "removed", "link_revoked", "password")


def the_people() -> People:
    return the_guard().people


@blueprint.get("/people")
def index() -> Response:
    return _page()


def _page(status: int = 200, **shown: Any) -> Response:
    return render_page("people/page.html", page_context(**shown), status=status)


def _back(said: str = "") -> BaseResponse:
    return redirect(url_for("people.index", said=said or None), 303)


# one's own


@blueprint.post("/people/leave")
def leave() -> Response:
    """Logs this browser out."""
    if g.session is not None:
        the_guard().sessions.end(g.session.key)
    return login.goodbye(cookie_name(request), "/")


@blueprint.post("/people/sessions/<key>/end")
def end(key: str) -> BaseResponse:
    """Ends a session of one's own; the owner can end anybody's."""
    sessions = the_guard().sessions
    mine = {session.key for session in sessions.of(g.person.id)}
    if KEY.fullmatch(key) and (key in mine or current_role() is Role.OWNER):
        sessions.end(key)
    return _back()


@blueprint.post("/people/sessions/end-others")
def end_others() -> BaseResponse:
    the_guard().sessions.end_all(g.person.id, but=g.session.key if g.session else "")
    return _back()


@blueprint.post("/people/me")
def rename_me() -> Response | BaseResponse:
    return _changed(g.person, name=request.form.get("name", ""))


@blueprint.post("/people/me/password")
def set_password() -> Response | BaseResponse:
    """Signs all other devices of the account out."""
    person: Person = g.person
    guard, old, new = the_guard(), request.form.get("old", ""), request.form.get("new", "")
    if person.kind != ACCOUNT:
        raise RoostError("owner_only")
    try:
        if not guard.is_password(person, person.name, old):
            raise RoostError("wrong_password")
        guard.people.change(person.id, password_hash=login.password_hash(new))
    except RoostError as exc:
        return _page(exc.status, error=exc, failed="password")
    guard.sessions.end_all(person.id, but=g.session.key if g.session else "")
    return _back("password")


def _changed(person: Person, **fields: Any) -> Response | BaseResponse:
    if not fields.get("name", person.name).strip() and person.kind == ACCOUNT:
        fields.pop("name", None)  # it signs in by that
    try:
        the_people().change(person.id, **fields)
    except RoostError as exc:
        fresh_page()
        return _page(exc.status, error=exc, failed=person.id)
    return _back("saved")


# the owner's


@blueprint.post("/people/<person_id>/limits")
def limit(person_id: str) -> Response | BaseResponse:
    """An empty field means the default, 0 no limit; other text than a number is refused."""
    person = the_people().find(person_id)
    typed = {name: request.form.get(name, "").strip() for name in LIMITS}
    if person is None or not all(
        len(text) <= LIMIT_DIGITS and (text.isdecimal() or not text) for text in typed.values()
    ):
        reason = Text("reason.common.must_be_a_whole_number")
        return _page(422, error=RoostError("limit_invalid", reason=reason), failed=person_id)
    current_page().quota.set(person_id, Limits(**{name: int(text) if text else None for name, text in typed.items()}))
    return _back("saved")


@blueprint.post("/people/invite")
def invite() -> Response:
    form, now = request.form, time.time()
    kind, is_admin = KINDS.get(form.get("kind", ""), (GUEST, False))
    hours = HOURS.get(form.get("hours", ""))
    made, secret = the_people().invite(
        kind,
        is_admin=is_admin,
        name=form.get("name", ""),
        expires_at=now + hours * 3600 if hours else None,
        most_uses=USES.get(form.get("uses", "")),
    )
    return _page(link=_join_link(secret), made=made)


@blueprint.post("/people/<person_id>/link")
def invite_device(person_id: str) -> Response:
    """A link for another device of a person: a guest continues there, an account sets a new password, the owner is the
    owner there too."""
    person = _person(person_id)
    if person.id == OWNER_ID:
        link = owner_link(address_for_others(), the_guard().proof.new_secret())
        return _page(link=link, made=Invitation("", "", kind="owner"))
    expires_at = time.time() + DEVICE_LINK_S
    made, secret = the_people().invite(
        person.kind, name=person.name, person_id=person.id, most_uses=1, expires_at=expires_at
    )
    return _page(link=_join_link(secret), made=made)


@blueprint.post("/people/links/<link_id>/revoke")
def revoke_link(link_id: str) -> BaseResponse:
    """Also blocks everyone who joined by it."""
    for person in the_people().revoke_link(link_id):
        _block_access(person.id)
    return _back("link_revoked")


@blueprint.post("/people/links/<link_id>/forget")
def forget_link(link_id: str) -> BaseResponse:
    if not any(link.id == link_id and link.is_open for link in the_people().invitations()):
        the_people().forget_link(link_id)
    return _back()


@blueprint.post("/people/<person_id>/change")
def change(person_id: str) -> Response | BaseResponse:
    person, role = _person(person_id), request.form.get("role", "")
    fields: dict[str, Any] = {"name": request.form.get("name", person.name)}
    is_admin = role == "admin"
    if person.kind == ACCOUNT and role and is_admin != person.is_admin:
        fields["is_admin"] = is_admin
    answer = _changed(person, **fields)
    the_guard().sessions.look_again(person.id)
    return answer


@blueprint.post("/people/<person_id>/revoke")
def revoke(person_id: str) -> BaseResponse:
    person = _person(person_id, is_other=True)
    the_people().change(person.id, revoked_at=time.time())
    _block_access(person.id)
    return _back("revoked")


@blueprint.post("/people/<person_id>/admit")
def admit(person_id: str) -> BaseResponse:
    the_people().change(_person(person_id, is_other=True).id, revoked_at=None)
    return _back("admitted")


@blueprint.post("/people/<person_id>/remove")
def remove(person_id: str) -> BaseResponse:
    """Also removes the person's data: chats and batches are permanently deleted a day later, everything else and API
    tokens at once."""
    person, page = _person(person_id, is_other=True), current_page()
    _block_access(person.id)
    tokens = the_guard().tokens
    for token in tokens.list():
        if token.person_id == person.id:
            tokens.revoke(token.id)
    the_people().remove(person.id)  # first: what a request still running would keep is refused from here on
    page.chat_turns.delete_all(_chats(person.id).ids())
    kept = (page.database, page.settings.response_days, person.id)
    notebooks, batches = page.notebooks, page.batches
    unneeded = [*ResponseStore(*kept).delete_all(), *StateHandles(*kept).delete_all()[1]]
    page.manager.forget_snapshots([*unneeded, *notebooks.store.delete_all(person.id)])
    for batch in batches.store.list(person.id):
        batches.delete(batch.id)
    return _back("removed")


def _person(person_id: str, is_other: bool = False) -> Person:
    """Raises ``person_not_found``; with ``is_other`` also for the owner and the reader, who cannot be blocked."""
    kept = (OWNER_ID, SHARED_ID, g.person.id) if is_other else (SHARED_ID,)
    found = next((person for person in the_people().list() if person.id == person_id), None)
    if found is None or found.id in kept:
        raise RoostError("person_not_found")
    return found


def _block_access(person_id: str) -> None:
    """Closes open pages at once and stops answers; answers for programs detect it themselves. Batches are paused, so
    that they can continue if the person is admitted again."""
    page = current_page()
    the_guard().sessions.end_all(person_id)
    for notebook_id, _, _ in page.notebooks.store.list(person_id):
        page.notebooks.stop(notebook_id)
    for chat_id in page.chat_turns.writing():
        if _chats().person_of(chat_id) == person_id:
            page.chat_turns.stop(chat_id)
    for job in page.jobs.jobs(BATCH):
        if job.details.get("person") == person_id:
            page.jobs.pause(job.id)


def _chats(person_id: str | None = None) -> ChatStore:
    return ChatStore(current_page().database, person_id)


def address_for_others() -> str:
    """This server's URL for a link to another device: the name in the reader's browser, or an address on the network if
    that name is valid only on this machine."""
    name = request.host.rpartition(":")[0].strip("[]") if ":" in request.host else request.host
    if name != "localhost" and not is_loopback(name):
        return request.url_root
    return next((url for url in the_guard().proof.addresses() if not OF_THIS_MACHINE.match(url)), request.url_root)


def _join_link(secret: str) -> str:
    return f"{address_for_others()}join?invitation={quote(secret)}"


# people who come by a link


@blueprint.get("/join")
def join() -> Response | BaseResponse:
    try:
        link = _invited(request.args.get("invitation", ""))
    except RoostError as exc:
        return answer_error(exc)
    return _door(link, request.args["invitation"])


@blueprint.post("/join")
def enter() -> Response | BaseResponse:
    secret, name, password = (login.submitted(each) for each in ("invitation", "name", "password"))
    guard = the_guard()
    try:
        link = _invited(secret)
    except RoostError as exc:
        return answer_error(exc)
    if not _is_for_reader(link):
        return login.to_page("/")
    fields: dict[str, Any] = {"name": name}
    try:
        if link.kind == ACCOUNT:
            if not name.strip() and not link.person_id:
                raise RoostError("account_name_missing")
            fields["password_hash"] = login.password_hash(password)
        person = guard.people.join(link, _reader(), **fields)
    except RoostError as exc:
        return _door(link, secret, current_page().sentences(exc), name, exc.status)
    if link.person_id and link.kind == ACCOUNT:
        guard.people.change(person.id, password_hash=fields["password_hash"])
        guard.sessions.end_all(person.id)
    return guard.welcome(person, "/")


def _invited(secret: str) -> Invitation:
    try:
        return the_people().invited(secret)
    except RoostError:
        if not the_guard().allows_guess(address_key(client_address())):
            raise RoostError("too_many_requests") from None
        raise


def _reader() -> Person | None:
    """The person of this browser, if it has a session."""
    return g.person if g.session is not None else None


def _is_for_reader(link: Invitation) -> bool:
    """False for someone who is already logged in: a guest keeps the data, and can at most become an account."""
    reader = _reader()
    if reader is None or link.person_id not in ("", reader.id):
        return True
    return reader.kind == GUEST and link.kind == ACCOUNT


def _door(link: Invitation, secret: str, wrong: str = "", name: str = "", status: int = 200) -> Response | BaseResponse:
    if not _is_for_reader(link):
        if current_role() is not Role.OWNER:
            return login.to_page("/")
        t = current_page().t
        return login.door(t("people.join.yours"), t("people.join.yours_text"))
    page, reader = current_page(), _reader()
    kind = f"{'again_' if link.person_id else ''}{link.kind}"
    name = name or (reader.name if reader is not None and link.kind == ACCOUNT else "")
    name_help = page.t(f"people.join.name_help.{link.kind}")
    fields = []
    if not link.person_id:
        is_account = link.kind == ACCOUNT
        words = "username" if is_account else "nickname"
        label = page.t("people.join.name")
        fields.append(DoorField("name", label, "text", words, name, name_help, NAME_CHARS, is_account))
    if link.kind == ACCOUNT:
        least = page.t("people.join.password_help", least=login.MIN_PASSWORD_CHARS)
        fields.append(DoorField("password", page.t("people.join.password"), "password", "new-password", help=least))
    form = DoorForm("/join", page.t(f"people.join.button.{kind}"), tuple(fields), {"invitation": secret}, wrong=wrong)
    return login.door(page.t(f"people.join.title.{kind}"), page.t(f"people.join.intro.{kind}"), [form], status)


# page content


def page_context(
    link: str = "", made: Invitation | None = None, error: RoostError | None = None, failed: str = ""
) -> Values:
    """``role`` is that of :mod:`.roles`; ``has_session``: this browser can log out. ``link`` is a new one that ``made``
    says more of; ``failed`` is "password" or the id of the person whose form ``error`` belongs to."""
    page, role = current_page(), current_role()
    is_owner = role is Role.OWNER
    sessions = the_guard().sessions.list()
    here = OwnersView(page) if is_owner else None
    return {
        "page_title": page.t("people.title"),
        "role": role.name.lower(),
        "is_owner": is_owner,
        "person": g.person,
        "me": name_of(page, g.person),
        "kind": kind_of(g.person),
        "has_session": g.session is not None,
        "devices": [device_row(page, row) for row in sessions if row.person_id == g.person.id] if g.session else [],
        "people": here.people() if here is not None else [],
        "links": here.links() if here is not None else [],
        "link": link,
        "made": made_note(page, made) if made is not None else {},
        "qr": qr_code(link) if link else "",
        "is_local_link": OF_THIS_MACHINE.match(link) is not None,
        "kinds": [Choice(kind, page.t(f"people.kind.{kind}")) for kind in KINDS],
        "roles": [Choice(kind, page.t(f"people.kind.{kind}")) for kind in ("user", "admin")],
        "hours": [Choice(value, page.t(f"people.link.hours.{value or 'ever'}")) for value in (*HOURS, "")],
        "uses": [Choice(value, page.t(f"people.link.uses.{value or 'any'}")) for value in (*USES, "")],
        "least_password": login.MIN_PASSWORD_CHARS,
        "error": page.sentences(error) if error is not None else "",
        "failed": failed,
        "toasts": page.done_toast("people.done", TOASTS, undo=""),
    }


class OwnersView:
    """The owner's view of all people, at one moment."""

    def __init__(self, page: PageContext) -> None:
        self.page = page
        self._people = the_people().list()
        self._sessions = the_guard().sessions.list()
        self._counts = _chats().counts()
        self._writing = {_chats().person_of(chat_id) for chat_id in page.chat_turns.writing()}

    def people(self) -> list[Values]:
        """Last active first; the owner before all, blocked people after all."""
        shown = [person for person in self._people if person.id != SHARED_ID or person.seen_at]
        shown.sort(key=lambda person: (not person.is_owner, person.revoked_at is not None, -person.seen_at))
        return [self._row(person) for person in shown]

    def _row(self, person: Person) -> Values:
        t, devices = self.page.t, [row for row in self._sessions if row.person_id == person.id]
        is_here = time.time() - person.seen_at < HERE_S
        chats = self._counts.get(person.id, 0)
        seen = t("people.seen", when=moment_text(person.seen_at)) if person.seen_at else t("people.never")
        by = next((link.name for link in the_people().invitations() if link.id == person.invitation_id), "")
        facts = [
            t("people.here") if is_here else seen,
            t("people.devices", count=len(devices)),
            t("people.chats", count=chats),
            *([t("people.by", name=by)] if by else []),
        ]
        return {
            "id": person.id,
            "name": name_of(self.page, person, devices),
            "own_name": person.name,
            **limits_row(self.page, person),
            "kind": kind_of(person),
            "is_account": person.kind == ACCOUNT,
            "is_me": person.id == g.person.id,
            "is_kept": person.id in (OWNER_ID, SHARED_ID, g.person.id),
            "is_shared": person.id == SHARED_ID,
            "is_revoked": person.revoked_at is not None,
            "is_writing": person.id in self._writing,
            "is_here": is_here and bool(devices or person.is_owner),
            "facts": " · ".join(facts),
            "chats": chats,
            "devices": [device_row(self.page, row) for row in devices],
        }

    def links(self) -> list[Values]:
        """Links that do not belong to a person yet."""
        t = self.page.t
        came = [person.invitation_id for person in self._people]
        return [
            {
                "id": link.id,
                "name": link.name or t("people.link.unnamed"),
                "kind": "admin" if link.is_admin else "user" if link.kind == ACCOUNT else "guest",
                "is_open": link.is_open,
                "is_revoked": link.revoked_at is not None,
                "has_guests": link.id in came,
                "facts": " · ".join(link_facts(self.page, link)),
            }
            for link in the_people().invitations()
            if not link.person_id
        ]


def link_facts(page: PageContext, link: Invitation) -> list[str]:
    t = page.t
    used = "of" if link.most_uses is not None else "any"
    until = t("people.link.until", when=moment_text(link.expires_at)) if link.expires_at else t("people.link.no_end")
    return [t(f"people.link.used_{used}", count=link.uses, most=link.most_uses or 0), until]


def made_note(page: PageContext, link: Invitation) -> Values:
    """The note next to a new link: whom it admits, and how often."""
    if link.kind == "owner" or link.person_id:
        what = "owner" if link.kind == "owner" else f"again_{link.kind}"
        return {"title": page.t(f"people.made.{what}"), "text": page.t(f"people.made.{what}_text", name=link.name)}
    what = "admin" if link.is_admin else link.kind
    return {"title": page.t(f"people.made.{what}"), "text": " · ".join(link_facts(page, link))}


def qr_code(text: str) -> Markup:
    """An inline SVG, black on white in every theme, because cameras need that."""
    import segno  # brings what no start needs

    code = segno.make(text, error="m")
    return Markup(code.svg_inline(border=3, dark="#000", light="#fff", svgclass="qr", lineclass=None, omitsize=True))


def name_of(page: PageContext, person: Person, devices: list[Session] | None = None) -> str:
    """A guest without a name is named after the device last used."""
    if person.name:
        return person.name
    if person.is_owner or person.id == SHARED_ID:
        return page.t(f"people.name.{person.id}")
    device = next((device_of(row.agent) for row in devices or the_guard().sessions.of(person.id)), "")
    return f"{page.t('people.kind.guest')} · {device}" if device else page.t("people.kind.guest")


def kind_of(person: Person) -> str:
    """ "owner", "admin", "user" or "guest"."""
    return "admin" if person.is_admin else "user" if person.kind == ACCOUNT else person.kind


def device_row(page: PageContext, session: Session) -> Values:
    times = {"used": moment_text(session.used_at), "begun": moment_text(session.created_at)}
    return {
        "key": session.key,
        "name": device_of(session.agent) or page.t("people.unknown_device"),
        "times": page.t("people.times", **times),
        "is_this": g.session is not None and g.session.key == session.key,
    }


def device_of(agent: str) -> str:
    """Browser and system from a User-Agent; "" if unknown."""
    browser = next((name for name in BROWSERS if f"{name}/" in agent), "")
    system = next((name for name in SYSTEMS if name in agent), "")
    names = {"Edg": "Edge", "OPR": "Opera", "Mac OS X": "macOS"}
    return " · ".join(names.get(name, name) for name in (browser, system) if name)


def limits_row(page: PageContext, person: Person) -> Values:
    """The fields of a person's limits, empty for the default; no fields for a person without limits."""
    if person.may_own or person.id == SHARED_ID or person.revoked_at is not None:
        return {"limits": ()}
    own, default = asdict(page.quota.own(person.id)), asdict(page.quota.default_of(person))
    return {
        "limits": [(name, "" if own[name] is None else own[name]) for name in LIMITS],
        "limits_help": page.t("people.limits.help", used=page.quota.used_today(person.id), **default),
    }


# tokens for programs


@blueprint.get("/tokens")
def tokens() -> Response:
    return _tokens_page()


@blueprint.post("/tokens")
def make_token() -> Response:
    """Shows the token, only this once."""
    guard, form = the_guard(), request.form
    try:
        person = guard.people.find(form.get("person", OWNER_ID)) or guard.people.owner
        secret = guard.tokens.make(form.get("name", ""), tuple(form.getlist("scope")), person.id)
    except RoostError as exc:
        return _tokens_page(error=current_page().sentences(exc))
    return _tokens_page(secret)


@blueprint.post("/tokens/<token_id>/revoke")
def revoke_token(token_id: str) -> BaseResponse:
    the_guard().tokens.revoke(token_id)
    return redirect(url_for("people.tokens"), 303)


def _tokens_page(secret: str = "", error: str = "") -> Response:
    """``people``: the possible persons of a token, the owner first; ``typed``: the input of a refused form."""
    page, guard = current_page(), the_guard()
    people = [each for each in guard.people.list() if each.revoked_at is None and (each.name or each.is_owner)]
    values = {
        "page_title": page.t("tokens.title"),
        "rows": [token_row(page, token) for token in guard.tokens.list()],
        "people": [(person.id, person.name or page.t("tokens.owner")) for person in people],
        "scopes": SCOPES,
        "secret": secret,
        "error": error,
        "typed": request.form if error else {},
    }
    return render_page("tokens/page.html", values, status=422 if error else 200)


def token_row(page: PageContext, token: ApiToken) -> Values:
    person = the_guard().people.find(token.person_id)
    return {
        "id": token.id,
        "name": token.name,
        "scopes": [page.t(f"tokens.scope.{scope}") for scope in token.scopes],
        "person": "" if person is None or person.is_owner else person.name or page.t("tokens.guest"),
        "used": page.t("tokens.used", date=moment_text(token.used_at)) if token.used_at else page.t("tokens.unused"),
        "created": moment_text(token.created_at),
    }
