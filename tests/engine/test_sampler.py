"""The numpy sampler compared with the rwkv package's, line by line, and with the definition in plain steps."""

import numpy as np
import pytest

from tests.errors import raises_code
from tests.reference import plain_sampler
from webapp.engine.sampler import (
    NO_TOKEN,
    NOT_FINITE,
    Adjustments,
    BatchMaker,
    Candidates,
    SequenceSampling,
    draw_among,
    draw_line,
    find_rest,
    find_share,
    keeps_all,
    kept_distribution,
    largest,
    log_probabilities,
    sample_batch,
    uniforms,
)
from webapp.engine.sampling_params import SamplingParams


def official_probs(logits, temperature, top_p, top_k):
    """PIPELINE.sample_logits of the rwkv package 0.8.32, line by line (CPU branch), up to the sampling; float64."""
    probs = np.exp(logits.astype(np.float64) - logits.max())
    probs /= probs.sum()
    sorted_ids = np.argsort(probs)
    sorted_probs = probs[sorted_ids][::-1]
    cumulative_probs = np.cumsum(sorted_probs)
    cutoff = float(sorted_probs[np.argmax(cumulative_probs >= top_p)])
    probs[probs < cutoff] = 0
    if top_k < len(probs) and top_k > 0:
        probs[sorted_ids[:-top_k]] = 0
    if temperature != 1.0:
        probs = probs ** (1.0 / temperature)
    return probs / np.sum(probs)


def sequence(seed=0, prompt=(), exempt=(), constraint=None, **params):
    chosen = SamplingParams(**{"top_p": 1.0, "frequency_penalty": 0.0, **params})
    return SequenceSampling(chosen, seed, Adjustments(chosen, exempt, prompt), constraint)


def batch_of(vocab_size, *sequences, banned=(), masks=None):
    return BatchMaker(vocab_size, banned).make(sequences, masks or {})


def draw(logits, *sequences, **options):
    """The tokens of one step; each row has the same logits unless they are two-dimensional."""
    lines = np.array(np.broadcast_to(logits, (len(sequences), np.shape(logits)[-1])), np.float32)
    return sample_batch(lines, batch_of(lines.shape[1], *sequences, **options)).token_ids.tolist()


def distribution(logits, **params):
    kept, probs = kept_distribution(logits, batch_of(len(logits), sequence(**params)), 0)
    whole = np.zeros(len(logits))
    whole[kept] = probs
    return whole


def random_logits(seed, vocab_size, spread):
    return np.random.default_rng(seed).normal(0, spread, vocab_size).astype(np.float32)


# which tokens are kept


@pytest.mark.parametrize("vocab_size, spread", [(50, 1.0), (1000, 3.0), (65536, 2.0), (65536, 5.0)])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
@pytest.mark.parametrize("top_p, top_k", [(0.3, 0), (0.85, 0), (0.85, 7), (0.99, 40), (0.6, 1000)])
def test_the_kept_tokens_and_their_probabilities_are_the_official_samplers(
    vocab_size, spread, temperature, top_p, top_k
):
    for seed in range(4):
        logits = random_logits(seed, vocab_size, spread)
        expected = official_probs(logits, temperature, top_p, top_k)
        found = distribution(logits, temperature=temperature, top_p=top_p, top_k=top_k)
        assert np.array_equal(found > 0, expected > 0)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_tokens_as_probable_as_the_cut_are_kept():
    logits = np.array([3, 1, 1, 1, 0], np.float32)
    assert np.array_equal(distribution(logits, top_p=0.8) > 0, official_probs(logits, 1, 0.8, 0) > 0)
    assert (distribution(logits, top_p=0.8) > 0).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.999])
@pytest.mark.parametrize("vocab_size", [1000, 65536])
def test_where_all_tokens_are_equal_all_are_kept(top_p, vocab_size):
    assert (distribution(np.zeros(vocab_size, np.float32), top_p=top_p) > 0).all()


def test_top_p_1_keeps_everything():
    assert (distribution(random_logits(0, 65536, 2.0), top_p=1.0) > 0).all()


def test_top_k_keeps_exactly_k_and_of_equals_the_lowest_ids():
    logits = np.array([0, 2, 1, 1, 1], np.float32)
    assert np.flatnonzero(distribution(logits, top_k=3)).tolist() == [1, 2, 3]
    assert np.flatnonzero(distribution(np.zeros(5000, np.float32), top_k=3)).tolist() == [0, 1, 2]


