"""Drafts: the same answers in fewer steps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.driving import GREEDY, engine, request, run
from webapp.backends.native import library
from webapp.engine.scheduler import Drafter


def drafting_engine(options="", most=8, **kwargs):
    made = engine(options, **kwargs)
    made.backend.draft_tokens = most
    return made


LIKELY, UNLIKELY = 0.3, 0.9
"""How likely a draft must be."""


def test_a_guess_is_what_followed_the_same_tokens_the_last_time():
    drafter = Drafter([1, 2, 3, 4, 5, 1, 2, 3, 7, 8, 1, 2, 3], most=8)
    assert drafter.draft(8, LIKELY) == (7, 8)
    assert drafter.draft(1, LIKELY) == (7,)
    drafter.feed([9])
    assert drafter.draft(8, LIKELY) == ()
    assert Drafter([1, 2], most=8).draft(8, LIKELY) == Drafter([], most=8).draft(8, LIKELY) == ()


def test_a_guess_is_what_followed_the_longest_match():
    drafter = Drafter([6, 1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 1, 2, 3], most=8)
    assert drafter.draft(1, LIKELY) == (4,)


def test_a_guess_is_longer_after_a_long_match_and_shorter_where_it_costs_more():
    def length(tokens: int, least: float) -> int:
        return len(Drafter([*range(40), *range(tokens)], most=30).draft(30, least))

    assert 0 < length(3, LIKELY) < length(6, LIKELY) < length(12, LIKELY)
    assert length(3, UNLIKELY) == 0 < length(24, UNLIKELY) < length(24, LIKELY)
    assert len(Drafter([1] * 40, most=8).draft(8, LIKELY)) == 1, "the last time was one token ago"


def test_drafts_grow_while_they_are_right_stop_when_they_are_not_and_are_tried_again():
    drafter = Drafter([*range(30), *range(6)], most=20)
    first = len(drafter.draft(20, LIKELY))
    for _ in range(3):
        drafted = len(drafter.draft(20, LIKELY))
        drafter.judge(drafted, drafted)
    assert len(drafter.draft(20, LIKELY)) > first
    while drafted := len(drafter.draft(20, LIKELY)):
        drafter.judge(drafted, 0)
    waits = 1
    while not drafter.draft(20, LIKELY):
        waits += 1
        assert waits < 1000
    assert waits > 5


def test_a_repeating_answer_takes_fewer_steps_and_is_the_same():
    asked = {"max_tokens": 60, **GREEDY}
    plain = run(engine(made := "script=5,6,7,8,9,10 repeat=0"), request(**asked))["a"]
    drafting = drafting_engine(made)
    drafted = run(drafting, request(**asked))["a"]
    assert drafted.token_ids == plain.token_ids and drafted.finish_reason == plain.finish_reason
    assert drafted.stats.decoded_tokens == 60
    assert drafting.counters()["steps_total"] < 30
    assert drafting.counters()["draft_hits_total"] > 40


@pytest.mark.parametrize("seed", range(60))
def test_no_answer_changes(seed):
    """Random prompts with few different tokens, so that drafts are often right and often wrong; sampled and greedy,
    with penalties, biases and stops, one to six answers at once."""
    rng = np.random.default_rng(seed)
    vocab = int(rng.choice([3, 5, 16]))
    requests = []
    for number in range(int(rng.integers(1, 7))):
        params = {
            "temperature": float(rng.choice([0.0, 0.3, 1.0])),
            "top_p": float(rng.choice([0.5, 1.0])),
            "frequency_penalty": float(rng.choice([0.0, 0.4])),
            "presence_penalty": float(rng.choice([0.0, 0.4])),
            "max_tokens": int(rng.integers(1, 60)),
            "seed": int(rng.integers(0, 1000)),
            "stop_token_ids": (0,) if rng.random() < 0.3 else (),
            "stop_token_sequences": (tuple(rng.integers(0, vocab, 3).tolist()),) if rng.random() < 0.5 else (),
            "logit_bias": {1: 3.0} if rng.random() < 0.3 else {},
            "logprobs": 2 if rng.random() < 0.2 else None,
        }
        prompt = rng.integers(0, vocab, int(rng.integers(1, 30))).tolist()
        requests.append(request(str(number), prompt, **params))
    plain, drafting = engine(f"vocab={vocab}"), drafting_engine(f"vocab={vocab}")
    expected, found = run(plain, *requests), run(drafting, *requests)
    for each in requests:
        ours, theirs = found[each.request_id], expected[each.request_id]
        assert (ours.token_ids, ours.finish_reason) == (theirs.token_ids, theirs.finish_reason)
        assert ours.logprobs == theirs.logprobs and ours.stats.decoded_tokens == theirs.stats.decoded_tokens
    assert drafting.snapshots._kept.keys() == plain.snapshots._kept.keys()
    for key, snapshot in plain.snapshots._kept.items():
        assert drafting.snapshots._kept[key].state.digest() == snapshot.state.digest()
    assert not drafting.backend.used_slots


def test_a_failed_restore_ends_only_its_own_answer():
    drafting = drafting_engine("vocab=3")
    broken = []

    def restore(slot, saved, plain=drafting.backend.restore):
        if not broken:
            broken.append(slot)
            raise RuntimeError("no")
        plain(slot, saved)

    drafting.backend.restore = restore
    asked = [
        request(name, [1, 2, 1, 2, 1, 2, 0, 1], max_tokens=40, stop_token_ids=(), seed=seed)
        for seed, name in enumerate("ab")
    ]
    found = run(drafting, *asked)
    assert broken, "no guess was wrong"
    reasons = sorted(found[name].finish_reason.value for name in "ab")
    assert reasons == ["error", "length"]
    assert not drafting.backend.used_slots


@pytest.mark.skipif(not library.availability().is_available, reason="no C++ compiler")
@pytest.mark.parametrize("format", ("f32", "q8", "q4"))
def test_no_answer_of_a_real_model_changes(format, tmp_path):
    from tests.engine.driving import load_backend
    from tests.weights.make_checkpoints import write_checkpoint
    from webapp.engine.llm_engine import LLMEngine

    write_checkpoint(tmp_path / "m.safetensors", "7", n_embd=64, vocab_size=40)
    rng = np.random.default_rng(0)
    params = [GREEDY, {"temperature": 1.0, "top_p": 0.3}, {"temperature": 0.5, "frequency_penalty": 0.2}]
    requests = [
        request(str(number), [*range(20), *rng.integers(0, 20, 10).tolist(), 0, 1, 2], max_tokens=80, seed=number,
                stop_token_ids=(), **params[number % 3])
        for number in range(12)
    ]  # fmt: skip
    answers = []
    for most in (0, 15):
        backend = load_backend(tmp_path / "m.safetensors", f"native {format} draft={most}")
        made = LLMEngine(backend, max_sequences=3, state_cache_bytes=1 << 20)
        found = run(made, *requests)
        answers.append([found[each.request_id].token_ids for each in requests])
        assert (made.counters()["draft_hits_total"] > 0) == (most > 0)
        backend.close()
    assert answers[0] == answers[1]
