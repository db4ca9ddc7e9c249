"""Personas without a browser: stored, imported as cards, and used in chats."""

import base64
import io
import json
import re
import struct
import zlib

import pytest

from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.chat.running_roost import fake_strategy, models_dir
from tests.web.models.conftest import OWN, Browser
from tests.web.owner import owner_client
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.saved_items import SavedItems
from webapp.web.prompts import KINDS, persona_in

CARD = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {
        "name": "Wren",
        "description": "{{char}} is a small bird.",
        "personality": "curious",
        "scenario": "",
        "first_mes": "Hello, {{user}}!",
        "mes_example": "",
    },
}


def png(**texts):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    found = [chunk(b"tEXt", keyword.encode() + b"\0" + base64.b64encode(text)) for keyword, text in texts.items()]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + b"".join(found) + chunk(b"IEND", b"")


@pytest.fixture
def browser(tmp_path):
    settings = Settings(
        data_dir=tmp_path, models_dir=models_dir(), strategy=fake_strategy("Tweet."), open_browser=False
    )
    with open_app(settings) as app:
        yield Browser(owner_client(app), tmp_path, app)


def stored(browser):
    return SavedItems(browser.app.extensions["database"], KINDS["personas"]).list()


def post_files(browser, path, **form):
    return browser.client.post(path, base_url="http://127.0.0.1", headers=OWN, data=form, follow_redirects=True)


def answered(browser, persona, text, **fields):
    """The messages of a chat with this persona, when it is answered; and its figures."""
    form = {"do": "send", "text": text, "persona": persona, **fields}
    answer = browser.client.post("/chat/do", base_url="http://127.0.0.1", headers=OWN, data=form)
    store, chat_id = ChatStore(browser.app.extensions["database"]), answer.location.rpartition("/")[2]
    wait_until(lambda: store.branch(chat_id)[-1].status == "complete" and store.branch(chat_id)[-1].stats)
    return store.get(chat_id), store.branch(chat_id)


def test_a_card_is_imported_as_a_persona_and_exported():
    for data in (json.dumps(CARD).encode(), json.dumps(CARD["data"]).encode(), png(chara=json.dumps(CARD).encode())):
        name, body, picture = persona_in(data)
        assert (name, body["greeting"]) == ("Wren", "Hello, User!")
        assert body["system_prompt"] == "Wren is a small bird.\nPersonality: curious"
        assert (picture is not None) == data.startswith(b"\x89PNG")
    newer = {**CARD, "data": {**CARD["data"], "name": "Newer"}}
    both = png(chara=json.dumps(CARD).encode(), ccv3=json.dumps(newer).encode())
    assert persona_in(both)[0] == "Newer"


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 100_000, b'{"name": 3}', png(), png(chara=b"no json"), png(chara=b"{}")[:60], b"\xff\xfe"],
)
def test_what_is_no_card_is_refused(browser, data):
    answer = post_files(browser, "/personas/import", file=(io.BytesIO(data), "card.png"))
    assert answer.status_code == 422 and 'data-code="item_invalid"' in answer.text and stored(browser) == []


def test_a_persona_is_saved_with_its_picture_exported_deleted_and_restored(browser):
    given = {"name": "Wren", "emoji": "🐦", "system_prompt": "You are a bird.", "greeting": "Hi"}
    answer = post_files(browser, "/personas", **given, picture=(io.BytesIO(png()), "a.png"))
    item = stored(browser)[0]
    assert answer.status_code == 200 and item.has_picture and f"/personas/{item.id}/picture" in answer.text
    assert browser.client.get(f"/personas/{item.id}/picture", base_url="http://127.0.0.1").mimetype == "image/png"
    bad = post_files(browser, "/personas", name="x", picture=(io.BytesIO(b"<svg onload=1>"), "a.png"))
    assert bad.status_code == 422 and len(stored(browser)) == 1
    card = browser.get(f"/personas/{item.id}/export.json")[1]
    name, body, _ = persona_in(card.encode())
    assert (name, body) == ("Wren", dict(item.body))
    page = browser.post("/personas", id=item.id, **{**given, "name": "Robin"}, no_picture="1")[1]
    assert "/picture" not in page and stored(browser)[0].name == "Robin"
    page = browser.post(f"/personas/{item.id}/delete")[1]
    browser.post("/personas/do", do=re.search(r'value="(restore:\w+)"', page)[1])
    assert stored(browser)[0].id == item.id
    assert browser.post("/personas", name=" ")[0] == 422


def test_a_chat_with_a_persona_greets_shows_it_and_the_next_one_reads_only_the_question(browser):
    prompt = "You are a wren. " * 20
    browser.post("/personas", name="Wren", emoji="🐦", system_prompt=prompt, greeting="Hello from the hedge!")
    item = stored(browser)[0]
    page = browser.get(f"/?persona={item.id}")[1]
    assert "Hello from the hedge!" in page and prompt.strip() in page and f'name="persona" value="{item.id}"' in page
    chat, first = answered(browser, item.id, "Who are you?")
    assert [row.message.content for row in first] == ["Hello from the hedge!", "Who are you?", "Tweet."]
    assert (chat.persona_id, chat.system_prompt) == (item.id, prompt.strip())
    assert "🐦" in browser.get(f"/chat/{chat.id}")[1]
    _, second = answered(browser, item.id, "Do you sing?")
    read = second[-1].stats["prompt_tokens"] - second[-1].stats["cached_tokens"]
    assert read < 30 < second[-1].stats["cached_tokens"], second[-1].stats
    browser.post(f"/personas/{item.id}/delete")
    assert "🐦" not in browser.get(f"/chat/{chat.id}")[1], "the chat goes on without its face"
    chat, messages = answered(browser, item.id, "Hello?")
    assert chat.persona_id == "" and messages[0].message.content == "Hello?"


def test_its_prompt_is_read_into_a_state_that_its_chats_begin_from(browser):
    browser.post("/personas", name="Wren", system_prompt="You are a wren. " * 8)
    item = stored(browser)[0]
    assert browser.post(f"/personas/{item.id}/bake")[0] == 200
    name = stored(browser)[0].body["state"]
    assert name
    jobs = browser.app.extensions["jobs"]
    wait_until(lambda: all(job.is_over for job in jobs.jobs()))
    path = models_dir() / "states" / name
    try:
        assert path.exists(), jobs.jobs()[0].error
        chat, messages = answered(browser, item.id, "Hello")
        assert chat.state == name
        assert messages[-1].stats["cached_tokens"] > 20, "the prompt was in the state already"
    finally:
        path.unlink(missing_ok=True)
    chat, _ = answered(browser, item.id, "Hello again")
    assert chat.state is None, "the file is gone: the prompt is read as any other"
