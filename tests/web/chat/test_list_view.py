import html
import io
import json
import re
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from tests.wording import says
from webapp.storage.records import ChatSummary
from webapp.web.chat.sidebars import HITS, IN_FOLDER, ROWS, by_age, excerpt_parts


def test_chats_are_grouped_by_the_calendar_not_by_hours():
    now = datetime(2026, 3, 1, 0, 30)
    times = [now, now - timedelta(hours=1), now - timedelta(hours=26)]
    rows = [ChatSummary(str(i), "", 0, when.timestamp()) for i, when in enumerate(times)]
    found = {age: [row.id for row in group] for age, group in by_age(rows, now.timestamp()).items()}
    assert found == {"today": ["0"], "yesterday": ["1"], "earlier": ["2"]}


def test_chats_are_grouped_by_the_calendar_of_the_browser(roost):
    now = datetime(2026, 3, 1, 0, 30, tzinfo=timezone.utc).timestamp()
    row = ChatSummary("1", "", 0, now - 3600)
    ages = {name: by_age([row], now, ZoneInfo(name)) for name in ("UTC", "Asia/Tokyo")}
    assert ages["UTC"]["yesterday"] and ages["Asia/Tokyo"]["today"]
    for zone in ("Asia/Tokyo", "../../etc/passwd", "Nowhere/Land", "%00"):
        assert 'id="chat-list"' in roost.get("/", Cookie=f"{roost.cookie}; roost_zone={zone}")


def test_pinned_chats_and_folders_are_first_in_the_list(roost):
    chats = [roost.store.create(title=f"Placed {number}") for number in range(IN_FOLDER + 3)]
    roost.post("/chat/do", do=f"pin_chat:{chats[0].id}")
    for chat in chats[1:]:
        roost.post("/chat/do", do=f"move_chat:{chat.id}", folder="<b>Work</b>")
    page = roost.get("/")
    order = [page.index(f"Placed {number}<") for number in (0, IN_FOLDER + 2)]
    assert order == sorted(order) and "<b>Work" not in page and "&lt;b&gt;Work" in page
    assert "Placed 1<" not in page and says(page, "chat.list.in_folder", count=2)
    assert "Placed 1<" in roost.get(f"/chat/{chats[1].id}"), "the chat that is shown is always there"
    for chat in chats:
        roost.store.delete(chat.id)


def test_an_archived_chat_leaves_the_list_and_can_be_restored(roost):
    chat = roost.store.create(title="Herring gull")
    _, page = roost.post("/chat/do", do=f"archive_chat:{chat.id}", chat=chat.id)
    undo = f"unarchive_chat:{chat.id}"
    assert undo in page and f'href="/chat/{chat.id}"' not in roost.get("/")
    assert "Herring gull" in roost.get("/chats/all?archived=1") and "Herring gull" not in roost.get("/chats/all")
    roost.post("/chat/do", do=undo)
    assert f'href="/chat/{chat.id}"' in roost.get("/")


def test_many_chats_are_moved_kept_and_deleted_at_once(roost):
    chats = [roost.store.create(title=f"Wagtail {number}/x") for number in range(3)]
    ticked = [("chat", chat.id) for chat in chats[:2]]

    def do(*fields, **shown):
        body = urllib.parse.urlencode([*ticked, *fields, *((f"shown_{k}", v) for k, v in shown.items())]).encode()
        with urllib.request.urlopen(roost.request("/chats/all/do", body, Origin=roost.url)) as answer:
            return answer.url, answer.read()

    address, page = do(("do", "move"), ("folder", "Birds"), q="wagtail")
    assert "q=wagtail" in address and page.decode().count("Birds</span>") == 2
    assert roost.get("/chats/all?folder=Birds").count('name="chat"') == 2
    _, packed = do(("do", "export"))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        assert sorted(names) == ["Wagtail 0x.json", "Wagtail 0x.md", "Wagtail 1x.json", "Wagtail 1x.md"]
        assert json.loads(archive.read("Wagtail 1x.json"))["chat"]["title"] == "Wagtail 1/x"
    _, page = do(("do", "delete"))
    undo = re.search(r'value="(restore:[\d.e]+)"', page.decode())[1]
    assert "Wagtail 0" not in roost.get("/chats/all") and "Wagtail 2" in roost.get("/chats/all")
    roost.post("/chats/all/do", do=undo)
    assert roost.get("/chats/all?q=wagtail").count('name="chat"') == 3
    assert says(roost.post("/chats/all/do", do="delete")[1], "chat.all.done.none")
    for wrong in ("banana", "restore:x", ""):
        with pytest.raises(urllib.error.HTTPError) as refused:
            roost.post("/chats/all/do", do=wrong)
        assert refused.value.code == 400


def test_all_chats_are_shown_by_the_hundred(roost):
    for number in range(ROWS + 1):
        roost.store.create(title=f"Dunlin {number}")
    first = roost.get("/chats/all?q=dunlin")
    following = html.unescape(re.search(r'href="([^"]+)" rel="next"', first)[1])
    assert first.count('name="chat"') == ROWS and roost.get(following).count('name="chat"') == 1
    for odd in ("first=-5", "first=x", "first=99999999999999999999"):
        assert roost.get(f"/chats/all?{odd}")


def test_an_excerpt_is_cut_at_its_matches():
    parts = excerpt_parts("a bird sings", ((2, 6),))
    assert parts == [("a ", False), ("bird", True), (" sings", False)]
    assert excerpt_parts("bird", ((0, 4),)) == [("bird", True)]


def test_a_search_that_finds_more_than_it_shows_says_so(roost):
    for number in range(HITS + 1):
        roost.store.create(title=f"Capercaillie {number}")
    found = roost.get("/chats?q=capercaillie", **{"HX-Request": "true"})
    assert says(found, "chat.list.found_newest", count=HITS) and found.count('class="hit"') == HITS
    one = roost.get(f"/chats?q=capercaillie+{HITS}", **{"HX-Request": "true"})
    assert says(one, "chat.list.found", count=1)


def test_all_chats_are_filtered_by_day_pin_preset_and_model(roost):
    preset = roost.app.extensions["presets"].create("Filter", {})
    chats = {name: roost.store.create(title=f"Filtered {name}", preset_id=preset.id) for name in ("old", "new")}
    roost.store.place([chats["old"].id], is_pinned=True)
    with roost.app.extensions["database"].transaction() as connection:
        day = datetime(2020, 5, 17, 23, 30, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()
        connection.execute("UPDATE chats SET updated_at = ? WHERE id = ?", (day, chats["old"].id))
    answered = roost.answered("Filtered by its model")
    model = roost.store.branch(answered)[-1].model
    tokyo = {"Cookie": f"{roost.cookie}; roost_zone=Asia/Tokyo"}

    def found(**asked):
        page = roost.get(f"/chats/all?q=Filtered&{urllib.parse.urlencode(asked)}", **tokyo)
        return {name for name in ("old", "new", "by its model") if f">Filtered {name}<" in page}

    assert found() == {"old", "new", "by its model"} and model
    assert found(since="2020-05-17", until="2020-05-17") == {"old"} and found(until="2020-05-16") == set()
    assert found(since="2020-05-18") == {"new", "by its model"} and found(pinned="1") == {"old"}
    assert found(preset=preset.id) == {"old", "new"} and found(model=model) == {"by its model"}
    assert found(since="yesterday", until="9999-12-31", model="<b>") == set()
    assert found(since="' OR 1=1", until="0000-00-00") == {"old", "new", "by its model"}
    for chat in chats.values():
        roost.store.delete(chat.id)
    roost.app.extensions["presets"].delete(preset.id)
