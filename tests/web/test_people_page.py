"""Links, accounts and the owner's People page."""

import re
import threading

import pytest

from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.chat.running_roost import models_dir
from tests.web.owner import owner_cookie
from tests.wording import says, text
from webapp.errors import ModelError
from webapp.services.batch import KIND as BATCH
from webapp.services.jobs import PAUSED
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.web import login

TOKEN = "a-token-for-tests"
HOME = {"Origin": "http://127.0.0.1", "Accept": "text/html"}
PASSWORD = "correct horse battery"


class Browser:
    """A browser that keeps its cookie, at http://127.0.0.1."""

    def __init__(self, app, agent="Mozilla/5.0 (Windows NT 10.0) Firefox/130.0"):
        self.app, self.client, self.agent = app, app.test_client(), agent

    def get(self, path, **headers):
        return self._open("GET", path, headers=headers)

    def post(self, path, **form):
        return self._open("POST", path, data=form)

    def _open(self, method, path, headers=None, **more):
        told = {**HOME, "User-Agent": self.agent, **(headers or {})}
        return self.client.open(path, method=method, base_url="http://127.0.0.1", headers=told, **more)

    def join(self, link, **form):
        return self.post("/join", invitation=link.rpartition("=")[2], **form)

    @property
    def person(self):
        cookie = self.client.get_cookie("roost_session_80", domain="127.0.0.1")
        session = self.app.extensions["sessions"].find(cookie.value if cookie else "")
        return self.app.extensions["people"].find(session.person_id) if session else None


@pytest.fixture
def app(tmp_path):
    settings = Settings(
        data_dir=tmp_path, models_dir=models_dir(), strategy="fake", requests_per_s=1e6, request_burst=10**6,
        lan=True, token=TOKEN,
    )  # fmt: skip
    with open_app(settings) as app:
        yield app


@pytest.fixture
def owner(app):
    browser = Browser(app)
    browser.client.set_cookie(*owner_cookie(app, 80), domain="127.0.0.1")
    return browser


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch):
    """scrypt takes 50 ms on purpose."""
    monkeypatch.setattr("werkzeug.security.generate_password_hash", lambda password: f"hash of {password}")
    monkeypatch.setattr("werkzeug.security.check_password_hash", lambda known, word: known == f"hash of {word}")


def invite(owner, **form):
    """The address in the resulting page."""
    page = owner.post("/people/invite", **{"kind": "guest", "uses": "1", "hours": "24", **form}).text
    return re.search(r'data-link="([^"]+)"', page)[1]


def account(app, owner, name="Carl", kind="user"):
    browser = Browser(app)
    assert browser.join(invite(owner, kind=kind), name=name, password=PASSWORD).status_code == 303
    return browser


def test_a_link_admits_its_number_of_people_and_viewing_it_uses_nothing_up(app, owner):
    link = invite(owner, name="Class")
    path = "/" + link.split("/", 3)[3]
    assert [Browser(app).get(path).status_code for _ in range(3)] == [200, 200, 200]
    anna, ben = Browser(app), Browser(app)
    assert anna.join(link, name=" Anna \n Lee ").status_code == 303
    assert (anna.person.name, anna.person.kind) == ("Anna Lee", "guest") and anna.get("/").status_code == 200
    assert ben.join(link, name="Ben").status_code == 403 and ben.person is None
    assert ben.get(path).status_code == 403


def test_the_qr_code_of_a_link_is_in_the_page(owner):
    page = owner.post("/people/invite", kind="guest", uses="1", hours="1").text
    assert "<svg" in page.split('id="new-link"')[1] and 'class="qr"' in page
    link = re.search(r'data-link="([^"]+)"', page)[1]
    import segno

    side = segno.make(link, error="m").symbol_size(border=3)[0]
    assert f'viewBox="0 0 {side} {side}"' in page, "it is drawn as large as its place"


@pytest.mark.parametrize("hours, is_open", [("1", False), ("", True)])
def test_a_link_works_as_long_as_it_says(app, owner, monkeypatch, hours, is_open):
    import time

    link, now = invite(owner, hours=hours), time.time()
    monkeypatch.setattr("webapp.storage.people.time.time", lambda: now + 3601)
    assert Browser(app).join(link).status_code == (303 if is_open else 403)


