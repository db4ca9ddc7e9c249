import itertools

import pytest

from webapp.engine.scheduler import StopMatcher


def answer(matcher, tokens):
    """Tokens released before the stop, tokens still held back, and whether it stopped."""
    out, taken, seen = [], 0, []
    for token in tokens:
        seen.append(token)
        count = matcher.feed(token)
        out += seen[taken : taken + count]
        taken += count
        if matcher.is_stopped:
            return out, [], True
    return out, seen[taken:], False


def test_a_stop_token_ends_and_is_not_part_of_the_answer():
    assert answer(StopMatcher([0]), [5, 6, 0, 7]) == ([5, 6], [], True)


def test_a_stop_sequence_ends_and_none_of_it_leaks():
    assert answer(StopMatcher([0], [(7, 8, 9)]), [5, 7, 8, 9, 6]) == ([5], [], True)


def test_what_may_become_a_stop_is_held_back_and_released_when_it_does_not():
    matcher = StopMatcher([], [(7, 8, 9)])
    assert [matcher.feed(t) for t in (5, 7, 8, 1)] == [1, 0, 0, 3]


def test_a_partial_that_fails_into_another_partial_keeps_the_right_tail():
    assert answer(StopMatcher([], [(7, 7, 8)]), [7, 7, 7, 8]) == ([7], [], True)


def test_a_stop_token_after_a_partial_releases_the_partial():
    assert answer(StopMatcher([0], [(7, 8)]), [5, 7, 0]) == ([5, 7], [], True)


def test_a_sequence_that_contains_the_stop_token_ends_where_it_begins():
    assert answer(StopMatcher([0], [(7, 0)]), [5, 7, 0]) == ([5], [], True)


def test_of_two_stops_completed_by_one_token_the_longer_wins():
    assert answer(StopMatcher([], [(8,), (7, 8)]), [5, 7, 8]) == ([5], [], True)


def test_a_shorter_stop_inside_a_longer_partial_ends_at_once():
    assert answer(StopMatcher([], [(1, 2, 3, 4), (2, 3)]), [1, 2, 3, 4]) == ([1], [], True)


@pytest.mark.parametrize(
    "stops", [[(1, 2)], [(1, 1, 2)], [(1, 2, 1), (2, 2)], [(3,), (1, 3)], [(1, 2, 1, 1), (2, 1, 2)]]
)
def test_every_stream_of_five_tokens_ends_at_the_first_completed_stop_and_loses_nothing(stops):
    for stream in itertools.product((1, 2, 3), repeat=5):
        ends = [
            (end, -len(stop)) for stop in stops for end in range(len(stop), 6) if stream[end - len(stop) : end] == stop
        ]
        released, held, stopped = answer(StopMatcher([], stops), stream)
        if ends:
            end, minus_length = min(ends)
            assert stopped and released == list(stream[: end + minus_length])
        else:
            assert not stopped and released + held == list(stream)
