import itertools

import numpy as np
import pytest

from tests.engine.driving import GREEDY, engine, forward, request, run
from tests.errors import raises_code
from webapp.backends.fake import fake_config
from webapp.engine.backend import NumpyLogits
from webapp.engine.llm_engine import LLMEngine
from webapp.engine.outputs import FinishReason, QueueReport
from webapp.engine.state import RecurrentState
from webapp.errors import EngineCrashed, RequestError


def world_bytes(text):
    return [byte + 1 for byte in text.encode()]


def flavoured(value, config=None):
    state = RecurrentState.zeros(config or fake_config())
    state.arrays["att_kv"][:] = value
    return state


def a_mixed_crowd(count):
    return [
        request(
            f"r{n}",
            range(1, 3 + 17 * n % 150),
            max_tokens=5 + n,
            temperature=0.0 if n % 3 == 0 else 1.0,
            top_p=0.8,
            seed=n,
            presence_penalty=0.2,
            frequency_penalty=0.5,
            boundaries=(2, 40),
        )
        for n in range(count)
    ]


# the content of an answer


def test_a_scripted_answer_arrives_and_says_stop():
    answer = run(engine("script=hello"), request(max_tokens=50))["a"]
    assert answer.token_ids == world_bytes("hello")
    assert answer.finish_reason is FinishReason.STOP and answer.error is None


def test_an_answer_cut_by_max_tokens_says_length():
    answer = run(engine("script=hello"), request(max_tokens=3))["a"]
    assert answer.token_ids == world_bytes("hel") and answer.finish_reason is FinishReason.LENGTH


def test_a_stop_at_the_very_last_token_allowed_says_stop():
    answer = run(engine("script=hello"), request(max_tokens=6))["a"]
    assert answer.token_ids == world_bytes("hello") and answer.finish_reason is FinishReason.STOP


def test_nothing_of_a_stop_sequence_is_sent():
    stop = tuple(world_bytes("lo"))
    answer = run(engine("script=hello"), request(max_tokens=50, stop_token_sequences=(stop,)))["a"]
    assert answer.token_ids == world_bytes("hel") and answer.finish_reason is FinishReason.STOP


def test_what_was_held_back_is_sent_when_the_length_ends_it():
    stop = tuple(world_bytes("lox"))
    answer = run(engine("script=hello"), request(max_tokens=5, stop_token_sequences=(stop,)))["a"]
    assert answer.token_ids == world_bytes("hello") and answer.finish_reason is FinishReason.LENGTH


def test_counters_and_seconds_are_right():
    now = iter(range(1000))
    made = engine("script=hello", clock=lambda: float(next(now)))
    stats = run(made, request(prompt=range(1, 11), max_tokens=50, seed=5))["a"].stats
    assert (stats.prompt_tokens, stats.cached_tokens, stats.prefilled_tokens, stats.decoded_tokens) == (10, 0, 10, 6)
    assert (stats.queued_s, stats.prefill_s, stats.decode_s) == (1.0, 1.0, 1.0)
    assert stats.seed == 5 and stats.initial_state_digest == RecurrentState.zeros(fake_config()).digest()
    assert made.counters()["decoded_tokens_total"] == 6 and made.counters()["finished_total"] == 1


def test_a_random_seed_is_reported_and_gives_the_same_answer_again():
    made = engine()
    first = run(made, request(top_p=1.0, max_tokens=30))["a"]
    again = run(made, request(top_p=1.0, max_tokens=30, seed=first.stats.seed))["a"]
    assert again.token_ids == first.token_ids


def test_different_seeds_give_different_answers_and_a_negative_one_is_a_seed_too():
    made = engine()
    answers = {tuple(run(made, request(top_p=1.0, seed=seed))["a"].token_ids) for seed in (1, 2, -1)}
    assert len(answers) == 3


def test_logprobs_are_sent_with_each_released_token():
    answer = run(engine("script=hello"), request(max_tokens=50, logprobs=2))["a"]
    assert [entry[0].token_id for entry in answer.logprobs] == answer.token_ids
    assert all(len(entry) == 3 for entry in answer.logprobs)


def test_banned_tokens_are_never_sampled():
    plain = run(engine(), request(**GREEDY, max_tokens=20))["a"].token_ids
    banned = run(engine(banned_token_ids=plain[:3]), request(**GREEDY, max_tokens=20))["a"].token_ids
    assert not set(banned) & set(plain[:3])


