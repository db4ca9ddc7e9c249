"""Eight people at the bundled model: nobody starves, nobody gets another's words, a dead engine harms no chat."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.acceptance.served_roost import QUIET, STARTER, Page, ServedRoost

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STARTER.exists(), reason="the bundled model models/roost-starter-v7.safetensors is missing"),
]
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
        page.frames(120)  # the model is loaded now
        page.close()
        yield served


def ask(roost: ServedRoost, question: str, **options: str) -> Page:
    page = roost.page()
    page.send(question, **{"max_tokens": "60", **QUIET, **options})
    return page


def finished(page: Page) -> Page:
    page.frames(120)
    return page


def test_eight_at_once_read_what_each_would_alone(roost: ServedRoost):
    alone = [finished(ask(roost, question)).answer() for question in QUESTIONS]
    pages = [ask(roost, question) for question in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        together = [page.answer() for page in pool.map(finished, pages)]
    assert [a["token_ids"] for a in together] == [a["token_ids"] for a in alone]
    assert [a["content"] for a in together] == [a["content"] for a in alone]
    assert all(a["content"] for a in alone)


def test_nobody_starves(roost: ServedRoost, record_property):
    """Eight people who ask again as soon as they are answered get about as many tokens each."""
    pages = [ask(roost, question, temperature="1") for question in QUESTIONS]
    end = time.monotonic() + 10

    def talk(page: Page) -> int:
        page.frames(end - time.monotonic())
        while time.monotonic() < end:
            page.send(QUESTIONS[0])
            page.frames(end - time.monotonic())
        return page.tokens()

    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(talk, pages))
    for page in pages:
        page.stop()
        page.close()
    record_property("tokens_in_10_s", tokens)
    print("tokens in 10 s:", tokens)
    assert max(tokens) / min(tokens) <= 1.5


def has_begun(page: Page) -> bool:
    """There are words of its answer: the text of a first token may be held back."""
    return page.chat_id != "" and page.tokens() > 0 and page.answer()["content"] != ""


def test_a_killed_engine_fails_every_turn_clearly_and_the_next_message_works(roost: ServedRoost):
    pages = [ask(roost, question) for question in QUESTIONS]
    while not all(has_begun(page) for page in pages):
        for page in pages:
            page.frames(0.02)
    engine = roost.engine()
    assert engine is not None
    os.kill(engine.pid, signal.SIGKILL)
    streaming = pages
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(finished, streaming))
    broken = [answer for answer in (page.answer() for page in streaming) if answer["status"] != "complete"]
    assert len(broken) >= 2
    assert {answer["status"] for answer in broken} == {"failed"}
    assert {answer["error"]["code"] for answer in broken} == {"engine_crashed"}
    assert all(answer["content"] for answer in broken), "what was written is kept"
    again = finished(ask(roost, QUESTIONS[0])).answer()
    assert again["status"] == "complete" and again["content"]


def test_visitors_who_vanish_leave_nothing_behind(roost: ServedRoost, record_property):
    visits = int(os.environ.get("ROOST_VISITS", "60"))
    crowd = [ask(roost, question, max_tokens="8") for question in QUESTIONS * 4]  # fills the pools that are kept
    for page in crowd:
        page.frames(0.2)
        page.close()
    time.sleep(5)
    before = roost.footprint()
    for number in range(visits):
        page = ask(roost, QUESTIONS[number % 8], max_tokens="12")
        page.frames(0.02)
        page.vanish() if number % 2 else page.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and roost.footprint() > before:
        time.sleep(1)
    after = roost.footprint()
    record_property("footprint", {"before": before, "after": after, "visits": visits})
    print("descriptors, threads, processes:", before, after, "visits", visits)
    assert all(now <= then + 2 for now, then in zip(after, before, strict=True))


def test_nothing_is_left_when_the_server_is_killed(tmp_path: Path):
    roost = ServedRoost(tmp_path)
    finished(ask(roost, QUESTIONS[0], max_tokens="4"))
    engine = roost.engine()
    assert engine is not None
    roost.process.kill()
    _, alive = psutil.wait_procs([engine], timeout=10)
    assert not alive