def test_min_p_is_relative_to_the_best_token():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert np.flatnonzero(distribution(logits, min_p=0.5)).tolist() == [0, 1]
    assert np.flatnonzero(distribution(logits, min_p=0.2, top_p=0.9)).tolist() == [0, 1, 2]


def test_temperature_comes_after_the_cut():
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    hot = distribution(logits, top_p=0.85, temperature=2.0)
    assert hot[2] == 0 and hot[0] / hot[1] == pytest.approx(2**0.5, rel=1e-5)


# which token is sampled


PARAMS = [
    {},
    {"temperature": 0.0},
    {"top_p": 0.0},
    {"top_k": 1},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 0.999, "temperature": 0.7},
    {"top_k": 40},
    {"top_k": 300},
    {"top_p": 0.8, "top_k": 7, "temperature": 1.6},
    {"min_p": 0.1},
    {"min_p": 0.02, "top_p": 0.95, "top_k": 50, "temperature": 2.0},
]


def many_lines(vocab_size, seed=1):
    """All kinds of parameters, with and without penalties, bans and masks."""
    rng = np.random.default_rng(seed)
    sequences, masks = [], {}
    for seed, params in enumerate(PARAMS):
        for more in ({}, {"presence_penalty": 0.4, "frequency_penalty": 0.7, "logit_bias": {3: 2.5, 6: -100.0}}):
            sequences.append(each := sequence(seed, **params, **more))
            for token_id in rng.integers(0, vocab_size, 30).tolist():
                each.accept(token_id)
                each.position += 1
            if len(sequences) % 3 == 0:
                masks[len(sequences) - 1] = np.frombuffer(rng.bytes(-(-vocab_size // 32) * 4), np.uint32)
    return batch_of(vocab_size, *sequences, banned=[1, 5], masks=masks)


def kinds_of_logits(vocab_size):
    rng = np.random.default_rng(vocab_size)
    flat = rng.normal(0, 2, vocab_size)
    peaked = rng.normal(0, 2, vocab_size) + 12 * (rng.random(vocab_size) < 20 / vocab_size)
    return {"flat": flat, "peaked": peaked, "few_values": np.round(flat * 4) / 4, "equal": np.ones(vocab_size)}


@pytest.mark.parametrize("vocab_size", [7, 300, 5021, 65536])
@pytest.mark.parametrize("kind", ["flat", "peaked", "few_values", "equal"])
def test_a_batch_samples_what_the_definition_samples_for_each_line(vocab_size, kind):
    logits = kinds_of_logits(vocab_size)[kind].astype(np.float32)
    rng = np.random.default_rng(1)
    bias = {int(t): float(rng.normal()) for t in rng.choice(vocab_size, min(5, vocab_size), replace=False)}
    sequences = []
    for seed, params in enumerate(PARAMS):
        for more in ({}, {"presence_penalty": 0.4, "frequency_penalty": 0.7, "logit_bias": bias}):
            sequences.append(sequence(seed, **params, **more))
    masks = {}
    for number, each in enumerate(sequences):
        for token_id in rng.integers(0, vocab_size, 30).tolist():
            each.accept(token_id)
            each.position += 1
        if number % 3 == 0:
            masks[number] = np.frombuffer(rng.bytes(-(-vocab_size // 32) * 4), np.uint32)
    batch = batch_of(vocab_size, *sequences, banned=[1, 5], masks=masks)
    expected = [plain_sampler.sample(logits, batch, line) for line in range(len(batch))]
    assert sample_batch(np.array([logits] * len(batch)), batch).token_ids.tolist() == expected


def test_a_uniform_number_depends_only_on_seed_and_position():
    seeds = np.array([0, 1, 2**64 - 1, 7, 7], np.uint64)
    positions = np.array([0, 1, 12345678901, 2, 3], np.uint64)
    found = uniforms(seeds, positions).tolist()
    assert found == [plain_sampler.uniform(int(s), int(p)) for s, p in zip(seeds, positions, strict=True)]
    assert found[0] == pytest.approx(0.6524484863740322, abs=0), "a change of this number changes every seeded answer"
    many = uniforms(np.arange(100, dtype=np.uint64).repeat(1000), np.tile(np.arange(1000, dtype=np.uint64), 100))
    assert abs(many.mean() - 0.5) < 5e-3 and abs(np.histogram(many, 20, (0, 1))[0] / 5000 - 1).max() < 0.06


def test_a_sequence_continues_the_same_from_any_position():
    logits, each = random_logits(5, 500, 1.0), sequence(seed=9)
    drawn = []
    for _ in range(20):
        drawn += draw(logits, each)
        each.position += 1
    assert len(set(drawn)) > 10
    later = sequence(seed=9)
    later.position = 13
    assert draw(logits, later) == [drawn[13]]


def test_sampled_tokens_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    counts = np.bincount(draw(logits, *(sequence(seed) for seed in range(20_000))), minlength=3)
    np.testing.assert_allclose(counts / 20_000, [0.5, 0.3, 0.2], atol=0.015)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 1}])
def test_temperature_0_top_p_0_and_top_k_1_take_the_best_token(params):
    logits = random_logits(1, 300, 1.0)
    assert draw(logits, sequence(**params)) == [logits.argmax()]


# penalties, biases, bans


def official_penalty(logits, tokens, presence, frequency, decay, exempt):
    """The loop of PIPELINE.generate: penalise, sample, decay, count."""
    occurrence = {}
    for token in tokens:
        for other in occurrence:
            occurrence[other] *= decay
        if token not in exempt:
            occurrence[token] = occurrence.get(token, 0) + 1
    out = logits.astype(np.float64)
    for n in occurrence:
        out[n] -= presence + occurrence[n] * frequency
    return out, occurrence


def test_penalties_fade_as_in_the_official_loop_and_exempt_tokens_are_never_counted():
    tokens = np.random.default_rng(2).integers(0, 60, 300).tolist()
    params = SamplingParams(
        presence_penalty=0.4, frequency_penalty=0.7, penalty_decay=0.9, logit_bias={3: 2.0, 99: 1.0}
    )
    adjustments = Adjustments(params, exempt_token_ids=[5, 6])
    for token in tokens:
        adjustments.accept(token)
    expected, occurrence = official_penalty(np.zeros(100), tokens, 0.4, 0.7, 0.9, {5, 6})
    expected[[3, 99]] += 2.0, 1.0
    ids, values = adjustments.current()
    found = np.zeros(100)
    found[ids] += values
    assert len(set(ids.tolist())) == len(ids)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert adjustments.counts == pytest.approx(occurrence)


def test_prompt_tokens_count_in_full_where_penalties_are_global():
    params = SamplingParams(frequency_penalty=1.0, penalty_decay=0.5, global_penalty=True)
    adjustments = Adjustments(params, exempt_token_ids=[9], prompt_token_ids=[3, 3, 4, 9])
    assert dict(zip(*(each.tolist() for each in adjustments.current()), strict=True)) == {3: -2.0, 4: -1.0}
    adjustments.accept(4)
    assert adjustments.counts == {3: 1.0, 4: 1.5}


def test_a_ban_outweighs_a_bias_and_greedy_respects_both():
    assert draw(np.zeros(10), sequence(temperature=0, logit_bias={3: 100.0, 4: 50.0}), banned=[3]) == [4]


def test_banned_tokens_are_never_sampled_even_without_a_cut():
    sequences = [sequence(seed, temperature=5.0) for seed in range(300)]
    assert set(draw(np.zeros(8), *sequences, banned=[0, 3, 7])) == {1, 2, 4, 5, 6}


def test_a_line_of_which_no_token_is_left_or_that_is_not_finite_costs_the_others_nothing():
    logits = np.zeros((4, 40), np.float32)
    logits[1, 7], logits[2, 39], logits[3, 0] = np.nan, -np.inf, 9
    nothing = np.zeros(2, np.uint32)
    found = draw(logits, *(sequence(temperature=0) for _ in range(4)), masks={0: nothing})
    assert found == [NO_TOKEN, NOT_FINITE, NOT_FINITE, 0]
    assert draw(np.zeros(4), sequence(), banned=range(4)) == [NO_TOKEN]


# logprobs


def test_logprobs_are_the_models_own_and_name_the_best_alternatives():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32)) + 5
    batch = batch_of(4, sequence(logit_bias={2: 100.0}, logprobs=2), sequence(), sequence(logprobs=0, temperature=0))
    sampled = sample_batch(np.array([logits] * 3), batch)
    assert sampled.token_ids[0] == 2 and sampled.best_ids[0].tolist() == [1, 3]
    np.testing.assert_allclose(np.exp([sampled.logprobs[0], *sampled.best_logprobs[0]]), [0.2, 0.4, 0.3], rtol=1e-5)
    assert np.exp(sampled.logprobs[2]) == pytest.approx(0.4, rel=1e-5)
    logprob, ids, best = log_probabilities(logits, 2, 2)
    assert ids.tolist() == [1, 3] and np.exp([logprob, *best]) == pytest.approx([0.2, 0.4, 0.3], rel=1e-5)


def test_no_logprobs_where_none_are_asked_for():
    assert sample_batch(np.zeros((1, 9), np.float32), batch_of(9, sequence())).logprobs is None


def test_the_largest_come_best_first_and_of_equals_the_lowest_id_first():
    values = np.zeros(5000, np.float32)
    values[[17, 4711]] = 2.0, 3.0
    assert largest(values, 4).tolist() == [4711, 17, 0, 1]
    assert largest(np.arange(6, dtype=np.float32), 6).tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("seed", ["7", 1.5, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with raises_code("sampling_invalid", match="seed"):
        SamplingParams(seed=seed)


# among candidates


@pytest.mark.parametrize("kind", ["flat", "peaked", "few_values", "equal"])
def test_candidates_sample_what_the_line_samples_or_say_that_they_cannot(kind):
    vocab_size, decided, asked = 16384, 0, 0
    logits = kinds_of_logits(vocab_size)[kind].astype(np.float32)
    sequences = [sequence(seed, **params) for seed in range(3) for params in PARAMS]
    batch = batch_of(vocab_size, *sequences, banned=[1, 5])
    for line in range(len(batch)):
        row = plain_sampler.adjusted(logits, batch, line)
        uniform = plain_sampler.uniform(int(batch.seed[line]), int(batch.position[line]))
        expected = plain_sampler.sample(logits, batch, line)
        assert draw_line(row.copy(), batch, line, uniform) == expected
        weights = np.exp(row - row.max(), dtype=np.float64)
        for bound in (np.sort(row)[-100], np.float32(-np.inf)):
            ids = np.flatnonzero((row >= bound) & (row > -np.inf))
            found = Candidates(ids, row[ids], bound, row.max(), float(weights.sum()))
            drawn = draw_among(found, vocab_size, batch, line, uniform)
            is_all = bound == -np.inf
            assert drawn == expected if is_all else drawn in (expected, None)
            asked, decided = asked + (not is_all), decided + (drawn is not None and not is_all)
        if keeps_all(batch, line, vocab_size):
            blocks = weights.reshape(-1, 64)
            block, rest = find_share((blocks ** (1 / float(batch.temperature[line]))).sum(-1), uniform)
            assert 64 * block + find_rest(blocks[block] ** (1 / float(batch.temperature[line])), rest) == expected
    assert decided > asked / 2


def test_music_is_penalised_as_in_the_authors_loop():
    """ChatRWKV, music/run.py: waits count 0.3, notes and the longest wait 1, decayed by 0.997; the end becomes more
    likely."""
    params = SamplingParams(
        frequency_penalty=0.5, penalty_decay=0.997, logit_bias={127: -1.0},
        count_weights=((0, 127, 0.3),), rising_bias=((0, -4.0, 0.002),),
    )  # fmt: skip
    tokens = np.random.default_rng(3).integers(1, 200, 700).tolist()
    adjustments, occurrence = Adjustments(params), {}
    for step, token in enumerate([*tokens, 0]):
        expected = np.zeros(200)
        for seen in occurrence:
            expected[seen] -= occurrence[seen] * 0.5
        expected[0] += (step - 2000) / 500
        expected[127] -= 1
        ids, values = adjustments.current()
        found = np.zeros(200)
        found[ids] = values
        assert len(set(ids.tolist())) == len(ids)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        adjustments.accept(token)
        for seen in occurrence:
            occurrence[seen] *= 0.997
        occurrence[token] = occurrence.get(token, 0) + (1 if token >= 127 else 0.3)
    assert SamplingParams.from_dict(params.to_dict()) == params