def test_penalty_exempt_tokens_may_repeat_without_end():
    biased = {"logit_bias": {7: 15.0}, "temperature": 0.0, "frequency_penalty": 2.0, "max_tokens": 40}
    assert set(run(engine(penalty_exempt_token_ids=[7]), request(**biased))["a"].token_ids) == {7}
    assert set(run(engine(), request(**biased))["a"].token_ids) != {7}


# many requests at once


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_answers_in_a_batch_equal_separate_ones(slots):
    together = run(engine(f"slots={slots}"), *a_mixed_crowd(10))
    for each in a_mixed_crowd(10):
        alone = run(engine(state_cache_bytes=0), each)[each.request_id]
        assert together[each.request_id].token_ids == alone.token_ids
        assert together[each.request_id].finish_reason is alone.finish_reason


def test_a_sequence_that_joins_later_changes_nothing_for_the_others():
    made, alone = engine(), run(engine(), request("a", **GREEDY, max_tokens=30))["a"].token_ids
    first = run(made, request("a", **GREEDY, max_tokens=30), steps=5)["a"].token_ids
    rest = run(made, request("b", range(9, 40)))["a"].token_ids
    assert first + rest == alone


def test_a_long_prompt_does_not_stop_the_others_from_writing():
    made = engine(prefill_chunk=16)
    run(made, request("writer", **GREEDY, max_tokens=100), steps=2)
    answers = run(made, request("reader", range(1, 200)))
    steps = answers["writer"].steps
    assert steps == list(range(len(steps))), "one token in every step"
    assert max(size for sizes in made.backend.step_sizes for size in sizes) <= 16


def test_eight_that_write_together_get_the_same_share():
    made = engine("slots=8")
    answers = run(made, *(request(f"r{n}", range(1, 20 * n + 3), max_tokens=200) for n in range(8)), steps=100)
    counts = [len(answers[f"r{n}"].token_ids) for n in range(8)]
    assert max(counts) / min(counts) <= 1.5


def test_a_decode_step_is_one_forward_call_for_all():
    made = engine("slots=4")
    run(made, *(request(f"r{n}", max_tokens=50) for n in range(4)), steps=10)
    assert made.backend.step_sizes[-1] == (1, 1, 1, 1)


def test_the_queue_is_reported_when_it_changes():
    made = engine("slots=1")
    reports = run(made, *(request(f"r{n}", client=f"c{n}") for n in range(3)))["reports"]
    assert reports == [
        QueueReport(1, {"r1": 0, "r2": 1}),
        QueueReport(1, {"r2": 0}),
        QueueReport(1, {}),
        QueueReport(0, {}),
    ]


def test_reading_a_prompt_longer_than_a_chunk_reports_progress():
    answers = run(engine(prefill_chunk=16), request("long", range(1, 41)), request("short", range(1, 10)))
    assert [done for done, total in answers["long"].progress][-1] == 40
    assert answers["long"].progress[0] == (16, 40) and answers["short"].progress == []


def test_max_sequences_is_bounded_by_the_backends_slots():
    assert engine("slots=3").max_sequences == 3 and engine("slots=8", max_sequences=2).max_sequences == 2


# early ends


@pytest.mark.parametrize("steps_before", [0, 1, 2, 5, 9])
def test_an_abort_frees_the_slot_at_once_in_every_phase_of_the_sequence(steps_before):
    """Step 0: waiting. Steps 1 and 2: prefilling. Later: decoding."""
    made = engine("slots=1", prefill_chunk=16)
    before = run(made, request("a", range(1, 41), **GREEDY, max_tokens=100), steps=steps_before)["a"].token_ids
    made.abort_request("a")
    assert made.backend.used_slots == 0
    answer = run(made)["a"]
    assert answer.finish_reason is FinishReason.ABORT and answer.error is None
    assert answer.stats.decoded_tokens == len(before) + len(answer.token_ids)
    assert not made.has_work()
    assert run(made, request("b"))["b"].finish_reason is FinishReason.LENGTH


