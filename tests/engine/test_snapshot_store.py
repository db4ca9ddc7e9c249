import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from msgspec.structs import replace

from tests.engine.driving import GREEDY, engine, request, run
from tests.waiting import PATIENCE_S
from webapp.backends.fake import fake_config
from webapp.engine.snapshot_store import BLOCK, SnapshotFolder, SnapshotStore, clear_folder, folder_use
from webapp.engine.state import ARCHITECTURES, DamagedFile, RecurrentState, Snapshot, read_snapshot, write_snapshot

NAME = f"{'ab' * 16}-7-{'cd' * 16}"


def snapshot(value, logits=False):
    state = RecurrentState.zeros(fake_config())
    state.arrays["att_kv"][:] = value
    return Snapshot(state, np.full(fake_config().vocab_size, value, np.float32) if logits else None)


def value(found):
    return float(found[1].state.arrays["att_kv"].flat[0])


def lasting(path, limit_bytes=1 << 24, memory=1 << 20, identity="m"):
    return SnapshotStore(memory, SnapshotFolder(path, limit_bytes, fake_config()), identity)


def put(store, token_ids, number, logits=False):
    store.put("d", token_ids, snapshot(number, logits), is_lasting=True)
    assert store.folder.wait_written(PATIENCE_S)


# in memory


def test_the_longest_prefix_is_found():
    store = SnapshotStore(1 << 20)
    store.put("d", (1, 2), snapshot(2))
    store.put("d", (1, 2, 3, 4), snapshot(4))
    store.put("d", (1, 9, 3), snapshot(9))
    found = store.longest_prefix("d", (1, 2, 3, 4, 5))
    assert found[0] == 4 and value(found) == 4
    assert store.longest_prefix("d", (1, 2, 3, 4))[0] == 2
    assert store.longest_prefix("d", (2, 2, 3, 4)) is None
    assert (store.hits, store.misses) == (2, 1)


def test_all_of_a_prompt_is_found_only_with_its_logits():
    store = SnapshotStore(1 << 20)
    store.put("d", (1, 2), snapshot(2))
    assert store.longest_prefix("d", (1, 2)) is None and not store.contains("d", (1, 2), with_logits=True)
    store.put("d", (1, 2), snapshot(2, logits=True))
    assert store.longest_prefix("d", (1, 2))[0] == 2


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 5])
def test_prefixes_are_found_at_the_edges_of_blocks_and_not_when_one_token_differs(length):
    store, ids = SnapshotStore(1 << 20), list(range(length))
    store.put("d", ids, snapshot(1))
    assert store.longest_prefix("d", [*ids, 7])[0] == length
    for place in (0, length // 2, length - 1):
        other = [*ids, 7]
        other[place] += 1
        assert store.longest_prefix("d", other) is None


def test_another_initial_state_or_model_finds_nothing():
    store = SnapshotStore(1 << 20, identity="m")
    store.put("d", (1, 2), snapshot(2))
    assert store.longest_prefix("e", (1, 2, 3)) is None
    store._identity = "n"
    assert store.longest_prefix("d", (1, 2, 3)) is None


def test_the_least_recently_used_leaves_first_and_bytes_stay_within_the_limit():
    store = SnapshotStore(2 * (snapshot(0).nbytes + 256))
    store.put("d", (1,), snapshot(1))
    store.put("d", (2,), snapshot(2))
    store.longest_prefix("d", (1, 5))
    store.put("d", (3,), snapshot(3))
    assert store.contains("d", (1,)) and store.contains("d", (3,)) and not store.contains("d", (2,))
    assert len(store) == 2 and store.used_bytes <= store.limit_bytes
    assert store.longest_prefix("d", (2, 5)) is None
    store.clear()
    assert store.used_bytes == 0 and store.longest_prefix("d", (1, 5)) is None


def test_putting_a_key_again_replaces_it_and_counts_its_bytes_once():
    store = SnapshotStore(1 << 20)
    store.put("d", (1,), snapshot(1))
    before = store.used_bytes
    store.put("d", (1,), snapshot(7))
    assert store.used_bytes == before and value(store.longest_prefix("d", (1, 2))) == 7


def test_a_state_larger_than_the_store_is_not_kept():
    store = SnapshotStore(100)
    store.put("d", (1,), snapshot(1))
    assert len(store) == 0 and store.used_bytes == 0


# in the folder


def test_a_snapshot_is_found_only_by_another_process_with_the_same_model(tmp_path):
    put(lasting(tmp_path), (1, 2), 3.0, logits=True)
    found = lasting(tmp_path).longest_prefix("d", (1, 2))
    assert found[0] == 2 and value(found) == 3 and found[1].logits[5] == 3
    assert lasting(tmp_path, identity="n").longest_prefix("d", (1, 2, 3)) is None
    assert lasting(tmp_path).longest_prefix("e", (1, 2, 3)) is None


def test_logits_come_later_and_replace_the_file_without(tmp_path):
    store = lasting(tmp_path)
    put(store, (1, 2), 3.0)
    put(store, (1, 2), 3.0, logits=True)
    assert folder_use(tmp_path)[0] == 1 and lasting(tmp_path).longest_prefix("d", (1, 2))[0] == 2


def test_snapshots_evicted_from_memory_are_loaded_from_the_folder(tmp_path):
    store = lasting(tmp_path, memory=snapshot(0).nbytes + 256)
    for number in range(5):
        put(store, (number, 9), float(number))
    assert len(store) == 1
    assert [value(store.longest_prefix("d", (number, 9, 1))) for number in range(5)] == [0, 1, 2, 3, 4]
    assert store.folder_hits == 5


def test_the_quota_holds_and_the_least_recently_used_file_leaves_first(tmp_path):
    put(lasting(tmp_path / "one"), (0, 9), 0.0)
    size = folder_use(tmp_path / "one")[1]
    store = lasting(tmp_path, limit_bytes=20 * size, memory=snapshot(0).nbytes + 256)
    for number in range(16):
        put(store, (number, 9), float(number))
        os.utime(store.folder._file(store._key("d", (number, 9))), (number, number))
    assert store.longest_prefix("d", (0, 9, 1)) is not None  # used, so 1 is evicted next
    for number in range(16, 24):
        put(store, (number, 9), float(number))
        assert folder_use(tmp_path)[1] <= store.folder.limit_bytes
    again = lasting(tmp_path)
    assert again.longest_prefix("d", (0, 9, 1)) is not None and again.longest_prefix("d", (1, 9, 1)) is None


def test_a_cleared_folder_costs_reading_again_and_no_error(tmp_path):
    store = lasting(tmp_path, memory=snapshot(0).nbytes + 256)
    put(store, (1, 9), 1.0)
    put(store, (2, 9), 2.0)
    assert clear_folder(tmp_path) == 2 and folder_use(tmp_path) == (0, 0)
    assert store.longest_prefix("d", (1, 9, 1)) is None and store.folder.damaged == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["whole", "bf16", "f16", "f32"])
