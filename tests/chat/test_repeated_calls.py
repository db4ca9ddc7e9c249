"""A program's conversation whose model repeats a call that was just answered."""

from __future__ import annotations

import pytest

from webapp.chat.messages import Message, Role, ToolCall, repeats_noted

NOTE = "again:"


def round_of(number: int, arguments: str = '{"city": "Oslo"}', result: str = "rain") -> list[Message]:
    call = ToolCall(f"c{number}", "weather", arguments)
    return [
        Message(Role.ASSISTANT, "", tool_calls=(call,)),
        Message(Role.TOOL, result, tool_call_id=call.id, name="weather"),
    ]


ASKED = [Message(Role.USER, "Weather?")]


@pytest.mark.parametrize(
    ("second", "is_noted"),
    [
        ({}, True),
        ({"arguments": '{ "city":"Oslo" }'}, True),
        ({"arguments": '{"city": "Rome"}'}, False),
        ({"result": "sun"}, False),
        ({"arguments": "{"}, False),
    ],
)
def test_a_result_that_repeats_the_last_one_is_noted(second: dict, is_noted: bool) -> None:
    messages = [*ASKED, *round_of(1), *round_of(2, **second)]
    noted, is_repeating = repeats_noted(messages, NOTE)
    assert (noted[-1].content == "again:\nrain") is is_noted and not is_repeating
    assert noted[:-1] == tuple(messages[:-1])


def test_two_rounds_with_only_repeated_calls_are_a_loop() -> None:
    rounds = [message for number in range(3) for message in round_of(number)]
    assert repeats_noted([*ASKED, *rounds], NOTE)[1]
    assert not repeats_noted([*ASKED, *rounds[:4]], NOTE)[1]
    assert not repeats_noted([*ASKED, *rounds, *round_of(9, result="sun")], NOTE)[1]
    assert not repeats_noted([*ASKED, *rounds, Message(Role.ASSISTANT, "Rain."), *ASKED], NOTE)[1]
    assert not repeats_noted([*ASKED, *rounds[:2], *ASKED, *rounds[2:]], NOTE)[1]


def test_where_a_form_is_waited_for_results_that_bring_nothing_new_are_one() -> None:
    rounds = [message for number in range(4) for message in round_of(number, arguments=f'{{"city": "{number}"}}')]
    assert repeats_noted([*ASKED, *rounds], NOTE, has_form=True)[1]
    assert not repeats_noted([*ASKED, *rounds], NOTE)[1]
    assert not repeats_noted([*ASKED, *rounds[:6]], NOTE, has_form=True)[1]
    assert not repeats_noted([*ASKED, *rounds, *round_of(9, result="sun")], NOTE, has_form=True)[1]


def test_what_came_otherwise_stays_as_it_was() -> None:
    lone = [*ASKED, Message(Role.TOOL, "x", tool_call_id="gone"), *round_of(1)[:1], *round_of(2)]
    assert repeats_noted(lone, NOTE) == (tuple(lone), False)
    assert repeats_noted([], NOTE) == ((), False)
