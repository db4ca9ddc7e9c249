"""Which calls are right, in any notation."""

import pytest

from webapp.chat.tool_dialects import FENCED, KEYWORD, TAGGED
from webapp.tools.bench import CallScore, ExpectedCall, Reading, read_answer, score_calls

PARIS = ExpectedCall("get_weather", {"city": "Paris", "days": 3, "metric": True})
BODY = '{"name":"get_weather","arguments":{"metric":true,"days":3,"city":"Paris"}}'
WRITTEN = {
    "fenced": (FENCED, f"```json\n{BODY}\n```"),
    "bare": (FENCED, BODY),
    "with words before it": (FENCED, f"Let me look.\n```json\n{BODY}\n```"),
    "hermes": (TAGGED, f"<tool_call>\n{BODY}\n</tool_call>"),
    "legacy": (KEYWORD, 'get_weather\n```python\ntool_call("city"= "Paris", "days"= 3, "metric"= true)\n```'),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_a_right_call_is_right_in_every_way_of_writing_it(form):
    syntax, text = WRITTEN[form]
    assert score_calls([PARIS], read_answer(text, syntax)) == CallScore(True, True, True, True)


@pytest.mark.parametrize(
    ("arguments", "is_same"),
    [
        ({"city": "Paris", "days": 3.0, "metric": True}, True),
        ({"city": "Paris", "days": "3", "metric": True}, False),
        ({"city": "Paris", "days": 3, "metric": 1}, False),
        ({"city": "Paris", "days": 3}, False),
        ({"city": "paris", "days": 3, "metric": True}, False),
    ],
)
def test_arguments_are_compared_as_json_values(arguments, is_same):
    score = score_calls([PARIS], Reading((ExpectedCall("get_weather", arguments),), True))
    assert (score.name, score.arguments) == (True, is_same)


def test_nested_values_are_compared_all_the_way_down():
    expected = ExpectedCall("book", {"at": {"days": [1, {"is_free": True}]}})
    other = ExpectedCall("book", {"at": {"days": [1, {"is_free": 1}]}})
    assert score_calls([expected], Reading((expected,), True)).arguments
    assert not score_calls([expected], Reading((other,), True)).arguments


@pytest.mark.parametrize("text", ['{"city": "Paris"}', "[1, 2]", '```json\n{"name": "get_weather", "argu'])
def test_an_unreadable_call_counts_as_a_decision_to_call(text):
    assert read_answer(text) == Reading((), True)


def test_a_call_of_a_tool_that_was_not_offered_is_parsed_too():
    assert read_answer('```json\n{"name":"made_up","arguments":{}}\n```').calls == (ExpectedCall("made_up"),)


def test_code_in_an_answer_is_no_call():
    assert not read_answer("Like this:\n```python\nprint({})\n```").sets_out


def test_where_text_is_right_the_other_figures_do_not_count():
    assert score_calls([], Reading()) == CallScore(True)
    assert score_calls([], Reading((PARIS,), True)) == CallScore(False)
