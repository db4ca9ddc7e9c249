import subprocess
import sys

import numpy as np
import pytest

from tests.engine.driving import forward
from tests.errors import raises_code
from webapp.backends.fake import FakeBackend, FakeOptions, fake_config
from webapp.engine.backend import ModelSizes
from webapp.engine.registry import resolve_strategy
from webapp.engine.state import RecurrentState
from webapp.errors import ModelError, StrategyError


def options_of(text):
    return resolve_strategy(f"fake {text}")[1]


def load(options="", config=None):
    return FakeBackend.load("", config, options_of(options), lambda progress: None)


def greedy(backend, slot, prompt, limit=40):
    logits, answer = forward(backend, [slot], [prompt]), []
    while len(answer) < limit:
        answer.append(int(logits[0].argmax()))
        if answer[-1] == 0:
            break
        logits = forward(backend, [slot], [answer[-1:]])
    return answer


def text(token_ids):
    return bytes(t - 1 for t in token_ids if t).decode()


def test_a_script_is_answered_and_ends_with_token_0():
    backend = load('script="good day" repeat=2')
    answer = greedy(backend, backend.new_slot(), [9, 9])
    assert text(answer) == "good daygood day" and answer[-1] == 0


def test_a_script_of_numbers_is_token_ids():
    assert FakeOptions.parse("fake script=5,6,70").script_token_ids() == [5, 6, 70]


def test_a_prompt_that_ends_inside_the_script_continues_from_there():
    backend = load("script=hello")
    assert text(greedy(backend, backend.new_slot(), [9, *(b + 1 for b in b"he")])) == "llo"


@pytest.mark.parametrize("architecture", ["4", "5.2", "6", "7"])
def test_logits_depend_on_every_token_and_on_the_initial_state_but_not_on_chunking(architecture):
    backend = load(config=fake_config(256, architecture))
    whole, chunked, other, flavoured = (backend.new_slot() for _ in range(4))
    expected = forward(backend, [whole], [[1, 2, 3, 4]])
    forward(backend, [chunked], [[1, 2]])
    assert np.array_equal(forward(backend, [chunked], [[3, 4]]), expected)
    assert not np.array_equal(forward(backend, [other], [[7, 2, 3, 4]]), expected)
    state = RecurrentState.zeros(backend.config)
    state.arrays["att_aa" if architecture == "4" else "att_kv"][:] = 0.5
    backend.write_state(flavoured, state)
    assert not np.array_equal(forward(backend, [flavoured], [[1, 2, 3, 4]]), expected)


def test_a_state_written_to_another_slot_continues_the_same():
    backend = load()
    first, second = backend.new_slot(), backend.new_slot()
    forward(backend, [first], [[1, 2, 3]])
    backend.write_state(second, backend.read_state(first))
    logits = forward(backend, [first, second], [[4], [4]])
    assert np.array_equal(logits[0], logits[1])
    backend.read_state(first).check(backend.config)


def test_it_fails_where_it_is_told_to():
    backend = load("fail_on=9 nan_at=3")
    slot = backend.new_slot()
    assert np.isfinite(forward(backend, [slot], [[1, 2]])).all()
    assert np.isnan(forward(backend, [slot], [[3]])).all()
    assert np.isnan(forward(backend, [slot], [[4]])).all()
    with pytest.raises(RuntimeError, match="told to fail"):
        forward(backend, [backend.new_slot()], [[1, 9]])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_it_can_kill_its_process():
    code = (
        "from webapp.engine.backend import Row; from webapp.engine.registry import resolve_strategy as r\n"
        "b, o = r('fake kill_at=2'); b = b.load('', None, o, print); b.step([Row(b.new_slot(), [1, 2])])"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == -9


def test_loading_reports_progress_and_can_be_cancelled():
    seen = []
    backend = FakeBackend.load("", fake_config(), options_of("load_steps=4 load_bytes=100 vocab=300"), seen.append)
    assert [p.done_bytes for p in seen] == [0, 25, 50, 75, 100] and backend.config.vocab_size == 300

    def cancel(progress):
        raise ModelError("load_cancelled")

    with raises_code("load_cancelled"):
        FakeBackend.load("", fake_config(), options_of(""), cancel)


def test_it_refuses_and_fails_with_typed_errors():
    with raises_code("strategy_invalid", reason="because"):
        FakeBackend.check(ModelSizes(fake_config()), options_of("refuse=because"))
    with raises_code("load_failed", reason="why not"):
        load('load_fail="why not"')
    with pytest.raises(StrategyError, match="slotz"):
        options_of("slotz=3")
