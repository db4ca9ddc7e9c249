"""Prefill outside of sequences: exact, one chunk at a time, and without affecting running answers."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from tests.engine.driving import GREEDY, engine, request, run
from tests.errors import raises_code
from webapp.engine.outputs import FinishReason
from webapp.engine.state import RecurrentState
from webapp.errors import OutOfMemory, RequestError


def finish(made, probe):
    steps = 0
    while not probe.is_done:
        made.advance(probe)
        steps += 1
    return probe.result(), steps


def test_the_state_after_a_text_is_where_it_continues():
    made = engine(prefill_chunk=4)
    whole = run(engine(), request(prompt=range(1, 21), **GREEDY, max_tokens=9))["a"].token_ids
    state, steps = finish(made, made.state_probe(list(range(1, 20))))
    assert steps == 5
    made.keep_state("after", state)
    rest = request(prompt=(20,), **GREEDY, max_tokens=9)
    assert run(made, replaced(rest, "after"))["a"].token_ids == whole


@pytest.mark.parametrize("slots", [1, 2])
def test_scores_are_the_logprobs_of_each_token_and_disturb_no_running_sequence(slots):
    made = engine(f"slots={slots}")
    expected = run(engine(), request("a", **GREEDY, max_tokens=20))["a"].token_ids
    before = run(made, request("a", **GREEDY, max_tokens=20), steps=5)["a"].token_ids
    ids = [3, 1, 4, 1, 5]
    scores, steps = finish(made, made.score_probe(ids, 2))
    rows = made.logits(ids, every_position=True).astype(np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    assert (steps, len(scores)) == (1, 4)
    for position, (own, best, second) in enumerate(scores):
        assert own.token_id == ids[position + 1]
        assert own.logprob == pytest.approx(logprobs[position, own.token_id], abs=1e-4)
        assert [best.token_id, second.token_id] == list(np.argsort(-logprobs[position], kind="stable")[:2])
    assert before + run(made)["a"].token_ids == expected


def test_one_token_has_nothing_to_be_scored_after():
    made = engine()
    assert finish(made, made.score_probe([7])) == ((), 0)


def test_scores_from_a_place_on_begin_at_the_nearest_snapshot_and_leave_one_to_continue_from():
    whole, _ = finish(engine(), engine().score_probe(range(1, 30), 3))
    made = engine(prefill_chunk=8)
    run(made, request(prompt=range(1, 11), **GREEDY, max_tokens=1, boundaries=(10,)))
    scores, steps = finish(made, made.score_probe(range(1, 30), 3, None, 17))
    assert (scores, steps) == (whole[16:], 1 + 2)  # 7 tokens from the snapshot, then 11 scored ones
    again, steps = finish(made, made.score_probe(range(1, 19), 3, None, 17))
    assert (again, steps) == (whole[16:17], 0)
    rest = run(made, request("b", prompt=range(1, 18), **GREEDY, max_tokens=4))["b"]
    assert rest.stats.cached_tokens == 17
    assert rest.token_ids == run(engine(), request(prompt=range(1, 18), **GREEDY, max_tokens=4))["a"].token_ids


def test_scores_do_not_depend_on_the_chunks_they_were_read_in():
    scores = [finish(made, made.score_probe(range(1, 20), 1)) for made in (engine(), engine(prefill_chunk=4))]
    assert scores[0][0] == scores[1][0] and [steps for _, steps in scores] == [1, 5]


def test_a_probe_has_its_own_slot_while_every_sequence_runs():
    made = engine("slots=2")
    run(made, request("a", max_tokens=20), request("b", max_tokens=20), steps=3)
    made.backend.save = made.backend.restore = None
    assert made.logits([1, 2]).shape == (256,)


@pytest.mark.parametrize("is_over", [False, True])
def test_a_sequence_whose_borrowed_slot_cannot_be_restored_fails_and_never_continues_from_another_state(is_over):
    made = engine("slots=1", prefill_chunk=2)
    expected = run(engine(), request("a", **GREEDY, max_tokens=20))["a"].token_ids
    before = run(made, request("a", **GREEDY, max_tokens=20), request("next"), steps=5)["a"].token_ids

    def refuse(slot, saved):
        raise OutOfMemory(reason="no room for the state")

    restore, made.backend.restore = made.backend.restore, refuse
    probe = made.logits_probe([7, 8] if is_over else [7, 8, 9])
    made.advance(probe)
    made.backend.restore = restore
    answers = run(made)
    assert before == expected[: len(before)] and answers["a"].token_ids == []
    assert answers["a"].finish_reason is FinishReason.ERROR and answers["a"].error["code"] == "out_of_memory"
    assert answers["next"].finish_reason is FinishReason.LENGTH
    assert np.array_equal(finish(made, probe)[0], engine().logits([7, 8] if is_over else [7, 8, 9]))


def test_a_state_that_cannot_be_saved_costs_only_the_probe():
    made = engine("slots=1")
    expected = run(engine(), request("a", **GREEDY, max_tokens=20))["a"].token_ids
    before = run(made, request("a", **GREEDY, max_tokens=20), steps=5)["a"].token_ids
    made.backend.save = lambda slot: 1 / 0
    with pytest.raises(ZeroDivisionError):
        made.logits([7])
    assert before + run(made)["a"].token_ids == expected


def test_a_probe_begins_at_the_given_position():
    made = engine()
    state = RecurrentState.zeros(made.config)
    state.arrays["att_kv"].fill(0.5)
    made.keep_state("half", state)
    plain, from_half = (finish(made, made.logits_probe([1, 2], digest=digest))[0] for digest in (None, "half"))
    made.set_initial_state(state)
    assert not np.array_equal(plain, from_half)
    assert np.array_equal(made.logits([1, 2]), from_half)
    assert np.array_equal(finish(made, made.logits_probe([1, 2], digest=""))[0], plain)


def test_what_cannot_be_read_is_refused():
    made = engine("nan_on=9")
    for wrong, error in (([], "prompt_empty"), ([256], "token_out_of_range")):
        for begin in (made.state_probe, made.score_probe, made.logits_probe):
            with raises_code(error):
                begin(wrong)
    with pytest.raises(RequestError):
        made.state_probe([1], digest="never kept")
    with raises_code("non_finite_logits"):
        finish(made, made.score_probe([1, 9, 1]))
    with raises_code("state_mismatch"):
        made.keep_state("other", RecurrentState("6", {}))


def test_a_deleted_state_cannot_be_named_and_running_answers_from_it_continue():
    made = engine()
    state = RecurrentState.zeros(made.config)
    state.arrays["att_kv"].fill(0.5)
    made.keep_state("half", state)
    alone = run(engine(), request(initial_state=state, **GREEDY))["a"].token_ids
    made.add_request(replaced(request(**GREEDY), "half"))
    made.forget_state("half")
    assert run(made)["a"].token_ids == alone
    with pytest.raises(RequestError):
        made.add_request(replaced(request(), "half"))


def replaced(asked, digest):
    return replace(asked, initial_state_digest=digest)


def test_states_of_many_short_texts_are_read_in_one_step_and_are_the_same():
    made, alone = engine("slots=8", prefill_chunk=16), engine()
    texts = [list(range(1, 2 + number)) for number in range(6)]
    probes = [made.state_probe(text, names=("ffn_x_prev",)) for text in texts]
    counted = []
    while waiting := [probe for probe in probes if not probe.is_done]:
        together = made.together(waiting)
        counted.append(len(together))
        made.advance(*together)
    assert counted == [5, 1], "as many as tokens go into a chunk"
    for probe, text in zip(probes, texts, strict=True):
        found = probe.result()
        whole, _ = finish(alone, alone.state_probe(text))
        assert list(found.arrays) == ["ffn_x_prev"]
        assert np.array_equal(found.arrays["ffn_x_prev"], whole.arrays["ffn_x_prev"])


def test_only_free_slots_are_used_and_other_probes_wait_their_turn():
    made = engine("slots=4", max_sequences=4)
    run(made, request("a", **GREEDY, max_tokens=20), request("b", **GREEDY, max_tokens=20), steps=2)
    states, scores = [made.state_probe([number + 1]) for number in range(4)], made.score_probe([1, 2, 3])
    assert made.together(states) == states[:2]
    assert made.together([scores, *states]) == [scores]
    assert made.together([states[0], scores, states[1]]) == states[:1]
