"""The chat page's frames over HTTP requests: all of them once and in order, even if requests are lost."""

import json
import urllib.error
import urllib.request

import pytest

from tests.errors import raises_code
from tests.web.chat.running_roost import shown_text
from webapp.web.chat import polling
from webapp.web.chat.commands import FrameFields
from webapp.web.chat.polling import LEFT_AFTER_S, PageLeft, PolledPage, frames_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Heard:
    def __init__(self):
        self.texts = []

    def take(self, text):
        self.texts.append(text)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def page(clock):
    page = PolledPage("session", "127.0.0.1", clock)
    page.socket = Heard()
    return page


def test_a_frame_is_repeated_until_it_was_seen(page):
    page.send("a")
    page.send("b")
    assert page.unseen(0, 0) == [(1, "a"), (2, "b")] == page.unseen(0, 0)
    page.send("c")
    assert page.unseen(1, 0) == [(2, "b"), (3, "c")] and page.unseen(3, 0) == []


def test_what_a_page_repeats_is_done_once_and_in_order(page):
    page.take([(1, "a"), (2, "b")])
    page.take([(1, "a"), (2, "b"), (3, "c")])
    assert page.socket.texts == ["a", "b", "c"] and page.taken == 3


def test_a_page_that_nobody_asks_for_has_left(page, clock):
    clock.now = LEFT_AFTER_S
    assert not page.has_left
    clock.now += 1
    assert page.has_left
    with pytest.raises(PageLeft):
        page.send("a")


def test_a_page_that_never_says_what_it_saw_is_given_up(page, monkeypatch):
    monkeypatch.setattr(polling, "MAX_KEPT_BYTES", 10)
    page.send("x" * 11)
    with pytest.raises(PageLeft):
        page.send("y")
    assert page.has_left


@pytest.mark.parametrize("frames", [None, {}, [1], [[1]], [["1", "a"]], [[True, "a"]], [[1, 2]], [[1, "a"]] * 101])
def test_what_is_no_list_of_frames_is_refused(frames):
    with raises_code("bad_frame"):
        frames_of(FrameFields({"frames": frames}))


class PollingClient:
    """A page that polls."""

    def __init__(self, roost):
        self.roost = roost
        self.page, self.seen, self.number = "", 0, 0

    def ask(self, *frames, page=None, origin=None):
        numbered = []
        for frame in frames:
            self.number += 1
            numbered.append([self.number, json.dumps(frame)])
        body = json.dumps({"page": self.page if page is None else page, "seen": self.seen, "frames": numbered})
        request = self.roost.request(
            "/chat/poll", body.encode(), Origin=origin or self.roost.url, Content_Type="application/json"
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def until(self, is_wanted, *frames):
        found = []
        for _ in range(600):
            said = self.ask(*frames)
            frames = ()
            self.page = said["page"]
            for number, text in said["frames"]:
                assert number == self.seen + 1
                self.seen = number
                found.append(json.loads(text) if text[0] == "{" else text)
                if is_wanted(found[-1]):
                    return found
        raise AssertionError(found)


def is_type(kind):
    return lambda frame: isinstance(frame, dict) and frame["type"] == kind


def test_a_question_is_asked_and_answered_over_requests(roost):
    page = PollingClient(roost)
    page.page = page.ask()["page"]
    sent = {"do": "send", "chat": "", "text": "Why?", "sent_as": "c1"}
    frames = page.until(is_type("finished"), {"do": "open", "chat": "", "shown": []}, sent)
    assert [frame["sent_as"] for frame in frames if is_type("accepted")(frame)] == ["c1"]
    assert "<strong>no current</strong>" in shown_text(frames)


def test_a_page_unknown_to_the_server_is_asked_to_reload(roost):
    said = PollingClient(roost).ask({"do": "send", "chat": "", "text": "Lost?"}, page="gone")
    assert said == {"page": "", "taken": 0, "frames": []}
    assert "Lost?" not in [chat.title for chat in roost.store.list()]


def test_another_site_cannot_ask(roost):
    with pytest.raises(urllib.error.HTTPError) as caught:
        PollingClient(roost).ask(origin="http://evil.example")
    assert caught.value.code == 403


def test_what_is_no_frame_is_refused_with_its_reason(roost):
    request = roost.request("/chat/poll", b"[", Origin=roost.url, Content_Type="application/json")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400 and json.load(caught.value)["error"]["code"] == "bad_frame"
