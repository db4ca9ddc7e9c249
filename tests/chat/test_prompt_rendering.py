from webapp.chat.formats import G1X, INSTRUCT, RAW, WORLD, all_templates, default_template
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.prompts import SEPARATOR_INCLUDED, PromptPiece, render

HELLO = Message(Role.USER, "Hello")
MORE = Message(Role.USER, "More")
SAMPLED = Message(Role.ASSISTANT, "Hi.", token_ids=(1, 2, 3))


def test_an_answer_is_inserted_with_its_sampled_ids():
    first = render(G1X, [HELLO]).pieces
    second = render(G1X, [HELLO, SAMPLED, MORE]).pieces
    assert second[: len(first)] == first
    assert second[len(first) :] == (
        PromptPiece(token_ids=(1, 2, 3)),
        PromptPiece("\n\n", is_boundary=True),
        PromptPiece("User: More\n\n", is_boundary=True),
        PromptPiece("Assistant:"),
    )


def test_a_prefix_comes_before_everything_and_counts_as_a_system_prompt():
    prefix = PromptPiece("System: Notes.\n\n", is_boundary=True)
    for more in ({}, {"system": "Be brief."}, {"think_mode": ThinkMode.THINK}):
        assert render(G1X, [HELLO, SAMPLED, MORE], prefix="Notes.", **more).pieces[0] == prefix
    assert render(G1X, [], prefix="Notes.").pieces[0] == prefix
    assert render(INSTRUCT, [HELLO], prefix="Notes.").text == "Instruction: Notes.\n\nInput: Hello\n\nResponse:"
    with_system = render(G1X, [Message(Role.SYSTEM, "Be brief."), HELLO], prefix="Notes.").text
    assert with_system == "System: Notes.\n\nSystem: Be brief.\n\nUser: Hello\n\nAssistant:"


def test_ids_that_end_with_the_blank_line_get_no_second_one():
    sampled = Message(Role.ASSISTANT, "好。", token_ids=(1, 2), metadata={SEPARATOR_INCLUDED: True})
    pieces = render(G1X, [HELLO, sampled, MORE]).pieces
    assert pieces[2] == PromptPiece(token_ids=(1, 2), is_boundary=True)
    assert pieces[3].text == "User: More\n\n"


def test_a_fast_answer_keeps_its_opening_and_its_ids():
    sampled = Message(Role.ASSISTANT, "Hi.", token_ids=(1, 2, 3), think_mode=ThinkMode.FAST)
    first = render(G1X, [HELLO], think_mode=ThinkMode.FAST).pieces
    second = render(G1X, [HELLO, sampled, MORE], think_mode=ThinkMode.NONE).pieces
    assert second[: len(first)] == first
    assert second[len(first)].token_ids == (1, 2, 3)


def test_what_was_thought_is_left_out_of_the_history():
    sampled = Message(Role.ASSISTANT, "51", reasoning="17*3", token_ids=(1, 2), think_mode=ThinkMode.THINK)
    pieces = render(G1X, [HELLO, sampled, MORE], think_mode=ThinkMode.THINK).pieces
    assert [piece.text for piece in pieces[1:3]] == ["Assistant:", " 51\n\n"]
    assert not any(piece.token_ids for piece in pieces)


def test_a_question_keeps_the_suffix_it_was_asked_with():
    thought = Message(Role.ASSISTANT, "51", reasoning="17*3", think_mode=ThinkMode.THINK)
    asked = render(G1X, [HELLO], think_mode=ThinkMode.THINK)
    later = render(G1X, [HELLO, thought, MORE], think_mode=ThinkMode.NONE)
    assert later.pieces[0] == asked.pieces[0] == PromptPiece("User: Hello (think)\n\n", is_boundary=True)
    assert later.pieces[-2].text == "User: More\n\n"


def test_boundaries_are_at_message_ends_and_not_after_the_generation_prompt():
    pieces = render(G1X, [HELLO, SAMPLED, MORE], system="Be kind.").pieces
    assert [piece.text for piece in pieces if piece.is_boundary] == [
        "System: Be kind.\n\n",
        "User: Hello\n\n",
        "\n\n",
        "User: More\n\n",
    ]


def test_continuing_with_sampled_ids_adds_nothing_to_them():
    rendered = render(G1X, [HELLO, SAMPLED], continue_last=True)
    assert rendered.pieces[-2:] == (PromptPiece("Assistant:"), PromptPiece(token_ids=(1, 2, 3)))
    assert rendered.continued is rendered.pieces[-1]


def test_continuing_inside_thinking_starts_in_reasoning():
    sampled = Message(Role.ASSISTANT, "", reasoning="so", token_ids=(1, 2), think_mode=ThinkMode.THINK)
    rendered = render(G1X, [HELLO, sampled], continue_last=True)
    assert rendered.pieces[1].text == "Assistant: <think"
    assert rendered.starts_in_reasoning and rendered.awaits_tag_end


def test_an_empty_answer_leaves_no_trace():
    failed = Message(Role.ASSISTANT, "")
    assert render(WORLD, [HELLO, failed, MORE]).text == "User: Hello\n\nUser: More\n\nAssistant:"


def test_a_template_without_think_modes_ignores_them():
    assert render(WORLD, [HELLO], think_mode=ThinkMode.THINK) == render(WORLD, [HELLO])


def test_instruct_calls_the_question_input_only_with_an_instruction():
    assert render(INSTRUCT, [HELLO]).text.startswith("Instruction: Hello")
    assert render(INSTRUCT, [HELLO], system="Translate.").text.startswith("Instruction: Translate.\n\nInput: Hello")


def test_no_default_stop_cuts_a_paragraph_that_begins_with_a_or_q():
    harmless = "\n\nA rook.\n\nQ stands for queen.\n\nAnd so on.\n\nUser interfaces: none.\n\nBobby:\n\nAssistants:"
    stops = [stop for template in all_templates() for stop in template.stop_strings]
    assert stops and not any(stop in harmless for stop in stops)


def test_raw_has_neither_stops_nor_roles():
    assert render(RAW, [HELLO]).pieces == (PromptPiece("Hello", is_boundary=True),)
    assert render(RAW, [HELLO]).stop_strings == ()


def test_the_default_template_follows_architecture_and_vocabulary():
    assert default_template("7", 65536).name == "g1x"
    assert default_template("6", 65536).name == "world"
    assert default_template("6", 65536, "", "{{ 'Assistant: ' }}").name == "world"
    assert default_template("5.2", 65529).name == "world"
    assert default_template("7", 65536, "RWKV-x070-World-2.9B-v3-20250211-ctx4096.pth").name == "world"
    assert default_template("4", 50277, "RWKV-4-Raven-7B").name == "raven"
    assert default_template("4", 50277, "RWKV-4-Pile-7B").name == "bob_alice"
    assert default_template("4", 50277, "rwkv-4-pile-instruct-test").name == "instruct"
    assert default_template("4", 20096, "RWKV-4-MIDI").name == "raw"
    assert default_template("7", 256).name == "raw"
