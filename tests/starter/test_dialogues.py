"""The generator: exact G1x format, seeded, and held-out data is never used in training."""

from __future__ import annotations

import hashlib
import json
import random
import re

import pytest
from msgspec import to_builtins

from models.starter.data import tool_formats as formats
from models.starter.data.document import Dialogue, clean
from models.starter.data.everyday_tools import everyday_call
from models.starter.data.heldout import lines, natural_cases, prompt_cases, tool_cases
from models.starter.data.mixture import Mixture
from models.starter.data.natural_tools import natural_request, natural_tool, phrasings, table
from models.starter.data.paraphrases import UNKNOWN, closeness, paraphrase, patterns
from models.starter.data.smalltalk import intents, too_close_to_held_out
from models.starter.data.tool_schemas import NOUNS, VERBS, is_held_out_tool
from models.starter.data.wide_words import WideWords, evaluation_words
from webapp.cli.evaluate import CASES
from webapp.tools.schema_check import argument_problems

DOCUMENTS = 3000

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["location"],
    },
}


def text_of(document) -> str:
    return "".join(segment.text for segment in document.segments)


@pytest.fixture(scope="module")
def documents():
    mixture = Mixture(5)
    return [mixture.document(number) for number in range(DOCUMENTS)]


def test_a_dialogue_is_written_as_g1x_has_it():
    dialogue = Dialogue(random.Random(1), "Be kind.\n\n\nBe short.\r\n")
    dialogue.user("Hi\n\nthere ").assistant("Hello.").user("Bye").assistant(
        "<think>\nx\n</think>\nBye!", prefix=" <think"
    )
    assert "".join(s.text for s in dialogue.segments) == (
        "System: Be kind.\nBe short.\n\nUser: Hi\nthere\n\nAssistant: Hello.\n\n"
        "User: Bye\n\nAssistant: <think>\nx\n</think>\nBye!\n\n"
    )
    assert [s.text for s in dialogue.segments[-2:]] == ["Assistant: <think", ">\nx\n</think>\nBye!\n\n"]
    assert [s.weight for s in dialogue.segments[1:4]] == [0.0, 0.0, 1.0]


def test_compact_tools_and_calls_are_written_as_the_official_template_has_them():
    assert formats.tools_text([WEATHER], formats.COMPACT, described=False) == (
        'Tools:\n- get_weather(location: string, unit?: "celsius" | "fahrenheit", days?: integer[])\n'
        "Return only a JSON function call."
    )
    call = formats.call_text([("get_weather", {"location": "Paris"})], formats.COMPACT)
    assert call == '```json\n{"name":"get_weather","arguments":{"location":"Paris"}}\n```'
    legacy = formats.call_text([("get_weather", {"location": "Paris", "unit": "celsius"})], formats.LEGACY)
    assert legacy == 'get_weather\n```python\ntool_call("location"= "Paris", "unit"= "celsius")\n```'


def test_a_document_depends_on_seed_and_number_alone(documents):
    again = Mixture(5)
    assert [again.document(n) for n in (7, 3, 2999)] == [documents[n] for n in (7, 3, 2999)]
    assert Mixture(6).document(3) != documents[3]


def test_every_document_alternates_turns_and_holds_no_blank_line_inside_a_message(documents):
    for document in documents:
        messages = text_of(document).removesuffix("\n\n").split("\n\n")
        roles = [re.match(r"(System|User|Observation|Assistant):", message) for message in messages]
        assert all(roles), messages
        spoken = [role[1] for role in roles if role and role[1] != "System"]
        assert spoken[0] == "User" and spoken[-1] == "Assistant"
        assert all((role == "Assistant") == bool(n % 2) for n, role in enumerate(spoken)), spoken


def test_answers_begin_with_a_space_and_half_of_the_last_ones_end_with_a_blank_line(documents):
    closed = 0
    for document in documents:
        for before, segment in zip(document.segments, document.segments[1:], strict=False):
            if before.text == "Assistant:":
                assert segment.text.startswith(" ") and not segment.text.startswith("  ")
        closed += text_of(document).endswith("\n\n")
    assert 0.45 < closed / DOCUMENTS < 0.55


