"""`roost eval`: its cases, and which answers are right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.weights.make_checkpoints import write_checkpoint
from webapp.cli import main
from webapp.cli.evaluate import PromptCase, ToolCase, evenly, has_loop, held_out, score_prompt, score_tools
from webapp.tools.bench import ExpectedCall, shares

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


def test_there_are_as_many_cases_as_the_figures_say_half_of_them_chinese():
    cases = held_out()
    assert Counter(case.kind for case in cases.tools) == {"call": 120, "no_call": 72, "two_calls": 24, "ask_back": 24}
    assert Counter(case.language for case in cases.tools + cases.natural) == {"en": 200, "zh": 200}
    assert {language: len(prompts) for language, prompts in cases.prompts.items()} == {"en": 100, "zh": 100}


@pytest.mark.parametrize("count", [0, 1, 10, 239, 240])
def test_a_smaller_number_of_cases_has_every_kind_in_its_share(count: int):
    chosen = evenly(held_out().tools, count)
    assert len({id(case) for case in chosen}) == count
    assert abs(sum(case.kind == "call" for case in chosen) - count / 2) <= 1


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny.safetensors", "7", n_layer=1, n_embd=64, vocab_size=65536)
    return folder


def test_an_evaluation_runs_and_ends_in_its_document(models, tmp_path, capsys):
    where = ["--models", str(models), "--data", str(tmp_path), "-m", "tiny.safetensors"]
    counts = ["--tools", "4", "--natural", "2", "--prompts", "3", "--decoding", "free"]
    transcripts = tmp_path / "answers.jsonl"
    strategy = "fake script=' Hello there.'"
    assert main(["eval", *where, "--strategy", strategy, *counts, "--transcripts", str(transcripts)]) == 0
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert document["tools"]["g1x-compact free"]["cases"] == 4
    assert document["natural"]["g1x-json free"]["cases"] == 2
    assert document["prompts"]["zh"] == {"cases": 3, "ends_turn": 1.0, "no_loop": 1.0, "on_topic": 0.0}
    assert len(transcripts.read_text(encoding="utf-8").splitlines()) == 2 * (4 + 2) + 2 * 3


def test_more_cases_than_there_are_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--tools", "241"])
    assert ended.value.code == 2 and "240" in capsys.readouterr().err
