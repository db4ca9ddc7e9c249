import numpy as np
import pytest

from webapp.engine.logits_processors import LogitBias, RepetitionPenalty, TokenBan
from webapp.engine.sampler import Sampler
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import InvalidSampling, RequestError


def official_probs(logits, temperature, top_p, top_k):
    """PIPELINE.sample_logits of the rwkv package 0.8.32, line by line (CPU branch), up to its draw; float64."""
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


def distribution(logits, **params):
    kept, probs = Sampler(len(logits)).kept_distribution(logits, SamplingParams(**params))
    whole = np.zeros(len(logits))
    whole[kept] = probs
    return whole


def random_logits(seed, vocab_size, spread):
    return np.random.default_rng(seed).normal(0, spread, vocab_size).astype(np.float32)


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
        np.testing.assert_allclose(found, expected, rtol=1e-4)  # weights are float32 exponentials


def test_tokens_as_probable_as_the_cut_are_kept():
    logits = np.array([3, 1, 1, 1, 0], np.float32)
    assert np.array_equal(distribution(logits, top_p=0.8) > 0, official_probs(logits, 1, 0.8, 0) > 0)
    assert (distribution(logits, top_p=0.8) > 0).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.999])
def test_where_all_tokens_are_equal_all_are_kept(top_p):
    assert (distribution(np.zeros(1000, np.float32), top_p=top_p) > 0).all()


def test_top_p_1_keeps_everything():
    logits = random_logits(0, 65536, 2.0)
    assert (distribution(logits, top_p=1.0) > 0).all()


def test_top_k_keeps_exactly_k_and_of_equals_the_lowest_ids():
    logits = np.array([0, 2, 1, 1, 1], np.float32)
    assert np.flatnonzero(distribution(logits, top_p=1.0, top_k=3)).tolist() == [1, 2, 3]


def test_min_p_is_relative_to_the_best_token():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert np.flatnonzero(distribution(logits, top_p=1.0, min_p=0.5)).tolist() == [0, 1]


def test_temperature_comes_after_the_cut():
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    hot = distribution(logits, top_p=0.85, temperature=2.0)
    assert hot[2] == 0 and hot[0] / hot[1] == pytest.approx(2**0.5, rel=1e-5)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 1}])
def test_temperature_0_top_p_0_and_top_k_1_take_the_best_token_without_a_draw(params):
    rng = np.random.default_rng(3)
    before = rng.bit_generator.state
    logits = random_logits(1, 300, 1.0)
    token_id = Sampler(300).sample(logits, SamplingParams(**params), [], [], rng)
    assert token_id == logits.argmax() and rng.bit_generator.state == before


def test_the_draw_is_numpy_choice_with_one_uniform_number():
    sampler, params, logits = Sampler(500), SamplingParams(top_p=0.9, temperature=0.8), random_logits(5, 500, 2.0)
    ours, theirs = np.random.default_rng(11), np.random.default_rng(11)
    probs = distribution(logits, top_p=0.9, temperature=0.8)
    for _ in range(200):
        assert sampler.sample(logits, params, [], [], ours) == theirs.choice(500, p=probs)
    assert ours.bit_generator.state == theirs.bit_generator.state


def test_a_saved_generator_state_draws_the_same_again():
    sampler, params, logits = Sampler(500), SamplingParams(top_p=1.0), random_logits(5, 500, 1.0)
    rng = np.random.Generator(np.random.PCG64(7))
    sampler.sample(logits, params, [], [], rng)
    saved = rng.bit_generator.state
    first = [sampler.sample(logits, params, [], [], rng) for _ in range(20)]
    rng.bit_generator.state = saved
    assert [sampler.sample(logits, params, [], [], rng) for _ in range(20)] == first


def test_logits_are_left_as_they_are():
    logits = random_logits(5, 300, 1.0)
    before = logits.copy()
    Sampler(300).sample(logits, SamplingParams(), [TokenBan([1, 2])], [], np.random.default_rng(0))
    assert np.array_equal(logits, before)


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
    logits = random_logits(2, 100, 1.0)
    penalty = RepetitionPenalty(0.4, 0.7, 0.9, exempt_token_ids=[5, 6])
    for token in tokens:
        penalty.accept(token)
    expected, occurrence = official_penalty(logits, tokens, 0.4, 0.7, 0.9, {5, 6})
    penalty(tokens, logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert penalty.counts == pytest.approx(occurrence)


def test_prompt_tokens_count_in_full_where_penalties_are_global():
    penalty = RepetitionPenalty(0.0, 1.0, 0.5, exempt_token_ids=[9], prompt_token_ids=[3, 3, 4, 9])
    logits = np.zeros(10, np.float32)
    penalty([], logits)
    assert logits[[3, 4, 9]].tolist() == [-2.0, -1.0, 0.0]
    penalty.accept(4)
    assert penalty.counts == {3: 1.0, 4: 1.5}


def test_a_ban_outweighs_a_bias_and_greedy_respects_both():
    logits = np.zeros(10, np.float32)
    processors = [LogitBias({3: 100.0, 4: 50.0}), TokenBan([3])]
    assert Sampler(10).sample(logits, SamplingParams(temperature=0), processors, [], np.random.default_rng()) == 4


def test_banned_tokens_are_never_drawn_even_without_a_cut():
    sampler, rng, params = Sampler(8), np.random.default_rng(0), SamplingParams(top_p=1.0, temperature=5.0)
    drawn = {sampler.sample(np.zeros(8, np.float32), params, [TokenBan([0, 3, 7])], [], rng) for _ in range(300)}
    assert drawn == {1, 2, 4, 5, 6}


def test_banning_everything_is_an_error_in_words():
    with pytest.raises(RequestError, match="no token"):
        Sampler(4).sample(np.zeros(4, np.float32), SamplingParams(), [TokenBan(range(4))], [], np.random.default_rng())


def test_logprobs_are_the_models_own_and_name_the_best_alternatives():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32)) + 5
    found = Sampler(4).token_logprobs(logits, 2, 2)
    assert [entry.token_id for entry in found] == [2, 1, 3]
    np.testing.assert_allclose(np.exp([entry.logprob for entry in found]), [0.2, 0.4, 0.3], rtol=1e-5)
    assert len(Sampler(4).token_logprobs(logits, 2, 0)) == 1


@pytest.mark.parametrize("seed", ["7", 1.5, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(InvalidSampling, match="seed"):
        SamplingParams(seed=seed)
