"""A chat shared by a link: the page's content, who has access, and that it gives access to nothing else."""

import re
from html.parser import HTMLParser

import pytest

from tests.web.apps import open_app
from tests.web.chat.running_roost import models_dir
from tests.web.hostile_markdown import HOSTILE
from tests.web.owner import owner_client
from tests.wording import says
from webapp.chat.messages import Message, Role
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.records import OWNER_ID
from webapp.storage.shares import Shares

TOKEN = "a-token-for-tests"
BASE = "http://127.0.0.1"
ORIGIN = {"Origin": BASE, "Accept": "text/html"}


class Owner:
    """The owner's browser on a server for the network, and a stranger's."""

    def __init__(self, app):
        self.client, self.store = owner_client(app), ChatStore(app.extensions["database"])
        self.shares = Shares(app.extensions["database"])
        self._stranger = app.test_client(use_cookies=False)

    def chat(self, *texts, **options):
        chat, parent = self.store.create(title="Wires", **options), None
        for place, text in enumerate(texts):
            message = Message(Role.ASSISTANT if place % 2 else Role.USER, text, reasoning="a secret thought")
            parent = self.store.add_message(chat.id, parent, message).id
        return chat.id

    def share(self, chat_id, kind):
        """The link's path."""
        answer = self.client.post("/shared", base_url=BASE, data={"chat": chat_id, "kind": kind}, headers=ORIGIN)
        assert answer.status_code == 303
        return f"/shared/{self.shares.all(OWNER_ID)[0].id}"

    def stranger(self, path, method="GET", key="", **options):
        headers = {**ORIGIN, **({"Authorization": f"Bearer {key}"} if key else {})}
        return self._stranger.open(path, method=method, base_url=BASE, headers=headers, **options)

    def read(self, path):
        answer = self.stranger(path)
        assert answer.status_code == 200
        return answer.get_data(as_text=True)


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("shared"), models_dir=models_dir(), strategy="fake", lan=True, token=TOKEN,
        requests_per_s=1e6, request_burst=10**6,
    )  # fmt: skip
    with open_app(settings) as app:
        yield Owner(app)


def test_a_snapshot_stays_and_a_live_link_follows_the_chat(owner):
    chat = owner.chat("Why do birds sit there?", "**No current** flows.", system_prompt="Be a hidden prompt.")
    snapshot, live = owner.share(chat, "snapshot"), owner.share(chat, "live")
    last = owner.store.branch(chat)[-1].id
    owner.store.add_message(chat, last, Message(Role.USER, "And at night?"))
    owner.store.rename(chat, "Renamed")
    for path in (snapshot, live):
        page = owner.read(path)
        assert "<strong>No current</strong>" in page and "Why do birds sit there?" in page
        assert "hidden prompt" not in page and "secret thought" not in page and chat not in page
    assert "And at night?" in owner.read(live) and "And at night?" not in owner.read(snapshot)
    assert "Renamed" in owner.read(live) and "Wires" in owner.read(snapshot)


def test_the_page_requests_only_its_style_and_is_not_cached(owner):
    path = owner.share(owner.chat("Why?", "Because."), "snapshot")
    answer = owner.stranger(path)
    assert "Set-Cookie" not in answer.headers and answer.headers["Cache-Control"] == "no-store"
    assert "noindex" in answer.headers["X-Robots-Tag"] and answer.headers["Referrer-Policy"] == "no-referrer"
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = answer.get_data(as_text=True)
    assert re.findall(r'(?:href|src|action)="([^"]*)"', page) == ["/shared/style.css"] and "<script" not in page
    style = owner.stranger("/shared/style.css")
    assert style.status_code == 200 and ".shared-question" in style.text and "@media print" in style.text


def test_the_link_opens_no_other_address(owner):
    chat = owner.chat("Why?", "Because.")
    path = owner.share(chat, "live")
    secret = path.rpartition("/")[2]
    for other in ("/", f"/chat/{chat}", f"/chat/{chat}/export.md", "/shared", "/static/css/tokens.css", "/v1/models"):
        assert owner.stranger(other).status_code == 401, other
        assert owner.stranger(other, key=secret).status_code == 401, other
    assert owner.stranger(f"/?token={secret}").status_code == 401
    assert owner.stranger(f"{path}/end", "POST").status_code == 401
    assert owner.stranger("/shared", "POST", data={"chat": chat}).status_code == 401


def test_formulas_have_their_font_for_a_stranger_too(owner):
    path = owner.share(owner.chat("How long is it?", r"$$\sqrt{\frac{a}{b}}$$"), "snapshot")
    page = owner.stranger(path)
    style = owner.stranger(re.search(r'"stylesheet" href="([^"]+)"', page.text)[1])
    assert "<math" in page.text and "font-src 'self'" in page.headers["Content-Security-Policy"]
    [named] = re.findall(r'url\("([^"]+)"\)', style.text)
    font = owner.stranger(f"/shared/{named}")
    assert font.status_code == 200 and font.mimetype == "font/woff2" and font.data[:4] == b"wOF2"


def test_an_ended_link_and_one_of_a_deleted_chat_open_nothing(owner):
    chat = owner.chat("Why?", "Because.")
    ended, left = owner.share(chat, "snapshot"), owner.share(chat, "snapshot")
    assert owner.client.post(f"{ended}/end", base_url=BASE, headers=ORIGIN).status_code == 303
    gone = owner.stranger(ended)
    assert gone.status_code == 404 and says(gone.text, "shared.gone") and "rail" not in gone.text
    assert owner.read(left)
    owner.store.delete(chat)
    assert owner.stranger(left).status_code == 404
    owner.store.restore(chat)
    assert owner.read(left)
    assert owner.stranger("/shared/" + "x" * 500).status_code == 404


def test_the_owner_sees_every_link_with_an_address_others_can_use(owner):
    chat = owner.chat("Why?", "Because.")
    path = owner.share(chat, "live")
    page = owner.client.get(f"/shared?chat={chat}", base_url=BASE).text
    assert f'data-share="{path.rpartition("/")[2]}"' in page and says(page, "shared.of", title="Wires")
    assert re.search(rf'<code class="code">http://[^"<]*{re.escape(path)}</code>', page)
    missing = owner.client.post("/shared", base_url=BASE, data={"chat": "nothing"}, headers=ORIGIN)
    assert missing.status_code == 404


class Dangers(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "iframe", "object", "embed", "form", "base", "style", "video", "audio"):
            self.found.append(tag)
        for name, value in attributes:
            is_link = name in ("href", "src", "xlink:href", "action") and ":" in (value or "").partition("/")[0]
            if name.startswith("on") or (is_link and not re.match(r"(https?|mailto):", value)):
                self.found.append(f"{tag} {name}={value}")


def test_what_a_hostile_model_wrote_is_inert(owner):
    texts = [text for answer in HOSTILE for text in (answer, answer)]
    page = owner.read(owner.share(owner.chat(*texts), "snapshot"))
    dangers = Dangers()
    dangers.feed(page)
    assert page.count("<article") > len(HOSTILE) and dangers.found == []


def test_a_long_chat_is_read_in_parts(owner, monkeypatch):
    monkeypatch.setattr("webapp.web.shared.MESSAGES", 4)
    path = owner.share(owner.chat(*(f"line {number}." for number in range(10))), "snapshot")
    assert "line 3." in owner.read(path) and "line 4." not in owner.read(path)
    page = owner.read(f"{path}?first=4")
    assert "line 7." in page and 'href="?first=0"' in page and 'href="?first=8"' in page
    assert owner.stranger(f"{path}?first=999999").status_code == 200
