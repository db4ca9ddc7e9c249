"""With a grammar, arguments are streamed as they are written, and their pieces join to the whole, in every dialect and
for any chunks."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from webapp.chat.messages import CallDelta, ContentDelta, ToolCall
from webapp.chat.tool_dialects import G1X_JSON, HERMES, RUNNER_LEGACY, ToolDialect, all_dialects
from webapp.chat.tool_parser import ConstrainedBody, Piece, ToolCallParser

NAMES = ("weather", "get-weather", "f")
TEXTS = (
    "", "Paris", "二 😀 👨‍👩‍👧", "it's", 'say "hi"', "back\\slash", "a\nb\tc", "```", "```json\n{", "</tool_call>",
    "<tool_call>\n{", "<tool_response>", '")\n```', "a=b, c=(d)", "[{(", "}])", "Observation:", "<script>",
)  # fmt: skip
ALL = pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)


def read(dialect: ToolDialect, pieces: list[str], is_held: bool = True) -> tuple[str, list[list[str]], list[Piece]]:
    """(text, [id, name, arguments] of every call, the pieces in order)."""
    ids = itertools.count()
    parser = ToolCallParser(dialect.syntax, NAMES, lambda: f"call_{next(ids)}", is_held)
    found: list[Piece] = []
    for piece in pieces:
        found += parser.feed(piece)
    found += parser.finish()
    text, calls = "", []
    for event in found:
        if isinstance(event, ContentDelta):
            text += event.text
        elif event.name:
            calls.append([event.call_id, event.name, event.arguments])
        else:
            assert event.call_id == calls[-1][0] and event.arguments
            calls[-1][2] += event.arguments
    assert parser.has_called is bool(calls)
    return text, calls, found


def is_begun(event: Piece) -> bool:
    """A call whose arguments follow in pieces."""
    return isinstance(event, CallDelta) and bool(event.name) and not event.arguments


def cut(text: str, rng: random.Random) -> list[str]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randint(0, 12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def value(rng: random.Random, depth: int = 0) -> object:
    if depth < 3 and rng.random() < 0.4:
        size = rng.randint(0, 3)
        if rng.random() < 0.5:
            return [value(rng, depth + 1) for _ in range(size)]
        return {rng.choice(TEXTS): value(rng, depth + 1) for _ in range(size)}
    return rng.choice([rng.choice(TEXTS), rng.randint(-9, 9), rng.random(), True, False, None])


def answer(dialect: ToolDialect, rng: random.Random) -> tuple[str, str, list[ToolCall]]:
    """(the model's output, its text, its calls): spacing as a grammar allows it."""
    made = [
        ToolCall("", rng.choice(NAMES), json.dumps({rng.choice(TEXTS): value(rng) for _ in range(rng.randint(0, 3))}))
        for _ in range(rng.randint(1, dialect.max_calls))
    ]
    before = rng.choice(["", "Let me look.\n\n", "So (see [1]) f `x` it is 5 o'clock:\n"])
    return before + dialect.calls(made), before.rstrip(), made


@ALL
def test_pieces_join_to_the_whole_however_the_answer_is_cut(dialect: ToolDialect) -> None:
    rng = random.Random(f"streamed {dialect.name}")
    for _ in range(120):
        written, text, made = answer(dialect, rng)
        found, calls, _ = read(dialect, [written])
        assert (found, [(call[1], json.loads(call[2])) for call in calls]) == (
            text,
            [(call.name, json.loads(call.arguments)) for call in made],
        )
        assert len({call[0] for call in calls}) == len(calls)
        for pieces in (list(written), cut(written, rng), cut(written, rng)):
            assert read(dialect, pieces)[:2] == (found, calls), pieces
        whole = read(dialect, cut(written, rng), is_held=False)
        assert (whole[0], [(c[1], json.loads(c[2])) for c in whole[1]]) == (
            text,
            [(c[1], json.loads(c[2])) for c in calls],
        )


@ALL
def test_nothing_of_arguments_is_held_back(dialect: ToolDialect) -> None:
    """After each character inside the arguments, everything written so far has been released."""
    written = dialect.calls([ToolCall("", "weather", '{"city":"Paris is a long name of a city"}')])
    _, _, found = read(dialect, list(written))
    begun = next(place for place, event in enumerate(found) if is_begun(event))
    deltas = [event for event in found[begun:] if isinstance(event, CallDelta) and not event.name]
    assert len(deltas) > 30 and all(len(delta.arguments) <= 2 for delta in deltas)


@ALL
def test_an_answer_cut_off_anywhere_loses_nothing(dialect: ToolDialect) -> None:
    """A call that has begun stays a call, with its text so far; other text stays text. Streamed and whole answers are
    equal."""
    rng = random.Random(f"cut {dialect.name}")
    for _ in range(30):
        written, _, _ = answer(dialect, rng)
        for _ in range(8):
            part = written[: rng.randrange(len(written))]
            text, calls, _ = read(dialect, [part])
            assert read(dialect, list(part))[:2] == (text, calls)
            if not calls:
                assert text.rstrip() == part.rstrip()


@pytest.mark.parametrize("is_held", [True, False])
def test_what_closes_a_call_is_no_text_where_the_answer_is_cut_off_in_it(is_held: bool) -> None:
    calls = [ToolCall("", "f", '{"a":{}}'), ToolCall("", "weather", "{}")]
    one, two = G1X_JSON.calls(calls[:1]), G1X_JSON.calls(calls)
    ends = [one[: one.rindex("}") + 1 + more] for more in range(len("\n```"))]
    if is_held:
        ends += [two[:end] for end in range(two.index("},{"), two.index('"arguments":{}'))]
    for written in ends:
        for pieces in ([written], list(written)):
            text, found, _ = read(G1X_JSON, pieces, is_held)
            assert (text, [call[1:] for call in found]) == ("", [["f", '{"a":{}}']]), written


@pytest.mark.parametrize("dialect", [G1X_JSON, HERMES], ids=lambda row: row.name)
def test_a_call_not_in_the_grammars_own_form_is_sent_whole(dialect: ToolDialect) -> None:
    """Other forms are not constrained, so it may turn out not to be a call."""
    for body in (
        "{'name': 'f', 'arguments': {'a': 1}}",
        '{"arguments": {"a": 1}, "name": "f"}',
        '{"id": 1, "name": "f"',
    ):
        written = dialect.calls([ToolCall("", "f", "{}")]).replace('{"name":"f","arguments":{}}', body)
        _, _, found = read(dialect, list(written))
        assert not [event for event in found if is_begun(event)]
        assert read(dialect, list(written))[:2] == read(dialect, list(written), is_held=False)[:2]
    unknown = dialect.calls([ToolCall("", "nobody", "{}")])
    assert read(dialect, list(unknown))[:2] == (unknown, [])


BROKEN = {
    "g1x_json": ['```json\n[{"name":"f","arguments":{}} and so on', '```json\n[{"name":"f","arguments":{}}, 5]\n```'],
    "hermes": ['<tool_call>\n{"name":"f","arguments":{}, "x": 1}\n</tool_call>'],
    "runner_legacy": ['f\n```python\ntool_call("a"= 1) # so\n```'],
}


@pytest.mark.parametrize("written", [text for texts in BROKEN.values() for text in texts])
def test_what_follows_a_call_and_does_not_belong_there_is_text(written: str) -> None:
    [dialect] = [row for row in all_dialects() if written in BROKEN.get(row.name, ())]
    text, calls, _ = read(dialect, [written])
    assert read(dialect, list(written))[:2] == (text, calls)
    assert len(calls) == 1 and json.loads(calls[0][2]) in ({}, {"a": 1}) and text.strip()


def test_line_breaks_inside_a_string_are_escaped() -> None:
    body = ConstrainedBody("f", lambda: "id")
    pieces = body.feed('{"a": "one\ntwo\t\\n"}}')
    assert body.is_over and "".join(p.arguments for p in pieces) == ('{"a": "one\\u000atwo\\u0009\\n"}')


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "free"])
@pytest.mark.parametrize("dialect", [G1X_JSON, HERMES, RUNNER_LEGACY], ids=lambda row: row.name)
def test_a_megabyte_of_arguments_in_small_pieces_takes_linear_time(dialect: ToolDialect, is_held: bool) -> None:
    """Each character is processed once; processing all again for each of the 1,000 pieces would take minutes."""
    text = "it's (a [long] {text} = " * 42_000
    written = dialect.calls([ToolCall("", "f", json.dumps({"text": text}))])
    pieces = [written[at : at + 997] for at in range(0, len(written), 997)]
    _, calls, _ = read(dialect, pieces, is_held)
    assert json.loads(calls[0][2]) == {"text": text}
