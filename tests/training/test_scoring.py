"""What counts as a right answer."""

from __future__ import annotations

from webapp.tools.call_score import ExpectedCall, shares
from webapp.training.data.heldout import PromptCase, ToolCase
from webapp.training.scoring import has_loop, score_prompt, score_tools

PARIS = ExpectedCall("get_weather", {"city": "Paris"})


def case(kind: str = "call") -> ToolCase:
    return ToolCase(kind, "en", [], [], [PARIS] if kind == "call" else [])


def test_a_fenced_call_with_the_expected_values_is_right_in_all_respects():
    score = score_tools(case(), '```json\n{"name":"get_weather","arguments":{"city":"Paris"}}\n```')
    assert (score.decision, score.valid_json, score.name, score.arguments) == (True, True, True, True)


def test_a_bare_call_with_another_value_has_the_name_right_and_the_arguments_wrong():
    score = score_tools(case(), '{"name":"get_weather","arguments":{"city":"Rome"}}')
    assert (score.decision, score.name, score.arguments) == (True, True, False)


def test_a_broken_call_is_a_decision_to_call_but_nothing_more():
    score = score_tools(case(), '```json\n{"name":"get_weather","argu')
    assert (score.decision, score.valid_json, score.name, score.arguments) == (True, False, False, False)


def test_text_where_a_call_was_right_is_a_wrong_decision():
    assert not score_tools(case(), "It is sunny.").decision


def test_a_call_where_text_was_right_is_a_wrong_decision():
    assert not score_tools(case("no_call"), '{"name":"x","arguments":{}}').decision
    assert score_tools(case("ask_back"), "Which city?").decision


def test_a_loop_is_a_repeated_end_and_not_a_repeated_word():
    assert has_loop("I like it. " + "and so on " * 6)
    assert not has_loop("no no no no")
    assert not has_loop("A long answer that says many things, none of them twice in a row.")


def test_topic_and_turn_end_are_judged_apart():
    prompt = PromptCase("en", "greeting", [], ("hello",))
    score = score_prompt(prompt, "HELLO there", ends_turn=False)
    assert (score.on_topic, score.ends_turn, score.no_loop) == (True, False, True)


def test_shares_leave_out_what_does_not_apply():
    scores = [score_tools(case(), "no"), score_tools(case("no_call"), "no")]
    found = shares(scores, ("decision", "name"))
    assert found == {"cases": 2, "decision": 0.5, "name": 0.0}
