"""Which format fits a model, and the stops of its family."""

import pytest

from webapp.chat.formats import (
    BOT,
    FLOWER,
    G1X,
    RAW,
    all_templates,
    default_template,
    fill_prompt,
    fills_gaps,
    template,
    with_family_stops,
    writes_flowers,
)
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.prompts import render
from webapp.services.generation.generation import AnswerText
from webapp.tokenizer.loading import world_tokenizer


@pytest.fixture(scope="module")
def world():
    return world_tokenizer()


OFFICIAL = "{{ 'Bot✿' }}{{ 'Assistant: ' }}{{ '### Assistant' }}"


@pytest.mark.parametrize(
    ("name", "chat_template", "has_tools", "expected"),
    [
        ("rwkv7-g1k-2.9b-20260930-ctx25600.pth", "", False, "g1x"),
        ("rwkv7-g1k-2.9b-20260930-ctx25600.pth", "", True, "function_calling"),
        ("RWKV7-G1k-1.5B-20260930", OFFICIAL, False, "g1x"),
        ("RWKV7-G1k-1.5B-20260930", OFFICIAL, True, "function_calling"),
        ("my-finetune", "{{ 'User✿' }}{{ 'Bot✿' }}", False, "bot"),
        ("my-finetune", "{{ '### Assistant' }}", False, "function_calling"),
        ("rwkv7-g1d-0.4b-20260210-ctx8192.pth", "", True, "g1x"),
        ("roost-starter-v7.safetensors", "", True, "g1x"),
        ("RWKV-x070-World-2.9B-v3-20250211-ctx4096.pth", "", False, "world"),
        ("RWKV-x070-World-2.9B-v3-20250211-ctx4096.gguf", "{{ 'Assistant: ' }}", False, "world"),
        ("rwkv7-g1k-2.9b-20260930-ctx25600.gguf", "{{ 'Assistant: ' }}", True, "function_calling"),
    ],
)
def test_the_format_follows_name_date_and_chat_template(name, chat_template, has_tools, expected):
    assert default_template("7", 65536, name, chat_template, has_tools).name == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rwkv7-g1h-7.2b-20260710-ctx10240.pth", True),
        ("RWKV7-G1k-13.3B-20260930", True),
        ("RWKV/RWKV7-2.9B-20260805", True),
        ("rwkv7-g1g-1.5b-20260523-ctx8192.pth", False),
        ("rwkv7-g1-0.1b-20250307-ctx4096.pth", False),
        ("rwkv7-g1d-0.4b-20260210-ctx8192.pth", False),
        ("RWKV-x060-World-3B-v2.1-20240417-ctx4096.pth", False),
        ("roost-starter-v7.safetensors", False),
    ],
)
def test_the_flower_stops_g1_from_h_on(name, expected):
    assert writes_flowers(name) is expected
    for row in all_templates():
        stops = with_family_stops(row, name).stop_strings
        assert (FLOWER in stops) is (expected or row is BOT) and stops.count(FLOWER) <= 1


def test_the_flower_is_one_token(world):
    assert world.encode(FLOWER) == [10060]


RUNS_ON = " The sky is blue.✿\nUser✿And the sea?✿\nBot✿The sea too.✿"


@pytest.mark.parametrize("row", [G1X, BOT, RAW], ids=lambda row: row.name)
def test_an_answer_that_runs_on_as_the_next_turn_is_cut(row, world):
    """Observed with G1h models in the older format."""
    cut = with_family_stops(row, "rwkv7-g1k-2.9b-20260930-ctx25600.pth")
    text = AnswerText(render(cut, [Message(Role.USER, "Why?")]), world)
    events = text.feed(world.encode(RUNS_ON)) + text.finish(is_cut=False)
    assert text.content.strip() == "The sky is blue." == "".join(event.text for event in events).strip()
    assert text.is_stopped and text.kept_token_ids() == (tuple(world.encode(" The sky is blue.")), False)
    if row is G1X:
        older = AnswerText(render(row, [Message(Role.USER, "Why?")]), world)
        older.feed(world.encode(RUNS_ON))
        assert "The sea too" in older.content


def test_a_conversation_that_changes_its_format_keeps_no_others_separator():
    answer = Message(Role.ASSISTANT, "Yes.", token_ids=(1, 2), metadata={"separator_included": "\n\n"})
    pieces = render(BOT, [Message(Role.USER, "a"), answer, Message(Role.USER, "b")]).pieces
    assert [piece.text for piece in pieces if not piece.token_ids][2] == BOT.separator


def test_programs_may_ask_by_other_names_and_unknown_think_modes_come_near():
    assert template("assistant") is G1X and template("flower") is BOT
    assert BOT.supported(ThinkMode.THINK_A_LOT) is ThinkMode.THINK and RAW.supported(ThinkMode.THINK) is ThinkMode.NONE


def test_a_gap_is_filled_in_the_order_the_models_were_trained_on():
    assert fill_prompt("def f(", "return x") == "✿prefix✿✿suffix✿return x✿middle✿def f("
    assert fills_gaps("rwkv7-g1c-1.5b-20260110-ctx8192.pth") and fills_gaps("RWKV7-G1k-1.5B-20260930")
    assert not fills_gaps("rwkv7-g1b-1.5b-20251110-ctx8192.pth") and not fills_gaps("RWKV-x060-World-3B.pth")