def test_every_json_call_in_training_parses_and_names_an_offered_tool(documents):
    calls = 0
    for document in documents:
        text = text_of(document)
        for block in re.findall(r"```json\n(.*?)\n```", text, re.DOTALL):
            parsed = json.loads(block)
            for call in parsed if isinstance(parsed, list) else [parsed]:
                assert f"- {call['name']}(" in text or re.search(rf'"name": ?"{call["name"]}"', text)
                calls += 1
    assert calls > 300


def test_held_out_tools_never_occur_in_training(documents):
    trained = {word for document in documents for word in re.findall(r"\w+", text_of(document))}
    held_out = [(v.split(":")[0], n.split(":")[0]) for v in VERBS for n in NOUNS]
    held_out = [(v, n) for v, n in held_out if is_held_out_tool(v, n)]
    assert len(held_out) > 100
    for verb, noun in held_out:
        assert not trained & {f"{verb}_{noun}", f"{noun}_{verb}", f"{verb}{noun.capitalize()}"}


@pytest.mark.parametrize("chinese", [False, True])
def test_held_out_phrasings_never_occur_in_training(documents, chinese):
    asked = {
        re.sub(r"[?.!？。！]+$", "", s.text.removeprefix("User: ").strip()).lower()
        for d in documents
        for s in d.segments
        if s.text.startswith("User: ")
    }
    for case in prompt_cases(chinese):
        assert re.sub(r"[?.!？。！]+$", "", case.messages[0]["content"]).lower() not in asked


# Figures of the cases can be compared only if the cases stay the same: new training data must not change them.
CASES_SHA256 = "e4d2be79a95f75ea3c72c55eaf42227517f17125ca3ab67c69b8bb1770cb468c"