def test_an_abort_sends_what_was_held_back():
    made = engine("script=hello")
    stop = tuple(world_bytes("hello!"))
    run(made, request(max_tokens=50, stop_token_sequences=(stop,)), steps=3)
    made.abort_request("a")
    assert run(made)["a"].token_ids == world_bytes("hel")


def test_aborting_what_has_ended_is_no_error():
    made = engine()
    run(made, request())
    made.abort_request("a")
    assert not made.has_work()


def test_a_waiting_sequence_takes_the_place_of_an_aborted_one():
    made = engine("slots=1")
    run(made, request("a", max_tokens=100), request("b"), steps=3)
    made.abort_request("a")
    assert run(made)["b"].finish_reason is FinishReason.LENGTH


# errors


def test_nan_ends_one_sequence_with_its_error_and_the_others_continue():
    made = engine("nan_on=99")
    answers = run(made, request("good", **GREEDY, max_tokens=20), request("bad", [1, 99, 2]))
    assert answers["bad"].finish_reason is FinishReason.ERROR
    assert answers["bad"].error["code"] == "non_finite_logits"
    assert answers["good"].token_ids == run(engine(), request("good", **GREEDY, max_tokens=20))["good"].token_ids
    assert made.backend.used_slots == 0 and made.counters()["failed_total"] == 1


def test_nan_while_writing_keeps_what_was_written():
    answer = run(engine("nan_at=6"), request(max_tokens=50))["a"]
    assert answer.error["code"] == "non_finite_logits" and len(answer.token_ids) == 3


def test_nan_is_found_in_the_middle_of_a_prompt_and_no_snapshot_of_it_is_kept():
    made = engine("nan_on=99", prefill_chunk=16)
    answer = run(made, request(prompt=[99, *range(1, 60)], boundaries=(10, 20)))["a"]
    assert answer.error["code"] == "non_finite_logits" and answer.stats.prefilled_tokens == 10
    assert len(made.snapshots) == 0


def test_only_a_prompt_that_breaks_the_backend_ends():
    made = engine("fail_on=99")
    answers = run(made, request("good", max_tokens=20), request("bad", [1, 99, 2]), request("later", [4]))
    assert answers["bad"].error["code"] == "internal_error" and "told to fail" in answers["bad"].error["message"]
    assert answers["good"].finish_reason is answers["later"].finish_reason is FinishReason.LENGTH
    assert made.backend.used_slots == 0


def test_a_failed_step_ends_only_rows_that_fail_in_a_separate_step():
    made = engine("fail_at=6 slots=2")
    answers = run(made, request("a", max_tokens=50), request("b", (1,), max_tokens=4), request("c", max_tokens=2))
    assert answers["a"].finish_reason is FinishReason.ERROR
    assert len(answers["a"].token_ids) == 3, "what was written before is kept"
    assert answers["b"].token_ids == run(engine(), request("b", (1,), max_tokens=4))["b"].token_ids
    assert answers["c"].finish_reason is FinishReason.LENGTH and made.backend.used_slots == 0


def test_a_prompt_and_running_answers_are_one_step():
    made = engine("slots=3", prefill_chunk=16)
    run(made, request("a", max_tokens=50), request("b", max_tokens=50), steps=3)
    run(made, request("c", range(1, 30)), steps=1)
    assert made.backend.step_sizes[-1] == (1, 1, 16)


def test_the_backend_says_how_many_prompt_tokens_a_step_reads():
    made = engine()
    made.backend.prefill_tokens = 5
    assert LLMEngine(made.backend).scheduler.prefill_chunk == 5
    assert LLMEngine(made.backend, prefill_chunk=7).scheduler.prefill_chunk == 7


def test_a_backend_that_only_fails_is_given_up():
    made = engine("fail_at=1")
    with pytest.raises(EngineCrashed, match="told to fail"):
        run(made, *(request(f"r{n}") for n in range(8)))


@pytest.mark.parametrize("broken", ["new_slot", "write_state", "step"])
def test_a_backend_that_broke_ends_the_engine_wherever_it_is_noticed(broken, monkeypatch):
    def breaks(*args):
        raise EngineCrashed(reason="the card is gone")

    made = engine()
    if broken == "step":  # while a token is sampled from its result
        monkeypatch.setattr(NumpyLogits, "sample", breaks)
    else:
        monkeypatch.setattr(made.backend, broken, breaks)
    with pytest.raises(EngineCrashed, match="the card is gone"):
        run(made, request())


