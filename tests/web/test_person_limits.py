"""People on one server: who waits, for how long, and the error for a person over a limit."""

import threading
from types import SimpleNamespace

import pytest

from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.chat.running_roost import fake_strategy, models_dir
from tests.web.owner import owner_client
from webapp.chat.messages import ContentDelta, Waiting
from webapp.engine.scheduler import Scheduler
from webapp.services.limits import Limits, person_of
from webapp.settings import Settings
from webapp.web.api import answering
from webapp.web.api.answering import StreamWriter, stream
from webapp.web.api.calls import Record

HOME = "http://127.0.0.1"


@pytest.fixture
def app(tmp_path):
    settings = Settings(
        data_dir=tmp_path, models_dir=models_dir(), strategy=fake_strategy("Hello there."), lan=True,
        token="a-token-for-tests", max_sequences=1, requests_per_s=1e6,
    )  # fmt: skip
    with open_app(settings) as app:
        yield app


class Guest:
    def __init__(self, app, name):
        self.app, self.person = app, app.extensions["people"].add(kind="guest", name=name)
        self.token = app.extensions["api_tokens"].make(name, ("chat",), self.person.id)

    def ask(self, **more):
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, **more}
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.app.test_client(use_cookies=False).post(
            "/v1/chat/completions", base_url=HOME, json=body, headers=headers
        )

    def limit(self, **limits):
        self.app.extensions["quota"].set(self.person.id, Limits(**limits))


def test_thirty_requests_of_one_person_let_one_of_another_through(app, gate, monkeypatch):
    gate.clear()
    greedy, modest, order, admit = Guest(app, "Ada"), Guest(app, "Ben"), [], Scheduler.admit

    def noted(self):
        admitted = admit(self)
        order.extend(person_of(sequence.request.client) for sequence in admitted)
        return admitted

    monkeypatch.setattr(Scheduler, "admit", noted)
    manager, statuses = app.extensions["model_manager"], []

    def ask(guest):
        statuses.append(guest.ask().status_code)

    def begin(guest):
        before = manager.status().running + manager.status().waiting
        thread = threading.Thread(target=ask, args=(guest,))
        thread.start()
        wait_until(lambda: manager.status().running + manager.status().waiting > before)
        return thread

    threads = [begin(greedy) for _ in range(30)]
    threads.append(begin(modest))
    gate.set()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 31 and order.count(greedy.person.id) == 30
    assert order.index(modest.person.id) <= 2, "one had the slot, one may have been given it meanwhile"


def test_a_person_at_the_limit_of_answers_gets_an_error(app, gate):
    gate.clear()
    guest, other, found = Guest(app, "Ada"), Guest(app, "Ben"), []
    guest.limit(answers=1)
    first = threading.Thread(target=lambda: found.append(guest.ask().status_code))
    first.start()
    status = app.extensions["model_manager"].status
    wait_until(lambda: status().running + status().waiting == 1)
    refused = guest.ask()
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "person_busy")
    second = threading.Thread(target=lambda: found.append(other.ask().status_code))
    second.start()
    gate.set()
    first.join(60)
    second.join(60)
    assert found == [200, 200] and guest.ask().status_code == 200


def test_tokens_of_today_and_the_longest_answer(app):
    guest = Guest(app, "Ada")
    guest.limit(day_tokens=10, answer_tokens=3)
    answer = guest.ask(max_tokens=8).json
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (3, "length")
    wait_until(lambda: app.extensions["quota"].used_today(guest.person.id) >= 10)
    refused = guest.ask()
    assert refused.json["error"]["code"] == "person_tokens_used" and int(refused.headers["Retry-After"]) > 1


def test_the_owner_sets_limits_on_the_page_of_people(app):
    guest, owner = Guest(app, "Ada"), owner_client(app)
    quota, url = app.extensions["quota"], f"/people/{guest.person.id}/limits"

    def save(**fields):
        return owner.post(url, base_url=HOME, headers={"Origin": HOME}, data=fields).status_code

    assert save(answers="2", day_tokens="", answer_tokens="0") == 303
    assert quota.own(guest.person.id) == Limits(2, None, 0)
    assert 'name="answers" value="2"' in owner.get("/people", base_url=HOME).text
    for wrong in ("-1", "many", "1.5", "9" * 13, "٣x"):
        assert save(answers=wrong) == 422
    assert quota.own(guest.person.id) == Limits(2, None, 0)


class Waits:
    """A completion in the queue: two are before it, then one, then it is answered."""

    record = Record("a route", "an address")
    completion = SimpleNamespace(has_more=False)

    def events(self):
        for ahead in (2, 1):
            yield 0, Waiting("queued", ahead)
            yield None
        yield 0, ContentDelta("Hello")

    def close(self):
        pass


class Words(StreamWriter):
    def write(self, number, event):
        yield event.text.encode() if isinstance(event, ContentDelta) else b""


def test_a_stream_that_waits_reports_its_place(app, monkeypatch):
    monkeypatch.setattr(answering, "HEADERS_AFTER_S", -1.0)
    monkeypatch.setattr(answering, "COMMENT_EVERY_S", -1.0)
    with app.test_request_context("/v1/chat/completions"):
        waiting = stream(Waits(), Words())
        assert waiting.headers["X-Roost-Queue-Ahead"] == "2"
        pieces = [piece.decode() for piece in waiting.response]
    told = [piece for piece in pieces if piece.startswith(":")]
    assert "2" in told[0] and "1" in told[-1] and pieces[-1] == "Hello"
    monkeypatch.setattr(answering, "HEADERS_AFTER_S", 60.0)
    with app.test_request_context("/v1/chat/completions"):
        assert "X-Roost-Queue-Ahead" not in stream(Waits(), Words()).headers