def test_the_evaluation_cases_are_the_ones_earlier_figures_were_taken_with():
    cases = [to_builtins(c) for c in tool_cases()] + [to_builtins(c) for zh in (False, True) for c in prompt_cases(zh)]
    text = json.dumps(cases, sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == CASES_SHA256


def test_the_file_of_roost_eval_has_these_cases():
    assert CASES.read_text(encoding="utf-8").splitlines() == list(lines())


@pytest.mark.parametrize("chinese", [False, True])
def test_every_intent_has_patterns_that_expand_to_plain_text(chinese):
    rng = random.Random(4)
    assert set(patterns(chinese)) == {intent.name for intent, _ in intents(chinese)} | {UNKNOWN}
    for name in patterns(chinese):
        made = {paraphrase(rng, name, chinese, lambda text: False) for _ in range(40)}
        assert len(made) > 12, name
        assert not re.search(r"[\[\]|<>]", "".join(text or "" for text in made)), name


def test_a_phrasing_is_too_close_by_its_words_not_by_case_or_politeness():
    too_close = closeness(["How do I load a model?", "Help"], chinese=False)
    assert too_close("how do i load a model") and too_close("Hey, how do I load a model please")
    assert too_close("Can you say how do I load a model at home?") and too_close("help!")
    assert not too_close("How can I load a model?") and not too_close("Help me")
    too_close = closeness(["怎么加载模型？", "早安"], chinese=True)
    assert too_close("请问怎么加载模型呢") and too_close("早安啊")
    assert not too_close("如何加载模型") and not too_close("说早安")


@pytest.mark.parametrize("chinese", [False, True])
def test_no_training_phrasing_contains_a_held_out_one(chinese):
    rng, too_close = random.Random(2), too_close_to_held_out(chinese)
    drawn = [paraphrase(rng, name, chinese, lambda t: False) for name in patterns(chinese) for _ in range(60)]
    assert any(too_close(text) for text in drawn if text)  # the patterns do produce held-out phrasings
    for name in patterns(chinese):
        for _ in range(20):
            text = paraphrase(rng, name, chinese, too_close)
            assert text is None or not too_close(text)


def test_wide_values_are_never_words_of_evaluation():
    words = WideWords(random.Random(1))
    assert len(evaluation_words()) > 40
    for chinese in (False, True):
        made = {f(chinese).lower() for f in (words.name, words.city, words.thing) for _ in range(1500)}
        assert not made & evaluation_words()
        assert len(made) > 1200


def test_sessions_ask_back_call_and_decline_over_the_same_tools(documents):
    mixture = Mixture(5, {"sessions": 1})
    texts = [text_of(mixture.document(number)) for number in range(300)]
    assert sum(text.count("User: ") for text in texts) > 600
    assert all(text.startswith("System: ") and text.count("System: ") == 1 for text in texts)
    asked = re.compile(r"Assistant: (What is the|Please tell me the|Which .* should I use|请告诉我|请问|请提供)")
    assert sum(bool(asked.search(text)) for text in texts) > 30
    assert sum("no tool for that" in text or "没有可以做这件事的工具" in text for text in texts) > 5
    for text in texts:
        for block in re.findall(r"```json\n(.*?)\n```", text, re.DOTALL):
            parsed = json.loads(block)
            for call in parsed if isinstance(parsed, list) else [parsed]:
                assert f"- {call['name']}(" in text or re.search(rf'"name": ?"{call["name"]}"', text)


@pytest.mark.parametrize("chinese", [False, True])
def test_every_answer_we_wrote_is_on_its_own_topic(chinese):
    for intent, _ in intents(chinese):
        for answer in intent.answers:
            assert any(k.lower() in answer.lower() for k in intent.keywords), (intent.name, answer)


def test_there_are_enough_evaluation_cases_and_they_are_well_formed():
    cases = tool_cases()
    assert len(cases) >= 200
    assert 0.25 < sum(case.kind == "no_call" for case in cases) / len(cases) < 0.35
    for case in cases:
        tools = {tool["name"]: tool["parameters"] for tool in case.tools}
        for call in case.calls:
            assert (
                set(tools[call.name].get("required", ())) <= set(call.arguments) <= set(tools[call.name]["properties"])
            )
    for chinese in (False, True):
        assert len(prompt_cases(chinese)) == 100


def test_cleaning_is_the_official_rule():
    assert clean(" a\r\n\r\n\nb \n") == "a\nb"


def test_every_natural_tool_can_be_asked_for_and_called_as_its_schema_says():
    rng = random.Random(3)
    words = WideWords(rng)
    for row in table():
        for chinese in (False, True):
            assert phrasings(row, chinese, held_out=False), row["names"][0]
            required = {"{" + key + "}" for key, parameter in row["parameters"].items() if parameter.get("required")}
            for ask in row["asks"]["zh" if chinese else "en"]:
                assert required <= set(re.findall(r"{\w+}", ask)) <= {"{" + key + "}" for key in row["parameters"]}, ask
            for _ in range(5):
                request = natural_request(natural_tool(row, rng, chinese), words)
                assert not argument_problems(request.arguments, request.tool.definition["parameters"])
                assert "{" not in request.text.replace("{}", "") and "{" not in request.report


def test_held_out_phrasings_of_natural_tools_are_never_trained():
    rng = random.Random(4)
    words = WideWords(rng)
    trained = {everyday_call(words, chinese).text for chinese in (False, True) for _ in range(3000)}
    tools = [natural_tool(row, rng, chinese) for row in table() for chinese in (False, True) for _ in range(5)]
    trained |= {natural_request(tool, words).text for tool in tools}
    cases = [case for case in natural_cases() if case.calls]
    assert len(cases) == 128 and len({case.calls[0].name for case in cases}) > 30
    bare = {text.lower().rstrip("?.!？。！") for text in trained}
    assert not [text for case in cases if (text := case.messages[0]["content"]).lower().rstrip("?.!？。！") in bare]