def test_bad_requests_between_good_ones_never_add_up_to_a_broken_backend():
    made = engine("fail_on=99")
    for n in range(12):
        answer = run(made, request(prompt=[1, 99] if n % 2 else [1, 2]))["a"]
        assert answer.finish_reason is (FinishReason.ERROR if n % 2 else FinishReason.LENGTH)


class Grumpy:
    """A constraint: allows tokens below a number up to 32, and raises at a given token."""

    def __init__(self, description):
        self.allowed, self.breaks_at = (1 << description["below"]) - 1, description.get("breaks_at")
        self.accepted = []

    def mask(self, usable):
        if len(self.accepted) == self.breaks_at:
            raise ValueError("a broken grammar")
        return np.array([self.allowed, *[0] * (len(usable) - 1)], np.uint32)

    def accept(self, token_id):
        self.accepted.append(token_id)


def test_a_constraint_rules_tokens_out_and_hears_of_every_token():
    made = engine(constraint_factory=Grumpy)
    made.add_request(request(constraint={"below": 9}, top_p=1.0, max_tokens=40))
    constraint = made.scheduler.waiting[0].sampling.constraint
    answer = run(made)["a"]
    assert max(answer.token_ids) < 9 and len(answer.token_ids) == 40
    assert constraint.accepted == answer.token_ids


def test_a_constraint_that_raises_ends_only_its_sequence():
    made = engine(constraint_factory=Grumpy)
    answers = run(made, request("bad", constraint={"below": 9, "breaks_at": 3}), request("good"))
    assert answers["bad"].finish_reason is FinishReason.ERROR and len(answers["bad"].token_ids) == 3
    assert answers["good"].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    "wrong, error",
    [
        (request(prompt=()), "prompt_empty"),
        (request(prompt=(1, 256)), "token_out_of_range"),
        (request(prompt=(-1,)), "token_out_of_range"),
        (request(logit_bias={300: 1.0}), "token_out_of_range"),
        (request(constraint={"below": 3}), "request_invalid"),
        (request(initial_state=flavoured(1, fake_config(architecture="6"))), "state_mismatch"),
    ],
)
def test_a_wrong_request_is_refused_when_it_is_added(wrong, error):
    made = engine()
    with raises_code(error):
        made.add_request(wrong)
    assert not made.has_work()


def test_an_id_in_use_is_refused_and_free_again_afterwards():
    made = engine()
    made.add_request(request("a"))
    with pytest.raises(RequestError, match="in use"):
        made.add_request(request("a"))
    run(made)
    made.add_request(request("a"))


# states


def test_a_b_a_nothing_of_one_request_is_left_for_the_next():
    made = engine("slots=1", state_cache_bytes=0)
    first = run(made, request("a", **GREEDY, max_tokens=30))["a"]
    logits = made.logits([1, 2, 3])
    run(made, request("b", range(50, 90), initial_state=flavoured(0.5), max_tokens=30))
    again = run(made, request("a", **GREEDY, max_tokens=30))["a"]
    assert again.token_ids == first.token_ids
    assert again.stats.initial_state_digest == first.stats.initial_state_digest
    assert np.array_equal(made.logits([1, 2, 3]), logits)


def test_a_slot_is_initialised_even_where_the_backend_hands_out_a_used_one():
    made = engine("slots=1", state_cache_bytes=0)
    expected = run(made, request(**GREEDY))["a"].token_ids
    fresh = made.backend.new_slot

    def dirty_slot():
        slot = fresh()
        forward(made.backend, [slot], [[77, 78]])
        return slot

    made.backend.new_slot = dirty_slot
    assert run(made, request(**GREEDY))["a"].token_ids == expected


def test_an_initial_state_is_for_later_sequences_and_running_ones_keep_theirs():
    made = engine()
    plain = run(engine(), request(**GREEDY, max_tokens=30))["a"].token_ids
    begun = run(made, request("running", **GREEDY, max_tokens=30), steps=5)["running"].token_ids
    made.set_initial_state(flavoured(0.5))
    answers = run(made, request("later", **GREEDY, max_tokens=30))
    assert begun + answers["running"].token_ids == plain
    assert answers["later"].token_ids != plain
    assert answers["later"].stats.initial_state_digest == flavoured(0.5).digest()
    made.set_initial_state(None)
    assert run(made, request(**GREEDY, max_tokens=30))["a"].token_ids == plain


