import pytest

from webapp.chat.messages import ContentDelta, Finished, ReasoningDelta, Waiting
from webapp.services.chat.turn_writer import LiveTurn
from webapp.web.chat.live import INTERVAL_S, MAX_CORE_SHARE, LiveRendering, LiveRenderings
from webapp.web.kit.markdown import render_markdown


class Clock:
    now = 0.0

    def __call__(self):
        self.now += INTERVAL_S
        return self.now


def rendering_of(*events):
    turn = LiveTurn("chat", "question", "answer")
    turn.emit(events)
    return turn, LiveRendering(turn, Clock())


def test_finished_blocks_are_sent_once_and_the_open_one_as_tail():
    turn, rendering = rendering_of(ContentDelta("One.\n\nTwo\nTw"))
    rendering.advance()
    seen = rendering.since("content", 0)
    assert ("One." in seen.final, "Tw" in seen.tail) == (True, True)
    turn.emit([ContentDelta("o.\n\nThree\n")])
    rendering.advance()
    later = rendering.since("content", seen.count)
    assert "One." not in later.final and "Two" in later.final and "Three" in later.tail


def test_a_link_defined_after_its_use_replaces_what_was_shown():
    turn, rendering = rendering_of(ContentDelta("See [this].\n\nMore.\n\nEnd"))
    rendering.advance()
    seen = rendering.since("content", 0)
    assert "[this]" in seen.final and not seen.replaces
    turn.emit([ContentDelta(".\n\n[this]: https://a.b\n")])
    turn.finish(Finished("stop"))
    rendering.advance()
    later = rendering.since("content", seen.count)
    assert later.replaces and later.final == render_markdown("See [this].\n\nMore.\n\nEnd.\n\n[this]: https://a.b\n")
    assert not rendering.since("content", later.count).replaces


def test_a_page_opened_late_gets_everything():
    turn, rendering = rendering_of(ContentDelta("One.\n\nTwo.\n\nThree"))
    rendering.advance()
    turn.finish(Finished("stop"))
    view = rendering.advance()
    found = rendering.since("content", 0)
    assert view.is_over and found.tail == ""
    assert [word in found.final for word in ("One.", "Two.", "Three")] == [True] * 3


def test_thinking_ends_where_the_answer_begins():
    turn, rendering = rendering_of(Waiting("reading", 1, 2), ReasoningDelta("hm"))
    assert rendering.advance().is_thinking
    turn.emit([ContentDelta("So")])
    view = rendering.advance()
    assert not view.is_thinking and view.has_reasoning
    assert "hm" in rendering.since("reasoning", 0).final


def test_waiting_is_reported_until_the_first_word():
    turn, rendering = rendering_of(Waiting("loading", 5, 10))
    assert rendering.advance().waiting == Waiting("loading", 5, 10)
    turn.emit([ContentDelta("x")])
    assert rendering.advance().waiting is None


def test_an_engine_that_does_not_answer_is_reported_during_an_answer_until_it_continues():
    turn, rendering = rendering_of(ContentDelta("a"), Waiting("silent", 7))
    assert rendering.advance().waiting == Waiting("silent", 7)
    turn.emit([Waiting("silent", 0)])
    assert rendering.advance().waiting is None
    turn.emit([Waiting("silent", 9), ContentDelta("b")])
    assert rendering.advance().waiting is None


def test_text_is_rendered_at_most_once_an_interval():
    turn = LiveTurn("chat", "question", "answer")
    rendering = LiveRendering(turn, clock=lambda: 1.0)
    turn.emit([ContentDelta("a")])
    first = rendering.advance().revision
    turn.emit([ContentDelta("b")])
    assert rendering.advance().revision == first


def test_the_first_words_and_the_end_do_not_wait_for_the_interval():
    turn = LiveTurn("chat", "question", "answer")
    rendering = LiveRendering(turn, clock=lambda: 1.0)
    turn.emit([Waiting("reading", 1, 2)])
    assert rendering.advance().waiting is not None
    turn.emit([ContentDelta("First")])
    assert rendering.advance().waiting is None and "First" in rendering.since("content", 0).tail
    turn.emit([ContentDelta(" and last")])
    assert rendering.advance().has_more
    turn.finish(Finished("stop"))
    assert rendering.advance().is_over and "First and last" in rendering.since("content", 0).final


def test_pages_wait_longer_where_drawing_them_all_would_take_too_much():
    renderings = LiveRenderings()
    for _ in range(100):
        assert renderings.interval_s(0.01) == INTERVAL_S
    renderings.count_follower(60)
    assert renderings.interval_s(0.01) == pytest.approx(60 * 0.01 / MAX_CORE_SHARE, rel=0.01)
    renderings.count_follower(-60)
    assert renderings.interval_s(0.01) == INTERVAL_S


def test_all_viewers_share_one_rendering_and_a_continued_answer_has_its_own():
    renderings, turn = LiveRenderings(), LiveTurn("chat", "", "answer")
    assert renderings.of(turn) is renderings.of(turn)
    assert renderings.of(LiveTurn("chat", "", "answer")) is not renderings.of(turn)
