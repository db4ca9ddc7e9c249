"""Eight people use the bundled model at once: all get answers, none gets another's text, a crashed engine harms no
chat."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.acceptance.served_roost import QUIET, STARTER, Page, ServedRoost
from tests.waiting import wait_until
from tests.web.chat.running_roost import fake_strategy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STARTER.exists(), reason="the bundled model models/roost-starter-v7.safetensors is missing"),
]
TOKENS = 300
"""At 100 per second. Those of the first answer before the last is requested are few in comparison, even on a busy
machine."""
QUESTIONS = [
    "Hello, who are you?",
    "How do I load my own model in Roost?",
    "你好，你是谁？",
    "Tell me about birds.",
    "What is 3 + 4?",
    "怎样在 Roost 里加载模型？",
    "Repeat after me: heron 4711",
    "Spell the word river.",
]


@pytest.fixture(scope="module")
def roost(tmp_path_factory: pytest.TempPathFactory):
    with ServedRoost(tmp_path_factory.mktemp("data")) as served:
        page = served.page()
        page.send("Hello", max_tokens="4", **QUIET)
        page.finish()  # loads the model
        page.close()
        yield served


def ask(roost: ServedRoost, question: str, **options: str) -> Page:
    page = roost.page()
    page.send(question, **{"max_tokens": "60", **QUIET, **options})
    return page


def test_eight_at_once_prefill_as_many_tokens_as_separately(roost: ServedRoost):
    alone = [ask(roost, question).finish().answer() for question in QUESTIONS]
    pages = [ask(roost, question) for question in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        together = [page.answer() for page in pool.map(Page.finish, pages)]
    assert [a["token_ids"] for a in together] == [a["token_ids"] for a in alone]
    assert [a["content"] for a in together] == [a["content"] for a in alone]
    assert all(a["content"] for a in alone)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory):
    """Answers never end: those of the bundled model are so short that some would be complete before all have begun."""
    strategy = fake_strategy("Herons wade. ", repeat=0, delay_ms=10)
    with ServedRoost(tmp_path_factory.mktemp("endless"), "--strategy", strategy) as served:
        yield served


def ask_all(roost: ServedRoost) -> list[Page]:
    """Eight pages whose answers have begun and continue."""
    pages = [ask(roost, question, max_tokens="6000") for question in QUESTIONS]
    while not all(has_begun(page) for page in pages):
        for page in pages:
            page.frames(0.02)
    return pages


def test_nobody_starves(endless: ServedRoost, record_property):
    """Eight simultaneous answers get about the same number of tokens."""
    pages = ask_all(endless)
    wait_until(lambda: min(page.tokens() for page in pages) >= TOKENS)
    earlier = [page.tokens() for page in pages]
    later = [page.tokens() for page in pages]
    for page in pages:
        page.stop()
        page.close()
    record_property("tokens", [earlier, later])
    assert max(earlier) <= 1.5 * min(later), "none is asked before its turn, however slowly they are asked"


def has_begun(page: Page) -> bool:
    """Its answer has text; the text of a first token may be held back."""
    return page.chat_id != "" and page.tokens() > 0 and page.answer()["content"] != ""


def test_a_killed_engine_fails_every_turn_clearly_and_the_next_message_works(endless: ServedRoost):
    pages = ask_all(endless)
    engine = endless.engine()
    assert engine is not None
    os.kill(engine.pid, signal.SIGKILL)
    with ThreadPoolExecutor(8) as pool:
        broken = [page.answer() for page in pool.map(Page.finish, pages)]
    assert {answer["status"] for answer in broken} == {"failed"}
    assert {answer["error"]["code"] for answer in broken} == {"engine_crashed"}
    assert all(answer["content"] for answer in broken), "what was written is kept"
    again = ask(endless, QUESTIONS[0]).finish().answer()
    assert again["status"] == "complete" and again["content"]


def test_clients_that_disappear_leave_nothing_behind(roost: ServedRoost, record_property):
    visits = int(os.environ.get("ROOST_VISITS", "40"))
    # fills the thread and connection pools
    crowd = [ask(roost, question, max_tokens="8") for question in QUESTIONS * 4]
    for page in crowd:
        page.frames(0.2)
        page.close()
    before = at_rest(roost)
    for number in range(visits):
        page = ask(roost, QUESTIONS[number % 8], max_tokens="12")
        page.frames(0.02)
        page.vanish() if number % 2 else page.close()
    most, deadline = tuple(value + 2 for value in before), time.monotonic() + 60
    after = roost.footprint()
    while not fits(after, most) and time.monotonic() < deadline:
        time.sleep(0.5)
        after = roost.footprint()
    record_property("footprint", {"before": before, "after": after, "visits": visits})
    print("descriptors, threads, processes:", before, after, "visits", visits)
    assert fits(after, most)


def at_rest(roost: ServedRoost) -> tuple[int, ...]:
    """The footprint once it has not shrunk for two seconds."""
    found, since = roost.footprint(), time.monotonic()
    while time.monotonic() < since + 2:
        time.sleep(0.2)
        now = roost.footprint()
        if now != found and fits(now, found):
            since = time.monotonic()
        found = now
    return found


def fits(found: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return all(value <= limit for value, limit in zip(found, most, strict=True))


def test_nothing_is_left_when_the_server_is_killed(tmp_path: Path):
    roost = ServedRoost(tmp_path)
    ask(roost, QUESTIONS[0], max_tokens="4").finish()
    engine = roost.engine()
    assert engine is not None
    roost.process.kill()
    _, alive = psutil.wait_procs([engine], timeout=60)
    assert not alive