def test_a_state_that_does_not_fit_is_refused_and_the_old_one_stays():
    made = engine()
    made.set_initial_state(flavoured(0.5))
    with raises_code("state_mismatch"):
        made.set_initial_state(flavoured(np.nan))
    assert run(made, request())["a"].stats.initial_state_digest == flavoured(0.5).digest()


def test_a_requests_own_initial_state_outweighs_the_engines():
    made = engine()
    made.set_initial_state(flavoured(0.5))
    answer = run(made, request(initial_state=flavoured(2.0)))["a"]
    assert answer.stats.initial_state_digest == flavoured(2.0).digest()


# snapshots


def test_a_prompt_continues_from_the_last_boundary_it_shares():
    made = engine()
    run(made, request(prompt=range(1, 51), boundaries=(20, 40)))
    stats = run(made, request(prompt=[*range(1, 45), 99, 98]))["a"].stats
    assert (stats.cached_tokens, stats.prefilled_tokens) == (40, 6)


def test_regenerate_reads_only_what_follows_the_last_message():
    made = engine()
    again = request(prompt=range(1, 101), boundaries=(30, 60, 96), **GREEDY)
    first = run(made, again)["a"]
    second = run(made, again)["a"]
    assert first.stats.prefilled_tokens == 100 and second.stats.prefilled_tokens == 4
    assert second.token_ids == first.token_ids


def test_a_snapshot_of_the_whole_prompt_has_its_logits_and_answers_without_a_step():
    made = engine()
    ask = request(prompt=range(1, 31), boundaries=(20, 30), max_tokens=1)
    first = run(made, ask)["a"]
    made.backend.step_sizes.clear()
    second = run(made, ask)["a"]
    assert second.token_ids == first.token_ids and second.stats.prefilled_tokens == 0
    assert not made.backend.step_sizes


def test_many_answers_to_one_prompt_read_it_once():
    made = engine("slots=8")
    asks = [request(str(number), range(1, 201), boundaries=(200,), seed=number) for number in range(32)]
    answers = {**run(made, asks[0]), **run(made, *asks[1:])}
    assert sum(answers[ask.request_id].stats.prefilled_tokens for ask in asks) == 200
    alone = run(engine(state_cache_bytes=0), asks[7])["7"]
    assert answers["7"].token_ids == alone.token_ids != answers["8"].token_ids


@pytest.mark.parametrize("options, unread", [("script=hello", 0), ("", 1)])
def test_the_next_turn_reads_nothing_of_the_answer_before(options, unread):
    """The state contains a stopped answer completely, and an answer cut by its length except its last token."""
    made = engine(options)
    answer = run(made, request(prompt=range(20, 30), max_tokens=20))["a"].token_ids
    stats = run(made, request(prompt=[*range(20, 30), *answer, 7, 8]))["a"].stats
    assert stats.prefilled_tokens == 2 + unread


def test_an_aborted_answer_can_be_continued_from_where_it_was():
    made = engine()
    whole = run(engine(), request(**GREEDY, max_tokens=20))["a"].token_ids
    run(made, request(**GREEDY, max_tokens=20), steps=6)
    made.abort_request("a")
    run(made)
    rest = run(made, request(prompt=[1, 2, 3, *whole[:6]], **GREEDY, max_tokens=14))["a"]
    assert rest.token_ids == whole[6:] and rest.stats.prefilled_tokens == 1


def test_answers_from_snapshots_equal_answers_read_again():
    cached, anew = engine(), engine(state_cache_bytes=0)
    prompt = list(range(1, 60))
    for turn in range(4):
        ask = request(prompt=prompt, boundaries=(10, len(prompt) - 2), **GREEDY)
        with_cache, without = run(cached, ask)["a"], run(anew, ask)["a"]
        assert with_cache.token_ids == without.token_ids
        assert without.stats.cached_tokens == 0 and (turn == 0 or with_cache.stats.cached_tokens > 0)
        prompt += [*with_cache.token_ids, 90 + turn]


