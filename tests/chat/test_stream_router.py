import random

import pytest

from webapp.chat.formats import G1X
from webapp.chat.messages import ContentDelta, ReasoningDelta
from webapp.chat.stream_router import StreamRouter, held_length, joined

STOPS = G1X.stop_strings


def routed(router, chunks):
    deltas = [delta for chunk in chunks for delta in router.feed(chunk)] + router.finish()
    content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    return reasoning, content, router.stopped_by


def test_an_answer_loses_the_space_it_begins_with():
    assert routed(StreamRouter(STOPS), [" Hel", "lo"]) == ("", "Hello", None)


def test_indentation_survives_leading_blank_lines():
    assert routed(StreamRouter(STOPS), ["\n\n    x = 1"]) == ("", "    x = 1", None)


def test_a_stop_never_shows_not_even_in_part():
    router = StreamRouter(STOPS)
    shown = [delta.text for chunk in [" Hi.", "\n", "\nUs", "er", ":", " more"] for delta in router.feed(chunk)]
    assert shown == ["Hi."]
    assert router.finish() == []
    assert router.stopped_by == "\n\nUser:"
    assert router.released_chars == len(" Hi.")


def test_what_only_looked_like_a_stop_is_not_lost():
    assert routed(StreamRouter(STOPS), [" Hi.\n\nUser", " interfaces"]) == ("", "Hi.\n\nUser interfaces", None)
    assert routed(StreamRouter(STOPS), [" Hi.\n\nUse"]) == ("", "Hi.\n\nUse", None)


def test_a_held_back_blank_line_comes_with_the_next_paragraph():
    router = StreamRouter(STOPS)
    assert router.feed(" One.\n\n") == [ContentDelta("One.")]
    assert router.feed("Two") == [ContentDelta("\n\nTwo")]


def test_blank_at_the_end_is_held_back_and_never_shown():
    router = StreamRouter()
    assert router.feed(" One. \n") == [ContentDelta("One.")]
    assert router.feed("\n") == []
    assert router.feed("Two\n\n") == [ContentDelta(" \n\nTwo")]
    assert router.finish() == []


def test_blank_at_the_end_of_a_thought_is_never_shown():
    router = StreamRouter(starts_in_reasoning=True)
    assert router.feed("Why? \n</th") == [ReasoningDelta("Why?")]
    assert router.feed("is\n") == [ReasoningDelta(" \n</this")]
    assert router.feed("</think>So.") == [ContentDelta("So.")]


def test_the_earliest_of_several_stops_wins():
    assert routed(StreamRouter(("END", "stop")), ["a stop b END"]) == ("", "a", "stop")


def test_of_stops_that_end_together_the_longer_wins():
    assert routed(StreamRouter(("c", "abc")), ["xabc"]) == ("", "x", "abc")


def test_a_prompt_that_ends_in_an_open_tag_is_answered_by_its_end():
    router = StreamRouter(STOPS, starts_in_reasoning=True, awaits_tag_end=True)
    assert routed(router, [">", "\nHmm.\n</thi", "nk>\n\nYes."]) == ("Hmm.", "Yes.", None)


def test_the_fast_form_shows_no_thinking():
    assert routed(StreamRouter(STOPS, awaits_tag_end=True), [">\n", "Yes."]) == ("", "Yes.", None)


def test_only_one_closing_bracket_is_taken():
    assert routed(StreamRouter(STOPS, awaits_tag_end=True), [">> quote"]) == ("", "> quote", None)


def test_a_model_may_think_without_being_asked():
    assert routed(StreamRouter(STOPS), [" <thi", "nk>why</think> so"]) == ("why", "so", None)


def test_a_tag_later_in_the_answer_is_text():
    text = "Write <think> and </think> yourself."
    assert routed(StreamRouter(STOPS), [text]) == ("", text, None)


def test_a_partial_tag_at_the_end_is_text():
    assert routed(StreamRouter(STOPS), [" <thin"]) == ("", "<thin", None)
    unfinished = StreamRouter(STOPS, starts_in_reasoning=True)
    assert routed(unfinished, ["so </thi"]) == ("so </thi", "", None)


def test_a_stop_ends_thinking_too():
    router = StreamRouter(STOPS, starts_in_reasoning=True, awaits_tag_end=True)
    assert routed(router, [">Hm\n\nUser: x</think>y"]) == ("Hm", "", "\n\nUser:")


def test_raw_text_stays_as_it_is():
    assert routed(StreamRouter((), is_raw=True), ["  <think>\n"]) == ("", "  <think>\n", None)


PARTS = [
    "\n",
    "\n\n",
    "User:",
    "Us",
    "er",
    ":",
    "<think>",
    "</think>",
    "<",
    "/think>",
    ">",
    " ",
    "好",
    "A",
    "Assistant:",
]
KINDS = [
    {},
    {"awaits_tag_end": True},
    {"starts_in_reasoning": True, "awaits_tag_end": True},
    {"starts_in_reasoning": True},
    {"is_raw": True},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "+".join(kind) or "plain")
def test_any_way_of_cutting_the_text_gives_the_same(kind):
    rng = random.Random(7)
    stops = (*STOPS, "er:", "A\n", "\n\nUser: A")
    for _ in range(400):
        text = "".join(rng.choice(PARTS) for _ in range(rng.randint(0, 12)))
        whole = routed(StreamRouter(stops, **kind), [text])
        assert routed(StreamRouter(stops, **kind), list(text)) == whole, text
        cut = sorted(rng.randint(0, len(text)) for _ in range(3))
        chunks = [text[a:b] for a, b in zip([0, *cut], [*cut, len(text)], strict=True)]
        assert routed(StreamRouter(stops, **kind), chunks) == whole, (text, chunks)


def test_nothing_is_lost_where_there_is_no_tag_and_no_stop():
    rng = random.Random(3)
    for _ in range(200):
        text = "x" + "".join(rng.choice(["\n", "\n\nUs", "<thi", "</think", "好", " "]) for _ in range(10))
        assert routed(StreamRouter(STOPS), list(text)) == ("", text.rstrip(), None)


def test_held_length_is_the_longest_beginning_at_the_end():
    assert held_length("ab\n\nUs", STOPS) == 4
    assert held_length("ab", STOPS) == 0
    assert held_length("\n\nUser:", ("\n\nUser:",)) == 0


def test_neighbours_of_one_kind_join():
    assert joined([ContentDelta("a"), ContentDelta("b"), ReasoningDelta("c")]) == [
        ContentDelta("ab"),
        ReasoningDelta("c"),
    ]