def test_of_many_who_use_the_last_place_of_a_link_one_joins(app, owner):
    link, statuses = invite(owner), []
    browsers = [Browser(app) for _ in range(8)]
    threads = [threading.Thread(target=lambda b=b: statuses.append(b.join(link).status_code)) for b in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [303] + [403] * 7


def test_wrong_links_are_guesses(app):
    statuses = [Browser(app).get(f"/join?invitation=wrong{n}").status_code for n in range(20)]
    assert (statuses[0], statuses[-1]) == (403, 429)
    assert Browser(app).get("/join").status_code == 429


def test_a_revoked_link_blocks_everyone_who_joined_by_it_at_once(app, owner):
    first, second = invite(owner, name="First", uses="5"), invite(owner, name="Second")
    anna, ben, eve = Browser(app), Browser(app), Browser(app)
    anna.join(first), ben.join(first), eve.join(second)
    sessions, told = app.extensions["sessions"], []
    keys = [session.key for session in sessions.list() if session.person_id == anna.person.id]
    link_id = anna.person.invitation_id
    with sessions.watched(keys[0], lambda: told.append("closed")):
        assert owner.post(f"/people/links/{link_id}/revoke").status_code == 303
    assert told == ["closed"]
    assert [browser.get("/").status_code for browser in (anna, ben, eve)] == [401, 401, 200]
    assert Browser(app).join(first).status_code == 403


def test_a_blocked_person_can_join_again_by_a_link_when_admitted(app, owner):
    anna = Browser(app)
    anna.join(invite(owner), name="Anna")
    person, chat = anna.person, ChatStore(app.extensions["database"], anna.person.id).create("Hers")
    owner.post(f"/people/{person.id}/revoke")
    page = owner.get("/people").text
    assert anna.get("/").status_code == 401 and "data-revoked" in page
    owner.post(f"/people/{person.id}/admit")
    page = owner.post(f"/people/{person.id}/link").text
    phone = Browser(app)
    assert phone.join(re.search(r'data-link="([^"]+)"', page)[1]).status_code == 303
    assert phone.person.id == person.id and phone.get(f"/chat/{chat.id}").status_code == 200


def test_the_batches_of_a_blocked_person_are_paused(app, owner):
    jobs, admins = app.extensions["jobs"], [account(app, owner, name, kind="admin") for name in ("Root", "Ruth")]

    def work(running):
        asked = threading.Event()
        running.on_stop(asked.set)
        assert asked.wait(60)
        raise ModelError("load_cancelled")

    his, hers = (
        jobs.start(BATCH, "x", work, {"batch": "x", "person": admin.person.id}, can_pause=True, at_once=2)
        for admin in admins
    )
    owner.post(f"/people/{admins[0].person.id}/revoke")
    wait_until(lambda: jobs.job(his.id).status == PAUSED)
    assert jobs.job(hers.id).status != PAUSED
    jobs.cancel(hers.id)


def test_a_removed_person_is_deleted_with_all_chats(app, owner):
    anna = Browser(app)
    anna.join(invite(owner), name="Anna")
    person, store = anna.person, ChatStore(app.extensions["database"])
    chat = ChatStore(app.extensions["database"], person.id).create("Hers")
    owner.post(f"/people/{person.id}/remove")
    assert anna.get("/").status_code == 401 and chat.id not in store.ids()
    assert "Anna" not in owner.get("/people").text
    assert owner.post(f"/people/{person.id}/remove").status_code == 404


@pytest.mark.parametrize("do", ["revoke", "remove", "admit"])
def test_the_owner_and_the_reader_always_stay(app, owner, do):
    admin = account(app, owner, "Root", kind="admin")
    for browser, person_id in ((owner, "owner"), (admin, "owner"), (admin, admin.person.id), (owner, "shared")):
        assert browser.post(f"/people/{person_id}/{do}").status_code == 404
    assert owner.get("/people").status_code == admin.get("/people").status_code == 200


def test_an_account_signs_in_with_name_and_password(app, owner):
    carl = account(app, owner)
    person = carl.person
    assert carl.post("/people/leave").status_code == 303 and carl.get("/").status_code == 401
    form = carl.get("/chats/all").text
    assert 'name="password"' in form and 'name="token"' in form and 'value="/chats/all"' in form
    wrong = carl.post("/login", name="carl", password="wrong password")
    assert wrong.status_code == 401 and says(wrong.text, "login.wrong_password") and 'value="carl"' in wrong.text
    right = carl.post("/login", name=" CARL ", password=PASSWORD, next="/chats/all")
    assert (right.status_code, right.location) == (303, "/chats/all") and carl.person.id == person.id
    assert "hash of" not in owner.get("/people").text


def test_guessing_a_password_is_slowed_for_every_address_together(app, owner):
    account(app, owner)

    def sign_in(address, password):
        return app.test_client().post(
            "/login", data={"name": "Carl", "password": password}, base_url="http://127.0.0.1", headers=HOME,
            environ_base={"REMOTE_ADDR": address},
        ).status_code  # fmt: skip

    assert [sign_in("192.0.2.1", PASSWORD) for _ in range(30)] == [303] * 30, "who knows it is no guesser"
    statuses = [sign_in(f"192.0.2.{n}", "wrong password") for n in range(1, 31)]
    assert statuses[0] == 401 and statuses[-1] == 429
    assert [sign_in("198.51.100.1", "wrong") for _ in range(20)][-1] == 429


def test_another_password_ends_all_other_devices(app, owner):
    laptop, phone = account(app, owner), Browser(app)
    phone.post("/login", name="Carl", password=PASSWORD)
    assert phone.get("/").status_code == 200
    wrong = laptop.post("/people/me/password", old="not it at all", new="another good one")
    short = laptop.post("/people/me/password", old=PASSWORD, new="short")
    assert (wrong.status_code, short.status_code, phone.get("/").status_code) == (422, 422, 200)
    assert laptop.post("/people/me/password", old=PASSWORD, new="another good one").status_code == 303
    assert (laptop.get("/").status_code, phone.get("/").status_code) == (200, 401)
    assert Browser(app).post("/login", name="Carl", password=PASSWORD).status_code == 401


def test_the_owner_gives_a_link_to_set_a_new_password(app, owner):
    carl = account(app, owner)
    person = carl.person
    page = owner.post(f"/people/{person.id}/link").text
    link = re.search(r'data-link="([^"]+)"', page)[1]
    phone = Browser(app)
    assert phone.join(link, password="short").status_code == 422
    assert phone.join(link, password="a brand new one").status_code == 303
    assert phone.person.id == person.id and carl.get("/").status_code == 401
    assert Browser(app).post("/login", name="Carl", password="a brand new one").status_code == 303


def test_a_guest_who_makes_an_account_keeps_the_chats(app, owner):
    anna = Browser(app)
    anna.join(invite(owner), name="Anna")
    chat = ChatStore(app.extensions["database"], anna.person.id).create("Hers")
    assert anna.join(invite(owner, kind="user"), name="Anna", password=PASSWORD).status_code == 303
    phone = Browser(app)
    phone.post("/login", name="Anna", password=PASSWORD)
    assert phone.get(f"/chat/{chat.id}").status_code == 200 and phone.person.kind == "account"


def test_a_name_is_given_once(app, owner):
    account(app, owner, "Carl")
    link = invite(owner, kind="user")
    taken = Browser(app).join(link, name="cARL", password=PASSWORD)
    assert taken.status_code == 409 and "cARL" in taken.text
    nameless = Browser(app).join(link, name=" ", password=PASSWORD)
    assert nameless.status_code == 422
    assert Browser(app).join(link, name="Dora", password=PASSWORD).status_code == 303, "neither has used the link up"


def test_a_role_changes_at_once(app, owner):
    carl = account(app, owner)
    person = carl.person
    assert carl.post("/people/invite", kind="guest").status_code == 403
    owner.post(f"/people/{person.id}/change", name="Carl", role="admin")
    assert carl.post("/people/invite", kind="guest").status_code == 200
    owner.post(f"/people/{person.id}/change", name="Carl", role="user")
    assert carl.post("/people/invite", kind="guest").status_code == 403
    owner.post(f"/people/{person.id}/change", name="Carl B.", role="user")
    assert carl.person.name == "Carl B."


def test_a_person_can_end_only_their_own_sessions(app, owner):
    carl, phone, dora = account(app, owner), Browser(app), account(app, owner, "Dora")
    phone.post("/login", name="Carl", password=PASSWORD)
    key = {row.person_id: row.key for row in app.extensions["sessions"].list()}
    carl.post(f"/people/sessions/{key[dora.person.id]}/end")
    assert dora.get("/").status_code == 200
    page = carl.get("/people").text
    (other,) = re.findall(r"/people/sessions/(\w{64})/end", page)
    carl.post(f"/people/sessions/{other}/end")
    assert (carl.get("/").status_code, phone.get("/").status_code) == (200, 401)


def test_the_owner_sees_who_is_there_and_a_guest_sees_itself(app, owner):
    anna = Browser(app)
    anna.join(invite(owner, name="Class"), name="Anna")
    page, own = owner.get("/people").text, anna.get("/people").text
    assert 'data-person="guest"' in page and "Anna" in page and "Class" in page and "Firefox · Windows" in page
    assert "data-person" not in own and 'value="Anna"' in own and says(own, "people.this")
    anna.post("/people/me", name="Anna Lee")
    assert "Anna Lee" in owner.get("/people").text
    assert anna.get("/people", **{"Accept-Language": "zh"}).text.count(text("people.this", "zh")) == 1


def test_the_owners_own_links_stay_the_owners(owner):
    page = owner.post("/people/owner/link").text
    assert "/open?secret=" in page and owner.get("/people").status_code == 200


def test_a_server_without_a_token_asks_for_proof_once_somebody_is_invited(tmp_path):
    settings = Settings(data_dir=tmp_path, models_dir=models_dir(), strategy="fake", allow_hosts=("home.example",))
    with open_app(settings) as app:
        owner = Browser(app)
        owner.client.set_cookie(*owner_cookie(app, 80), domain="127.0.0.1")
        proxied = {"X-Forwarded-For": "198.51.100.7"}
        assert Browser(app).get("/", **proxied).status_code == 200
        invite(owner)
        refused = Browser(app).get("/", **proxied)
        assert refused.status_code == 401 and says(refused.text, "login.title.link")
        assert Browser(app).get("/").status_code == 200, "this machine itself is still the owner's"


def test_a_password_is_hashed_by_scrypt(monkeypatch):
    monkeypatch.undo()
    from webapp.storage.people import Person

    made = login.password_hash(PASSWORD)
    person = Person("a", password_hash=made)
    assert made.startswith("scrypt:32768:8:1$") and PASSWORD not in made
    assert login.is_password(person, PASSWORD) and not login.is_password(person, PASSWORD + "x")
    assert not login.is_password(None, PASSWORD) and not login.is_password(Person("b"), "")