def test_snapshots_belong_to_their_initial_state():
    made = engine()
    run(made, request(prompt=range(1, 51), boundaries=(40,)))
    other = request(prompt=range(1, 51), boundaries=(30,), initial_state=flavoured(1.0))
    assert run(made, other)["a"].stats.cached_tokens == 0
    made.set_initial_state(flavoured(1.0))
    assert run(made, request(prompt=range(1, 60)))["a"].stats.cached_tokens == 30


def test_a_prompt_makes_no_more_snapshots_than_fit_in_the_cache():
    room = fake_config().state_bytes() * 3
    made = engine(state_cache_bytes=room)
    made.add_request(request(prompt=range(1, 101), boundaries=range(5, 100, 5)))
    assert made.scheduler.waiting[0].snapshot_lengths == [85, 90, 95]
    run(made)
    assert made.snapshots.used_bytes <= room
    assert run(made, request("b", prompt=range(1, 101)))["b"].stats.cached_tokens >= 90


SHORT = [7, 3, 11, 5, 9] * 400
"""Lengths of 2,000 messages, 14,000 tokens in total."""


def many_messages(lengths=SHORT, **kwargs):
    ends = list(itertools.accumulate(lengths))
    return request(prompt=[1 + n % 249 for n in range(ends[-1])], boundaries=ends, max_tokens=1, **kwargs)


def pauses_of(ask, **kwargs):
    made = engine(state_cache_bytes=64 << 20, **kwargs)
    made.add_request(ask)
    return made.scheduler.waiting[0].snapshot_lengths


def test_many_short_messages_take_about_as_many_steps_as_one_long_one():
    rows = []
    for ask in (many_messages(), many_messages([sum(SHORT)])):
        made = engine(state_cache_bytes=64 << 20)
        run(made, ask)
        rows.append(len(made.backend.step_sizes))
    many, one = rows
    assert many - one < len(SHORT) / 25 and len(pauses_of(many_messages())) < len(SHORT) / 25


@pytest.mark.parametrize("lengths", [SHORT, [107] * 80, [5000, 3, 4, 300, 2] * 6, [1] * 9, [200, *SHORT[:90], 3000]])
def test_from_each_message_end_little_is_read_again(lengths):
    """At most 128 tokens or a sixteenth of those after it; none from the first and each of the last eight."""
    ask = many_messages(lengths)
    pauses, length = pauses_of(ask), sum(lengths)
    for place in ask.boundaries:
        back = place - max((pause for pause in pauses if pause <= place), default=0)
        assert back <= max(128, (length - place) / 16), place
    assert {ask.boundaries[0], *ask.boundaries[-8:]} <= set(pauses)


def test_an_edit_far_back_in_many_short_messages_reads_little_again():
    made, ask = engine(state_cache_bytes=64 << 20), many_messages()
    run(made, ask)
    for back in (1, 7, 8, 9, 100, 1000, 1990):
        kept = ask.prompt_token_ids[: ask.boundaries[-1 - back]]
        stats = run(made, request("edit", (*kept, 250, 250, 250), max_tokens=1))["edit"].stats
        most = 0 if back < 8 else max(128, (len(ask.prompt_token_ids) - len(kept)) / 16)
        assert stats.prefilled_tokens - 3 <= most, back


def test_each_part_of_a_prompt_in_parts_has_its_state():
    ask = many_messages([4] * 32, constraint={"before": 0})
    assert pauses_of(ask, constraint_factory=InParts) == list(ask.boundaries)


def test_without_a_cache_no_state_is_ever_read_back():
    made = engine(state_cache_bytes=0)
    made.backend.read_state = None
    assert run(made, request(boundaries=(2,)))["a"].finish_reason is FinishReason.LENGTH


class InParts:
    """A constraint: allows everything, and reports a part at every third token."""

    def __init__(self, description):
        self.begins_part, self.count = False, description["before"]

    def mask(self, usable):
        return usable

    def accept(self, token_id):
        self.count += 1
        self.begins_part = self.count % 3 == 0


