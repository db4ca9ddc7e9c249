import random

import pytest

from webapp.chat.messages import ContentDelta
from webapp.chat.prompts import RenderedPrompt
from webapp.engine.outputs import TokenLogprob
from webapp.services.generation.generation import AnswerText
from webapp.web.api.openai.answers import chat_logprobs


def answer(world, text_or_ids, *stops):
    made = AnswerText(RenderedPrompt((), stops), world)
    made.feed(world.encode(text_or_ids) if isinstance(text_or_ids, str) else text_or_ids)
    return made


def test_without_a_stop_every_id_is_kept(world):
    made = answer(world, " Hi.\n\nUs", "\n\nUser:")
    made.finish(is_cut=True)
    assert made.kept_token_ids() == (tuple(world.encode(" Hi.\n\nUs")), False)
    assert made.content == "Hi.\n\nUs"


def test_a_blank_line_before_the_end_of_text_is_the_separator(world):
    """The starter model writes token 261, then token 0. With a second blank line, the prompt would be one that it never
    saw."""
    made = answer(world, " Hi.\n\n", "\n\nUser:")
    made.finish(is_cut=False)
    assert made.kept_token_ids() == (tuple(world.encode(" Hi.\n\n")), True)
    assert made.content == "Hi."


def test_what_was_shown_is_what_is_kept_as_content(world):
    made = AnswerText(RenderedPrompt(()), world)
    shown = [delta.text for token_id in world.encode(" One.\n\nTwo. \n\n") for delta in made.feed([token_id])]
    shown += [delta.text for delta in made.finish(is_cut=False)]
    assert "".join(shown) == made.content == "One.\n\nTwo."


def test_a_stop_keeps_the_blank_line_it_begins_with(world):
    made = answer(world, " Hi.\n\nUser: x", "\n\nUser:")
    assert made.kept_token_ids() == (tuple(world.encode(" Hi.\n\n")), True)
    assert made.content == "Hi."


@pytest.mark.parametrize("text", [" Hi. \n\n", " Hi.\n\n\n", " 好。\n\n"])
def test_tokens_that_reach_into_the_blank_line_are_kept_whole(world, text):
    made = answer(world, world.encode(text) + world.encode("User: x"), "\n\nUser:")
    assert made.kept_token_ids() == (tuple(world.encode(text)), True)


def test_the_text_before_a_stop_inside_a_token_is_encoded_again(world):
    assert len(world.encode(" hello")) == 1
    made = answer(world, " hello", "lo")
    assert made.content == "hel"
    assert made.kept_token_ids() == (tuple(world.encode(" hel")), False)


def test_a_stop_at_the_very_beginning_leaves_nothing(world):
    made = answer(world, "END", "END")
    assert made.kept_token_ids() == ((), False)


def test_a_last_half_character_is_shown_only_where_the_answer_is_over(world):
    half = [b + 1 for b in "好".encode()][:2]
    for is_cut, content in ((True, "a"), (False, "a\ufffd")):
        made = answer(world, [*world.encode(" a"), *half])
        made.finish(is_cut)
        assert made.content == content
        assert made.kept_token_ids()[0][-2:] == tuple(half)


def test_tokens_after_a_stop_are_not_taken(world):
    made = answer(world, "a END b", " END")
    assert made.feed(world.encode("more")) == []
    assert made.content == "a"


PIECES = ("a", " b", "好", "🐦", "\n\n", " ", "\n", "END", "EN", "User:", "<think>", "</think>", "é", "\t", "x y")


@pytest.mark.parametrize("seed", range(100))
def test_tokens_with_logprobs_join_to_the_content(world, seed):
    """With anything dropped at the edges, held back or cut by a stop, and with characters split into tokens in any
    way."""
    rng = random.Random(seed)
    text = "".join(rng.choices(PIECES, k=rng.randrange(1, 14)))
    ids = [byte + 1 for byte in text.encode()] if rng.random() < 0.5 else world.encode(text)
    rendered = RenderedPrompt((), ("\n\nUser:",), is_raw=rng.random() < 0.3)
    made = AnswerText(rendered, world, ("END",) if rng.random() < 0.5 else ())
    shown, tokens, place = "", [], 0
    while place < len(ids):
        size = rng.randrange(1, 4)
        for event in made.feed(
            ids[place : place + size], [((TokenLogprob(one, -1.0)),) for one in ids[place : place + size]]
        ):
            if isinstance(event, ContentDelta):
                shown, tokens = shown + event.text, tokens + list(event.tokens)
        assert joined(tokens, world) == shown.encode()[: len(joined(tokens, world))], "no token before its text"
        place += size
    for event in made.finish(is_cut=False):
        if isinstance(event, ContentDelta):
            shown, tokens = shown + event.text, tokens + list(event.tokens)
    assert shown == made.content and tokens == made.tokens
    assert joined(tokens, world) == made.content.encode()


@pytest.mark.parametrize("seed", range(100))
def test_tokens_that_arrive_together_have_the_same_result_as_separate_ones(world, seed):
    rng = random.Random(seed)
    text = "".join(rng.choices(PIECES, k=rng.randrange(1, 20)))
    ids = [byte + 1 for byte in text.encode()] if rng.random() < 0.5 else world.encode(text)
    rendered = RenderedPrompt((), ("\n\nUser:", "END"), is_raw=rng.random() < 0.3)
    alone, together = AnswerText(rendered, world), AnswerText(rendered, world)
    for token_id in ids:
        alone.feed([token_id])
    place = 0
    while place < len(ids):
        size = rng.randrange(1, 8)
        together.feed(ids[place : place + size])
        place += size
    for made in (alone, together):
        made.finish(is_cut=False)
    assert found_in(together) == found_in(alone)


def found_in(made):
    return made.content, made.reasoning, made.token_ids, made.thought, made.is_stopped, made.kept_token_ids()


def joined(tokens, tokenizer):
    return b"".join(bytes(one.bytes) for one in chat_logprobs(tokens, tokenizer).content)


def test_alternatives_that_are_the_token_itself_are_cut_like_it(world):
    [own] = world.encode(" hello")
    made = AnswerText(RenderedPrompt(()), world)
    made.feed([own], [(TokenLogprob(own, -0.1), TokenLogprob(own, -0.1), TokenLogprob(34, -3.0))])
    made.finish(is_cut=False)
    [found] = chat_logprobs(made.tokens, world).content
    assert [found.token, *(other.token for other in found.top_logprobs)] == ["hello", "hello", "!"]
