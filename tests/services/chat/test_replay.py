"""Replay of a stored answer: the same tokens, or a report of the differences."""

import shutil

import pytest
from msgspec.structs import replace

from tests.acceptance.served_roost import STARTER
from tests.errors import raises_code
from tests.services.chat.test_chat_file import Machine, machine  # noqa: F401
from tests.services.chat.test_with_engine import wait_for_length
from tests.services.chat.watching import watch
from webapp.services.chat.probes import compared

RANDOM = "fake slots=4"
PATIENCE_S = 60


def replayed(here, message_id):
    here.turns.replays.start(message_id).join(PATIENCE_S)
    found = here.store.message(message_id).stats["replay"]
    assert found.pop("at") > 0
    return found


@pytest.fixture
def here(machine):  # noqa: F811
    return machine("here", RANDOM)


def test_a_replayed_answer_is_the_same_and_its_figures_say_so(here):
    chat = here.store.create(sampling={"temperature": 1.3, "top_p": 1.0, "max_tokens": 40})
    live = here.turns.send(chat.id, "Hello")
    watch(live)
    tokens = len(here.store.message(live.message_id).message.token_ids)
    assert replayed(here, live.message_id) == {"tokens": tokens, "differs_at": None}


def test_the_place_of_the_first_other_token_is_said(here):
    chat = here.store.create(sampling={"temperature": 1.3, "max_tokens": 40})
    live = here.turns.send(chat.id, "Hello")
    watch(live)
    message = here.store.message(live.message_id).message
    ids = (*message.token_ids[:2], message.token_ids[2] ^ 1, *message.token_ids[3:])
    here.store.change_message(live.message_id, replace(message, token_ids=ids))
    assert replayed(here, live.message_id) == {"tokens": len(ids), "differs_at": 3}


@pytest.mark.parametrize(
    ("own", "again", "place"),
    [((1, 2), (1, 2), None), ((1, 2), (1,), 2), ((1,), (1, 2), 2), ((), (), None), ((1, 2), (3, 2), 1)],
)
def test_lengths_count_too(own, again, place):
    assert compared(own, again) == {"tokens": len(own), "differs_at": place}


def test_a_stopped_answer_that_went_on_is_the_one_that_was_never_stopped(machine):  # noqa: F811
    here = machine("here", "fake script=' la' repeat=0 delay_ms=1")
    live = here.turns.send(here.store.create().id, "Sing")
    for goes_on in (True, False):
        wait_for_length(live, 3)
        here.turns.stop(live.chat_id)
        watch(live)
        assert replayed(here, live.message_id)["differs_at"] is None
        if goes_on:
            live = here.turns.continue_answer(live.message_id)


def test_a_version_that_began_with_chosen_tokens_is_written_from_there_on(here):
    chat = here.store.create(sampling={"temperature": 1.3, "top_p": 1.0, "max_tokens": 40})
    live = here.turns.send(chat.id, "Hello")
    watch(live)
    token_id = here.store.message(live.message_id).message.token_ids[2]
    forked = here.turns.fork(live.message_id, 4, token_id)
    watch(forked)
    assert replayed(here, forked.message_id)["differs_at"] is None


def test_what_has_changed_is_named_instead(here):
    chat = here.store.create()
    live = here.turns.send(chat.id, "Hello")
    watch(live)
    start = here.turns.replays.start
    here.store.set_system_prompt(chat.id, "Be brief.")
    with raises_code("cannot_replay", key="reason.services.replay_other_beginning"):
        start(live.message_id)
    here.store.set_system_prompt(chat.id, "")
    for name, reason in (("model_digest", "replay_other_model"), ("strategy", "replay_other_strategy")):
        was = here.store.message(live.message_id).stats[name]
        here.store.set_stats(live.message_id, **{name: "another"})
        with raises_code("cannot_replay", key=f"reason.services.{reason}"):
            start(live.message_id)
        here.store.set_stats(live.message_id, **{name: was})
    here.store.set_stats(live.message_id, seed=None)
    with raises_code("cannot_replay", key="reason.services.replay_nothing_stored"):
        start(live.message_id)
    with raises_code("cannot_replay", key="reason.services.replay_no_answer"):
        start(live.user_message_id)


def test_the_starter_repeats_itself_after_a_restart_too(tmp_path):
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / STARTER.name
    shutil.copyfile(STARTER, model)
    here = Machine(tmp_path, model, "native q8")
    chat = here.store.create(sampling={"temperature": 1.0, "top_p": 0.9, "max_tokens": 50})
    for text in ("Hello! How are you?", "Tell me about birds."):
        live = here.turns.send(chat.id, text)
        watch(live)
    try:
        assert replayed(here, live.message_id)["differs_at"] is None
        here.close()
        here = Machine(tmp_path, model, "native q8")
        assert replayed(here, live.message_id)["differs_at"] is None
    finally:
        here.close()