@pytest.mark.parametrize(("kept", "stride"), [(100, 3), (4, 24)])
def test_the_state_before_each_part_is_kept_and_thinned_to_a_share_of_the_memory(kept, stride):
    """Continuing from such a place prefills nothing, because its logits are stored too."""
    config = fake_config()
    room = 4 * kept * (config.state_bytes() + 4 * config.vocab_size) + 8_000
    made = engine(state_cache_bytes=room, constraint_factory=InParts)
    written = run(made, request(constraint={"before": 0}, max_tokens=60))["a"].token_ids
    assert len(written) == 60 and len(made.snapshots) <= kept + 3
    for begun in range(stride - 1, 57, stride):
        ids = (1, 2, 3, *written[:begun])
        fork = run(made, request("fork", ids, constraint={"before": begun}, max_tokens=3))["fork"]
        assert fork.stats.prefilled_tokens == 0, begun
        assert fork.token_ids == run(engine(), request("b", ids, max_tokens=3))["b"].token_ids


def test_memory_running_out_for_a_snapshot_costs_the_snapshots_not_the_answer():
    made = engine()
    run(made, request())

    def refuse(slot):
        raise MemoryError

    made.backend.read_state = refuse
    assert run(made, request(prompt=(5, 6)))["a"].finish_reason is FinishReason.LENGTH
    assert len(made.snapshots) == 0


def test_any_other_failure_of_a_snapshot_costs_that_snapshot():
    made = engine()
    run(made, request())
    read_state = made.backend.read_state
    made.backend.read_state = lambda slot: 1 / 0
    assert run(made, request("b", (5, 6, 7), boundaries=(2,)))["b"].finish_reason is FinishReason.LENGTH
    made.backend.read_state = read_state
    assert len(made.snapshots) == 1
    assert run(made, request("c", (5, 6, 7)))["c"].finish_reason is FinishReason.LENGTH


# leak check


def test_the_digests_of_a_request_are_those_of_the_same_request_before_another():
    made = engine(state_cache_bytes=0, checks_states=True)
    first, between, again = (run(made, request(prompt=ids))["a"].stats for ids in ((1, 2, 3), (7, 8), (1, 2, 3)))
    assert first.start_digest == between.start_digest == RecurrentState.zeros(fake_config()).digest()
    assert (again.start_digest, again.end_digest) == (first.start_digest, first.end_digest)
    assert between.end_digest != first.end_digest
    assert made.counters()["state_leaks"] == 0


def test_a_request_has_no_digests_unless_states_are_checked():
    stats = run(engine(), request())["a"].stats
    assert (stats.start_digest, stats.end_digest) == ("", "")


def test_a_slot_that_keeps_the_state_of_another_is_counted_and_gives_no_answer():
    made = engine(state_cache_bytes=0, checks_states=True)
    run(made, request())
    write_state = made.backend.write_state
    made.backend.write_state = lambda slot, state: write_state(slot, flavoured(3.0))
    found = run(made, request("b"))["b"]
    assert (found.finish_reason, found.error["code"], found.token_ids) == (FinishReason.ERROR, "model_error", [])
    assert made.counters()["state_leaks"] == 1 and made.backend.used_slots == 0


def test_a_slot_given_out_twice_ends_the_engine():
    made = engine()
    run(made, request(), steps=1)
    made.backend.new_slot = lambda: 0
    with pytest.raises(EngineCrashed):
        run(made, request("b"))
    assert made.counters()["state_leaks"] == 1


def test_the_states_alive_are_those_of_answers_of_files_in_use_and_those_remembered():
    made = engine()
    made.keep_state("d", flavoured(1.0))
    run(made, request(), request("b", (7, 8)), steps=2)
    found = made.counters()
    assert found["slots_used"] == 2 and found["states_alive"] == 2 + 1 + found["cache_snapshots"]
    run(made)
    assert made.counters()["slots_used"] == 0


# diagnosis


@pytest.mark.parametrize("slots", [1, 2])
def test_logits_come_from_the_initial_state_and_disturb_no_running_sequence(slots):
    made = engine(f"slots={slots}", prefill_chunk=4)
    expected = run(engine(), request("a", **GREEDY, max_tokens=20))["a"].token_ids
    before = run(made, request("a", **GREEDY, max_tokens=20), steps=5)["a"].token_ids
    rows = made.logits(range(1, 11), every_position=True)
    assert rows.shape == (10, 256) and np.array_equal(made.logits(range(1, 11)), rows[-1])
    assert before + run(made)["a"].token_ids == expected


def test_logits_of_nothing_are_refused():
    with raises_code("prompt_empty"):
        engine().logits([])
