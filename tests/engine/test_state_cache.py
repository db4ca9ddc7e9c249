import numpy as np

from webapp.backends.fake import fake_config
from webapp.engine.state import RecurrentState, StateCache


def state(value):
    made = RecurrentState.zeros(fake_config())
    made.arrays["att_kv"][:] = value
    return made


def value(found):
    return float(found[1].arrays["att_kv"].flat[0])


def test_the_longest_prefix_within_the_limit_is_found():
    cache = StateCache(1 << 20)
    cache.put("d", (1, 2), state(2))
    cache.put("d", (1, 2, 3, 4), state(4))
    cache.put("d", (1, 9, 3), state(9))
    found = cache.longest_prefix("d", (1, 2, 3, 4, 5), limit=4)
    assert found[0] == 4 and value(found) == 4
    assert cache.longest_prefix("d", (1, 2, 3, 4), limit=3)[0] == 2
    assert cache.longest_prefix("d", (2, 2, 3, 4), limit=4) is None
    assert (cache.hits, cache.misses) == (2, 1)


def test_another_initial_state_finds_nothing():
    cache = StateCache(1 << 20)
    cache.put("d", (1, 2), state(2))
    assert cache.longest_prefix("e", (1, 2, 3), limit=2) is None


def test_the_least_recently_used_leaves_first_and_bytes_stay_within_the_limit():
    size = state(0).nbytes + 64
    cache = StateCache(2 * size)
    cache.put("d", (1,), state(1))
    cache.put("d", (2,), state(2))
    cache.longest_prefix("d", (1, 5), limit=1)
    cache.put("d", (3,), state(3))
    assert cache.contains("d", (1,)) and cache.contains("d", (3,)) and not cache.contains("d", (2,))
    assert len(cache) == 2 and cache.used_bytes <= cache.limit_bytes
    assert cache.longest_prefix("d", (2, 5), limit=1) is None
    cache.clear()
    assert cache.used_bytes == 0 and cache.longest_prefix("d", (1, 5), limit=1) is None


def test_putting_a_key_again_replaces_it_and_counts_its_bytes_once():
    cache = StateCache(1 << 20)
    cache.put("d", (1,), state(1))
    before = cache.used_bytes
    cache.put("d", (1,), state(7))
    assert cache.used_bytes == before and value(cache.longest_prefix("d", (1, 2), limit=1)) == 7


def test_a_state_larger_than_the_cache_is_not_kept():
    cache = StateCache(100)
    cache.put("d", (1,), state(1))
    assert len(cache) == 0 and cache.used_bytes == 0


def test_no_array_is_shared_going_in_or_out():
    cache = StateCache(1 << 20)
    given = state(1)
    cache.put("d", (1,), given)
    given.arrays["att_kv"][:] = 5
    first = cache.longest_prefix("d", (1, 2), limit=1)
    first[1].arrays["att_kv"][:] = np.nan
    assert value(cache.longest_prefix("d", (1, 2), limit=1)) == 1
