"""The tokens of an answer with the real engine: the model's own probabilities, and versions that continue from an
alternative."""

import numpy as np
import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.services.chat.test_with_engine import model, turns_of  # noqa: F401
from tests.services.chat.watching import watch
from webapp.engine.outputs import FinishReason
from webapp.services.chat.probes import WINDOW, AnswerTokens
from webapp.services.generation.generation import Generation


@pytest.fixture
def written(turns_of, store):  # noqa: F811
    """written(tokens) -> (turns, tokens of answers, an answer of this length), with a model that writes noise."""

    def write(tokens=12, strategy="fake"):
        turns = turns_of(strategy)
        chat = store.create(sampling={"max_tokens": tokens, "seed": 1, "top_p": 1.0})
        live = turns.send(chat.id, "Say something")
        watch(live)
        return turns, AnswerTokens(turns._manager, store, turns._presets), store.message(live.message_id)

    return write


def prompt_ids(turns, monkeypatch, act):
    """The prompts requested while ``act`` runs."""
    asked = []
    start = Generation.start
    monkeypatch.setattr(Generation, "start", lambda self, *a: (asked.append(self.prompt.token_ids), start(self, *a)))
    act()
    return asked


def test_probabilities_are_the_models_own_after_the_answers_own_tokens(written, monkeypatch):
    turns, tokens, answer = written()
    [prompt] = prompt_ids(turns, monkeypatch, lambda: watch(turns.regenerate(answer.id)))
    rows = turns._manager.logits((*prompt, *answer.message.token_ids), every_position=True).astype(np.float64)
    chances = np.exp(rows - rows.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    found = tokens.window(answer.id)
    assert (found.start, found.total) == (0, 12)
    assert tuple(token.token_id for token in found.tokens) == answer.message.token_ids
    for place, token in enumerate(found.tokens):
        assert token.probability == pytest.approx(chances[len(prompt) - 1 + place, token.token_id], rel=1e-4)
    own, best = tokens.alternatives(answer.id, 5)
    row = chances[len(prompt) + 4]
    assert [token.token_id for token in best] == list(np.argsort(-row, kind="stable")[:8])
    assert own.token_id == answer.message.token_ids[5]
    assert own.probability == pytest.approx(row[own.token_id], rel=1e-4)


def test_the_end_of_an_answer_has_no_token_to_choose(written):
    _, tokens, answer = written(tokens=3)
    own, best = tokens.alternatives(answer.id, 3)
    assert own is None and len(best) == 8


def test_a_long_answer_is_scored_in_windows_that_begin_at_its_snapshots(written):
    turns, tokens, answer = written(tokens=WINDOW + 40)
    before = turns._manager.counters()["cache_hits"]
    found = tokens.window(answer.id, WINDOW)
    assert (found.start, len(found.tokens), found.total) == (WINDOW, 40, WINDOW + 40)
    assert turns._manager.counters()["cache_hits"] == before + 1


def test_a_version_continues_from_an_alternative_and_prefills_nothing_again(written, store):
    turns, tokens, answer = written()
    _, best = tokens.alternatives(answer.id, 5)
    chosen = next(token.token_id for token in best if token.token_id not in (0, answer.message.token_ids[5]))
    live = turns.fork(answer.id, 5, chosen)
    finished = watch(live)[-1]
    made = store.message(live.message_id)
    assert made.message.token_ids[:6] == (*answer.message.token_ids[:5], chosen)
    assert len(made.message.token_ids) > 6
    assert (made.parent_id, made.version, made.version_count) == (answer.parent_id, 2, 2)
    assert (finished.stats["prefilled_tokens"], finished.stats["read_again"]) == (1, 0)
    assert made.message.metadata["forked"] == {"from": answer.id, "position": 5}
    assert store.get(made.chat_id).head_id == made.id
    again = turns.fork(answer.id, 5, chosen)
    watch(again)
    assert store.message(again.message_id).message.token_ids == made.message.token_ids  # the chat's seed is used


def test_what_a_version_says_is_what_the_model_says_after_those_tokens(written, store, monkeypatch):
    """Equal to an answer whose prompt is prefilled from the start, by an engine without snapshots."""
    turns, tokens, answer = written()
    _, best = tokens.alternatives(answer.id, 5)
    chosen = best[1].token_id or best[2].token_id
    lives = []
    [prompt] = prompt_ids(turns, monkeypatch, lambda: (lives.append(turns.fork(answer.id, 5, chosen)), watch(lives[0])))
    made = store.message(lives[0].message_id)
    rest = made.message.token_ids[6:]
    scores = turns._manager.score_tokens((*prompt, *rest))[len(prompt) - 1 :]
    window = tokens.window(made.id).tokens[6:]
    assert [token.probability for token in window] == pytest.approx([np.exp(own[0].logprob) for own in scores])
    assert made.finish_reason in (FinishReason.LENGTH.value, FinishReason.STOP.value)


def test_an_answer_of_another_model_names_the_one_it_needs(written, store):
    turns, tokens, answer = written()
    store.finish_message(answer.id, answer.message, model="large.pth")
    for ask in (tokens.window, lambda name: tokens.alternatives(name, 1), lambda name: turns.fork(name, 1, 9)):
        with raises_code("answer_of_another_model") as caught:
            ask(answer.id)
        assert caught.value.params["model"] == "large.pth"


def test_an_answer_without_ids_and_places_outside_it_are_refused(written, store):
    turns, tokens, answer = written()
    with raises_code("answer_without_tokens"):
        turns.fork(answer.id, 13, 9)
    with raises_code("answer_without_tokens"):
        tokens.alternatives(answer.parent_id, 0)
    for no_token in (0, 65535):
        with raises_code("token_out_of_range"):
            turns.fork(answer.id, 1, no_token)
    store.change_message(answer.id, replace(answer.message, token_ids=()))
    with raises_code("answer_without_tokens"):
        tokens.window(answer.id)
    assert store.message(answer.id).version_count == 1
