"""80 seeded requests, streamed and whole: same text, thinking, reason, counts, logprobs. And what a stream writes at
once.

``ROOST_STREAM_CASES=200`` makes more of them."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from webapp.chat.messages import ContentDelta
from webapp.errors import EngineCrashed
from webapp.web.api.answering import StreamWriter, stream
from webapp.web.api.calls import ClientGone, Record

CASES = int(os.environ.get("ROOST_STREAM_CASES", "80"))
CHAT = "/v1/chat/completions"
STOPS = ["a", "e", "\n", " ", "的", "é", "🐦", "th", "\n\n", "User", "。", "wires. 鸟"]
TEXTS = (
    ">\nWhat is 🐦?\nA bird.\n</think>\nBirds 🐦🐦 sit on wires. 鸟儿很安全。\n\n- one\n- two 👨‍👩‍👧\n\nUser: no",
    "Ünïcödé 𝔘 and   spaces  \n\n\n```\ncode\n```\n\nthe end \n\n",
    " <think>\nHm </thin\n</think> Done. 完成。",
)


def case(number):
    rng = random.Random(number)
    return {
        "messages": [{"role": "user", "content": f"Question {number} 问题"}],
        "seed": number,
        "temperature": rng.choice([0.5, 1, 2]),
        "top_p": rng.choice([0.5, 1]),
        "max_tokens": rng.randint(1, 40) if number % 3 else 90,
        "stop": rng.sample(STOPS, rng.randint(0, 3)) or None,
        "reasoning_effort": rng.choice([None, "minimal", "high"]),
        "logprobs": rng.random() < 0.4,
        "n": rng.choice([1, 1, 1, 2]),
    }


def added_up(events):
    """Chunks combined to the choices of a whole answer."""
    found = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            one = found.setdefault(choice["index"], {"content": "", "reasoning": "", "reason": None, "logprobs": []})
            one["content"] += choice["delta"].get("content") or ""
            one["reasoning"] += choice["delta"].get("reasoning_content") or ""
            one["reason"] = choice["finish_reason"] or one["reason"]
            one["logprobs"] += (choice["logprobs"] or {}).get("content") or []
    return found


def as_added_up(whole):
    return {
        choice["index"]: {
            "content": choice["message"]["content"],
            "reasoning": choice["message"].get("reasoning_content") or "",
            "reason": choice["finish_reason"],
            "logprobs": (choice["logprobs"] or {}).get("content") or [],
        }
        for choice in whole["choices"]
    }


def without_cached(usage):
    return {name: value for name, value in usage.items() if name != "prompt_tokens_details"}


def same(server, asked):
    status, whole = server.post(CHAT, asked)
    assert status == 200, whole
    events = server.events(CHAT, {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]"
    assert added_up(events) == as_added_up(whole), asked
    assert without_cached(events[-2]["usage"]) == without_cached(whole["usage"]), asked
    for choice in whole["choices"]:
        text = choice["message"]["content"]
        assert not any(stop in text for stop in asked["stop"] or ()), (asked, text)
    return whole


@pytest.mark.parametrize("answer", [None, *TEXTS], ids=["noise", "1", "2", "3"])
def test_streamed_and_whole_answers_are_the_same(serve, answer):
    """``noise``: tokens sampled from the whole vocabulary, so that characters are split and stops are anywhere."""
    server = serve(strategy="fake slots=16") if answer is None else serve(answer)
    with ThreadPoolExecutor(4) as pool:
        count = CASES // 2 if answer is None else CASES // 6
        found = list(pool.map(lambda number: same(server, case(number)), range(count)))
    reasons = {choice["finish_reason"] for whole in found for choice in whole["choices"]}
    assert reasons == {"stop", "length"}


class Plain(StreamWriter):
    def write(self, number, event):
        yield event.text.encode()

    def end(self):
        yield b"[end]"

    def error(self, body):
        return f"[{body['error']['code']}]".encode()


class Scripted:
    """A source of rows (text, whether another event is available); None means no news."""

    def __init__(self, *rows):
        self.rows, self.completion, self.has_more = rows, self, False
        self.record = Record("route", "client")
        self.is_closed = False

    def events(self):
        for row in self.rows:
            if isinstance(row, Exception):
                raise row
            if row is not None:
                text, self.has_more = row
            yield None if row is None else (0, ContentDelta(text))

    def close(self):
        self.is_closed = True


@pytest.mark.parametrize(
    ("rows", "writes", "is_gone"),
    [
        ([("a", False), ("b", True), ("c", True), ("d", False), ("e", False)], ["a", "bcd", "e", "[end]"], False),
        ([("a", True), None, ("b", False)], ["a", "b", "[end]"], False),  # the other one was not sent
        ([("a", False), ("b", True)], ["a", "b[end]"], False),
        ([("a", False), ("b", True), EngineCrashed(reason="x")], ["a", "b[engine_crashed]"], False),
        ([("a", False), ("b", True), ClientGone()], ["a"], True),
    ],
)
def test_what_is_there_at_once_is_one_write_and_nothing_is_held_back(server, rows, writes, is_gone):
    answering = Scripted(*rows)
    with server.app.test_request_context(CHAT):
        response = stream(answering, Plain())
        assert [piece.decode() for piece in response.response] == writes
        response.close()
    assert answering.is_closed and answering.record.is_gone is is_gone
