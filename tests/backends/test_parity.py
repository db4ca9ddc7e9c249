"""Every backend against the numpy reference (float64), on random models of every architecture.

Tolerance 2e-3 on logits of standard deviation 1: float32 rounding over 40 tokens stays near 1e-5, arithmetic with
shortened mantissas (TF32 on a GPU) near 1e-3, and a real mistake (a transposed state, a missing term) shows from 1e-2
up, as the tests of the reference make sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.backends.parity import ARCHITECTURES, ROUNDING, STRATEGIES, difference, every_backend, make_pair, measure
from tests.engine.driving import Answer, forward, request, run
from tests.waiting import PATIENCE_S
from webapp.engine.llm_engine import LLMEngine
from webapp.engine.registry import BackendEntry
from webapp.engine.snapshot_store import SnapshotFolder, SnapshotStore

TOLERANCE = 2e-3
FILES = {"bfloat16": "model.pth", "float16": "model.st", "float32": "model.safetensors"}
CASES = [(architecture, "bfloat16") for architecture in ARCHITECTURES]
CASES += [("4", "float32"), ("5.1", "float16"), ("6", "float32"), ("7", "float16")]


@pytest.mark.parametrize(("architecture", "dtype"), CASES)
@every_backend
def test_a_backend_computes_what_the_reference_computes(
    entry: BackendEntry, architecture: str, dtype: str, tmp_path: Path, record_property
) -> None:
    assert entry.name in STRATEGIES, f"{entry.name} needs its float32 strategy in tests/backends/parity.py"
    backend, reference = make_pair(
        entry, tmp_path, architecture, STRATEGIES[entry.name], FILES[dtype], dtype=dtype, seed=len(dtype)
    )
    found = measure(backend, reference)
    backend.close()
    record_property("differences", str(found))
    print(f"\n{entry.name} RWKV-{architecture} {dtype}: {found}")
    assert found.largest() <= TOLERANCE, found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@every_backend
def test_a_state_survives_reading_and_writing_bit_for_bit(
    entry: BackendEntry, architecture: str, tmp_path: Path
) -> None:
    backend, _ = make_pair(entry, tmp_path, architecture, STRATEGIES[entry.name])
    first, second = backend.new_slot(), backend.new_slot()
    forward(backend, [first], [[1, 2, 3]])
    state = backend.read_state(first)
    state.check(backend.config)
    backend.write_state(second, state)
    assert backend.read_state(second).digest() == state.digest()
    assert (forward(backend, [first], [[4]]) == forward(backend, [second], [[4]])).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@every_backend
def test_slots_do_not_see_each_other(entry: BackendEntry, architecture: str, tmp_path: Path) -> None:
    backend, _ = make_pair(entry, tmp_path, architecture, STRATEGIES[entry.name])
    alone = backend.new_slot()
    expected = [forward(backend, [alone], [ids])[0] for ids in ([1, 2], [3], [4, 5, 6])]

    a, b = backend.new_slot(), backend.new_slot()
    backend.write_state(b, backend.read_state(a))
    found = [forward(backend, [a], [[1, 2]])[0]]
    forward(backend, [b], [[200, 201, 202]])
    found.append(forward(backend, [b, a], [[9], [3]])[1])
    kept = backend.read_state(a)
    digest = kept.digest()
    backend.free_slot(b)
    found.append(forward(backend, [a], [[4, 5, 6]])[0])

    for one, other in zip(found, expected, strict=True):
        assert difference(one, other) <= ROUNDING.get(entry.name, 0.0)
    assert kept.digest() == digest, "a state that was read changes with its slot"
    assert (forward(backend, [backend.new_slot()], [[1, 2]])[0] == expected[0]).all(), "a fresh slot is not fresh"


@pytest.mark.parametrize("architecture", ("5.0", "5.2", "6", "7"))
@every_backend
def test_a_state_merged_in_the_model_is_where_a_fresh_slot_starts(
    entry: BackendEntry, architecture: str, tmp_path: Path
) -> None:
    backend, reference = make_pair(entry, tmp_path, architecture, STRATEGIES[entry.name], time_state=True)
    assert measure(backend, reference).largest() <= TOLERANCE
    start = backend.read_state(backend.new_slot()).arrays["att_kv"]
    assert (start == reference.initial_state().arrays["att_kv"]).all()
    assert start.any()


@pytest.mark.parametrize("architecture", ("4", "7"))
@every_backend
def test_a_b_a_over_restarts_prefills_nothing_again_and_writes_the_same(
    entry: BackendEntry, architecture: str, tmp_path: Path
) -> None:
    backend, _ = make_pair(entry, tmp_path, architecture, STRATEGIES[entry.name])

    def answer(prompt: Sequence[int], max_tokens: int, begun: int = 0) -> Answer:
        """By an engine of its own, which has nothing but the folder."""
        folder = SnapshotFolder(tmp_path / "snapshots", 1 << 26, backend.config)
        engine = LLMEngine(backend, snapshots=SnapshotStore(1 << 24, folder, entry.name), checks_states=True)
        asked = request("a", prompt, boundaries=(40,), logprobs=3, temperature=1.0, max_tokens=max_tokens)
        found = run(engine, replace(asked, begun=begun, is_kept=True))["a"]
        assert folder.wait_written(PATIENCE_S)
        engine.snapshots.close()
        return found

    a, b = [5, 6, 7, 8, 9, 10] * 12, [5, 6, 7] * 20
    first, between, again = answer(a, 12), answer(b, 12), answer(a, 12)
    assert between.stats.cached_tokens == 0 and between.token_ids != first.token_ids
    assert (again.token_ids, again.stats.prefilled_tokens) == (first.token_ids, 0)
    assert again.stats.end_digest == first.stats.end_digest != between.stats.end_digest
    assert again.logprobs[1:] == first.logprobs[1:], "going on from a snapshot differs from never having stopped"

    stopped = answer(a, 5)
    rest = answer([*a, *stopped.token_ids], 7, begun=5)
    assert rest.stats.prefilled_tokens == 1, "the last token written was not read before"
    assert stopped.token_ids + rest.token_ids == first.token_ids
    assert rest.logprobs == first.logprobs[5:]


@pytest.mark.parametrize("architecture", ("4", "7"))
@every_backend
def test_a_b_a_in_one_slot_leaves_nothing_of_one_answer_in_the_next(
    entry: BackendEntry, architecture: str, tmp_path: Path
) -> None:
    """Without snapshots, each answer is computed from its prompt alone, in the slot that the previous one used."""
    backend, _ = make_pair(entry, tmp_path, architecture, STRATEGIES[entry.name])
    engine = LLMEngine(backend, max_sequences=1, state_cache_bytes=0, checks_states=True)
    a, b = [5, 6, 7, 8, 9, 10] * 4, [200, 5, 6] * 5
    asked = (request(name, ids, temperature=1.0, logprobs=2) for name, ids in (("a", a), ("b", b), ("a2", a)))
    first, between, again = (run(engine, each)[each.request_id] for each in asked)
    assert (again.token_ids, again.logprobs) == (first.token_ids, first.logprobs)
    assert between.token_ids != first.token_ids
    digests = [(answer.stats.start_digest, answer.stats.end_digest) for answer in (first, between, again)]
    assert digests[0] == digests[2] and digests[1][0] == digests[0][0] and digests[1][1] != digests[0][1]
    assert (engine.counters()["slots_used"], engine.counters()["state_leaks"]) == (0, 0)