def test_a_state_survives_bit_for_bit_in_the_fewest_bytes(tmp_path, architecture, kind):
    config = fake_config(architecture=architecture)
    rng = np.random.default_rng(1)
    state = RecurrentState.zeros(config)
    for array in state.arrays.values():
        made = rng.normal(0, 3, array.shape).astype(np.float32)
        if kind == "bf16":
            made = (made.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        array[:] = {"whole": np.round(made), "f16": made.astype(np.float16).astype(np.float32)}.get(kind, made)
        array.flat[0] = -0.0
    path = tmp_path / f"{NAME}.snapshot"
    size = write_snapshot(path, Snapshot(state))
    assert read_snapshot(path, config).state.digest() == state.digest()
    assert size < state.nbytes * (1.01 if kind == "f32" else 0.51) + 1500 and size == path.stat().st_size


def rewritten(content, change):
    """The file with another header and a matching digest."""
    import hashlib

    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    header["__metadata__"]["digest"] = "0" * 64
    text = json.dumps(header).encode()
    made = len(text).to_bytes(8, "little") + text + content[8 + length :]
    return made.replace(b"0" * 64, hashlib.blake2b(made, digest_size=32).hexdigest().encode(), 1)


def entry(**changes):
    return lambda header: header["att_kv"].update(changes)


HOSTILE = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) // 2],
    "torn header": lambda content: content[:60],
    "more": lambda content: content + b"\0",
    "a bit": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "a bit of the header": lambda content: content.replace(b"att_kv", b"att_kw"),
    "zeros": lambda content: bytes(len(content)),
    "long header": lambda content: (2**63 - 1).to_bytes(8, "little") + content[8:],
    "pickle": lambda content: b"\x80\x04\x95" + content[3:],
    "shape": lambda content: rewritten(content, entry(shape=[2**31, 2**31])),
    "dtype": lambda content: rewritten(content, entry(dtype="F64")),
    "narrow": lambda content: rewritten(content, entry(dtype="F16")),
    "offsets": lambda content: rewritten(content, entry(data_offsets=[0, 2**60])),
    "negative": lambda content: rewritten(content, entry(data_offsets=[-64, 64])),
    "dtype of no kind": lambda content: rewritten(content, entry(dtype=[1])),
    "no table": lambda content: rewritten(content, lambda header: header.update(att_kv=[1])),
    "missing": lambda content: rewritten(content, lambda header: header.pop("ffn_x_prev")),
    "another": lambda content: rewritten(content, lambda header: header.update(evil=header["att_kv"])),
    "other model": lambda content: rewritten(content, lambda header: header["__metadata__"].update(architecture="6")),
    "other chat": lambda content: rewritten(content, lambda header: header["__metadata__"].update(of="another")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_torn_or_hostile_file_is_refused_goes_and_the_rest_is_found(tmp_path, name):
    store = lasting(tmp_path)
    put(store, (1,), 1.0)
    put(store, (1, 2), 2.0 + 2**-20)
    path = store.folder._file(store._key("d", (1, 2)))
    path.write_bytes(HOSTILE[name](path.read_bytes()))
    again = lasting(tmp_path)
    found = again.longest_prefix("d", (1, 2, 3))
    assert found[0] == 1 and value(found) == 1
    assert again.folder.damaged == 1 and not path.exists()


def test_a_state_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / f"{NAME}.snapshot"
    write_snapshot(path, snapshot(np.inf))
    with pytest.raises(DamagedFile):
        read_snapshot(path, fake_config())


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / f"{NAME}.snapshot"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(DamagedFile):
        read_snapshot(path, fake_config())


KILLED = """
import sys, os, signal
from pathlib import Path
from tests.engine.test_snapshot_store import lasting, snapshot
place, path = sys.argv[1], Path(sys.argv[2])
whole = getattr(os, place)
def die(*args):
    if place == "replace":
        whole(*args)
    os.kill(os.getpid(), signal.SIGKILL)
store = lasting(path)
store.put("d", (1,), snapshot(1.0), is_lasting=True)
store.folder.wait_written(20)
setattr(os, place, die)
store.put("d", (1, 2), snapshot(2.0), is_lasting=True)
store.folder.wait_written(20)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("place, kept", [("fsync", 1), ("replace", 2)])
def test_a_process_killed_while_it_writes_leaves_only_whole_snapshots(tmp_path, place, kept):
    done = subprocess.run([sys.executable, "-c", KILLED, place, str(tmp_path)], timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGKILL
    assert folder_use(tmp_path)[0] == kept
    again = lasting(tmp_path)
    assert again.longest_prefix("d", (1, 2, 3))[0] == kept and again.folder.damaged == 0


def test_a_folder_that_cannot_be_written_to_costs_only_the_snapshot(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = lasting(blocked / "snapshots")
    put(store, (1, 2), 1.0)
    assert len(store.folder) == 0 and store.longest_prefix("d", (1, 2, 3))[0] == 2


# with an engine


def kept(*args, **kwargs):
    return replace(request(*args, **kwargs), is_kept=True)


def lasting_engine(path, options="", memory=1 << 20, **kwargs):
    return engine(options, snapshots=lasting(path, memory=memory), **kwargs)


def closed(made):
    assert made.snapshots.folder.wait_written(PATIENCE_S)
    made.snapshots.close()


def test_regenerate_after_a_restart_reads_nothing_and_writes_the_same(tmp_path):
    ask = kept(prompt=range(1, 101), boundaries=(30, 60, 96))
    made = lasting_engine(tmp_path)
    first = run(made, ask)["a"]
    closed(made)
    again = lasting_engine(tmp_path)
    second = run(again, ask)["a"]
    assert second.token_ids == first.token_ids
    assert (second.stats.cached_tokens, second.stats.prefilled_tokens) == (100, 0)
    assert list(again.backend.step_sizes) == [(1,)] * (len(first.token_ids) - 1)


def test_an_answer_stopped_and_continued_equals_one_that_never_was(tmp_path):
    sampling = {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.3, "seed": 7}
    whole = run(engine(state_cache_bytes=0), request(**sampling, max_tokens=40))["a"].token_ids
    made = lasting_engine(tmp_path)
    run(made, kept(**sampling, max_tokens=40), steps=13)
    made.abort_request("a")
    run(made)
    closed(made)
    begun = kept("b", (1, 2, 3, *whole[:13]), **sampling, max_tokens=27)
    rest = run(lasting_engine(tmp_path), replace(begun, begun=13))["b"]
    assert rest.token_ids == whole[13:] and rest.stats.prefilled_tokens == 1


def test_a_long_answer_whose_engine_dies_is_read_again_from_its_last_snapshot(tmp_path):
    made = lasting_engine(tmp_path)
    answer = run(made, kept(max_tokens=400), steps=390)["a"].token_ids  # never closed, never finished
    assert made.snapshots.folder.wait_written(PATIENCE_S)
    stats = run(lasting_engine(tmp_path), kept("b", (1, 2, 3, *answer)))["b"].stats
    assert stats.cached_tokens >= 256


def test_the_ends_of_all_chats_outlast_the_middles(tmp_path):
    run(one := lasting_engine(tmp_path / "one"), kept())
    closed(one)
    size = folder_use(tmp_path / "one")[1] // 2  # of the prompt and of the answer
    made = engine(snapshots=lasting(tmp_path, limit_bytes=16 * size, memory=4000))
    chats = {first: [first, 2, 3] for first in range(1, 5)}
    for name in (1, 2, 3, *[4] * 12):
        chats[name] += run(made, kept(str(name), chats[name], seed=name))[str(name)].token_ids
        assert made.snapshots.folder.wait_written(PATIENCE_S)
    closed(made)
    assert folder_use(tmp_path)[1] <= 16 * size
    for name, tokens in chats.items():
        stats = run(lasting_engine(tmp_path), request(str(name), [*tokens, 99]))[str(name)].stats
        assert stats.prefilled_tokens <= 2


def test_a_prompt_of_a_program_lasts_when_it_is_long(tmp_path):
    made = lasting_engine(tmp_path)
    run(made, request("short", range(1, 101), boundaries=(50,)))
    run(made, request("long", [n % 250 for n in range(700)], boundaries=(50, 600)))
    closed(made)
    again = lasting_engine(tmp_path)
    assert run(again, request("short", range(1, 101)))["short"].stats.cached_tokens == 0
    assert run(again, request("long", [n % 250 for n in range(700)]))["long"].stats.cached_tokens == 600


def test_two_chats_never_see_each_others_state(tmp_path):
    """The same text after another beginning is another conversation."""
    made = lasting_engine(tmp_path)
    run(made, kept("a", range(1, 80), boundaries=(40,)), kept("b", range(2, 80), boundaries=(40,)))
    closed(made)
    for first in (1, 2, 3):
        ask = request("c", range(first, 90), **GREEDY)
        found = run(lasting_engine(tmp_path), ask)["c"]
        assert found.token_ids == run(engine(state_cache_bytes=0), ask)["c"].token_ids
        assert (found.stats.cached_tokens > 0) == (first < 3)


def test_random_walks_over_a_chat_equal_runs_from_the_start(tmp_path):
    walk(tmp_path, sequences=25, seed=3)


def walk(path, sequences, seed, options="", make=None, steps=12):
    """Edits, branches, undone messages, stops and restarts in random order; each answer is compared with one that was
    prefilled and generated from the start. Returns the number of answers, and how many of how many tokens were
    prefilled."""
    rng = random.Random(seed)
    make = make or (lambda store: engine(options, snapshots=store))
    plain = make(SnapshotStore(0))
    answers = read = asked = 0
    for number in range(sequences):
        folder = path / str(number)
        made = make(lasting(folder, memory=rng.choice([1 << 20, 30_000])))
        turns: list[tuple[list[int], list[int]]] = []
        for _ in range(steps):
            action = rng.choice(["ask", "ask", "regenerate", "edit", "undo", "stop", "restart"])
            if action == "restart":
                closed(made)
                made = make(lasting(folder))
                continue
            if action in ("edit", "undo") and turns:
                del turns[rng.randrange(len(turns)) :]
            if action == "undo":
                continue
            question = (
                turns.pop()[0] if action == "regenerate" and turns else rng.choices(range(1, 250), k=rng.randint(1, 90))
            )
            prompt, boundaries = [], []
            for asked_before, answered in turns:
                for part in (asked_before, answered):
                    prompt += part
                    boundaries.append(len(prompt))
            prompt += question
            sampling = {"temperature": 1.0, "top_p": 0.8, "presence_penalty": 0.4, "frequency_penalty": 0.4}
            ask = kept("a", prompt, boundaries=(*boundaries, len(prompt) - 1), seed=rng.randrange(99), **sampling)
            ask = replace(ask, params=replace(ask.params, max_tokens=rng.randint(2, 20)))
            expected = run(plain, ask)["a"]
            if action == "stop":
                written = run(made, ask, steps=rng.randint(1, 6))["a"].token_ids
                made.abort_request("a")
                run(made)
                done = len(written)
                if 0 < done < ask.params.max_tokens:
                    rest = replace(ask.params, max_tokens=ask.params.max_tokens - done)
                    go_on = replace(ask, prompt_token_ids=(*prompt, *written), begun=done, params=rest)
                    found = run(made, go_on)["a"]
                    assert [*written, *found.token_ids] == expected.token_ids
            else:
                found = run(made, ask)["a"]
                assert found.token_ids == expected.token_ids
                read, asked = read + found.stats.prefilled_tokens, asked + found.stats.prompt_tokens
            answers += 1
            turns.append((question, expected.token_ids))
        closed(made)
    return answers, read, asked
