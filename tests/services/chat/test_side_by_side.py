"""Several answers to one question: from one prefill, kept or discarded; presets and models compared in turn."""

import shutil

from tests.errors import raises_code
from tests.services.chat.test_with_engine import model, turns_of  # noqa: F401
from tests.services.chat.watching import watch
from tests.waiting import wait_until
from webapp.chat.messages import Beside, Message, Role, Variant
from webapp.services.chat.side_by_side import beside_each_other, tally
from webapp.services.chat.turn_writer import TurnWriter
from webapp.storage.chats import ChatStore


def written(turns, live):
    """All answers of the group, when complete."""
    lives = turns.answers(live.chat_id)
    for each in lives:
        watch(each)
    return lives


def rows(store, lives):
    return [store.message(live.message_id) for live in lives]


def test_many_answers_prefill_their_prompt_once_and_each_has_its_own_seed(turns_of, store):  # noqa: F811
    turns = turns_of("fake slots=9")
    chat = store.create(sampling={"max_tokens": 12, "seed": 100, "top_p": 1.0})
    found = rows(store, written(turns, turns.send(chat.id, "A question of some words", count=8)))
    assert [row.stats["prefilled_tokens"] for row in found] == [found[0].stats["prompt_tokens"]] + [0] * 7
    assert [row.stats["seed"] for row in found] == list(range(100, 108))
    assert len({row.message.token_ids for row in found}) == 8
    assert [Beside.of(row.message).place for row in found] == list(range(8))
    assert store.get(chat.id).head_id == found[0].id and found[0].version_count == 8
    alone = rows(store, written(turns, turns.regenerate(found[0].id)))[0]
    assert alone.message.token_ids == found[0].message.token_ids  # with the first answer's seed


def test_seeds_that_nobody_chose_differ_and_are_recorded(turns_of, store):  # noqa: F811
    turns = turns_of("fake slots=9")
    chat = store.create(sampling={"max_tokens": 4})
    found = rows(store, written(turns, turns.send(chat.id, "Why?", count=8)))
    assert len({row.stats["seed"] for row in found}) == 8


def test_one_is_stopped_and_the_others_continue_until_all_are(turns_of, store):  # noqa: F811
    turns = turns_of("fake slots=9 repeat=0 delay_ms=5 script='and so on '")
    chat = store.create(sampling={"max_tokens": 5000})
    turns.send(chat.id, "Why?", count=4)
    lives = turns.answers(chat.id)
    for live in lives:
        wait_until(lambda live=live: store.message(live.message_id).message.content)
    turns.stop_answer(lives[1].message_id)
    assert lives[1].wait_finished(60)
    assert [live.is_finished for live in lives] == [False, True, False, False]
    with raises_code("turn_running"):
        turns.send(chat.id, "And then?")
    turns.stop(chat.id)
    written(turns, lives[0])
    assert {row.status for row in rows(store, lives)} == {"stopped"}


def test_what_is_kept_is_a_version_what_is_discarded_is_gone_until_it_is_taken_back(turns_of, store):  # noqa: F811
    turns = turns_of("fake script=' Hi.'")
    chat = store.create()
    lives = written(turns, turns.send(chat.id, "Hello", count=4))
    ids = [live.message_id for live in lives]
    question = store.message(ids[0]).parent_id
    head = store.message(ids[0])
    assert [row.id for row in turns.beside.undecided(head)] == ids
    discarded = turns.decide(ids[0], [ids[1], ids[3]])
    assert discarded == [ids[0], ids[2]]
    assert [row.id for row in store.versions(ids[1])] == [ids[1], ids[3]]
    assert store.get(chat.id).head_id == ids[1] and turns.beside.undecided(store.message(ids[1])) == []
    assert turns.beside.undo(question) == chat.id
    assert [row.id for row in turns.beside.undecided(store.message(ids[1]))] == ids
    turns.decide(ids[0], [])
    assert [row.id for row in store.branch(chat.id)] == [question]


def test_an_answer_that_is_discarded_while_it_is_written_ends(turns_of, store):  # noqa: F811
    turns = turns_of("fake slots=9 repeat=0 delay_ms=5 script='and so on '")
    chat = store.create(sampling={"max_tokens": 5000})
    first = turns.send(chat.id, "Why?", count=3)
    lives = turns.answers(chat.id)
    turns.decide(first.message_id, [lives[2].message_id])
    assert lives[0].wait_finished(60) and lives[1].wait_finished(60) and not lives[2].is_finished
    assert [row.id for row in store.versions(lives[2].message_id)] == [lives[2].message_id]
    turns.stop(chat.id)
    written(turns, first)
    assert Beside.of(store.message(lives[2].message_id).message) is not None


def compared(store, chat, *variants):
    """A question with such answers, and their ids."""
    question = store.add_message(chat.id, None, Message(Role.USER, "Why?"))
    metadata = beside_each_other(variants)
    return [store.add_message(chat.id, question.id, Message(Role.ASSISTANT, "x", metadata=one)).id for one in metadata]


def test_votes_are_counted_by_what_was_compared(turns_of, store):  # noqa: F811
    """Includes answers that were deleted since; not other people's votes, those of deleted chats, or those between
    equal choices."""
    turns, mine, others = turns_of("fake"), ChatStore(store.database, "owner"), ChatStore(store.database, "anna")
    first, second = Variant("preset", "a", "Calm"), Variant("preset", "b", "Bold")
    for winner, variants in ((0, (first, second)), (1, (first, second)), (0, (first, Variant("model", "m", "m")))):
        answers = compared(mine, mine.create(), *variants)
        turns.beside.vote(answers[winner])
        turns.decide(answers[0], [answers[1]])
    compared(mine, mine.create(), first, second)  # no vote
    turns.beside.vote(compared(mine, mine.create(), Variant(), Variant())[0])
    turns.beside.vote(compared(others, others.create(), second, first)[0])
    gone = mine.create()
    turns.beside.vote(compared(mine, gone, second, first)[0])
    mine.delete(gone.id)
    told = [(row.variant.label, row.won, row.count) for row in tally(mine)]
    assert told == [("Calm", 2, 3), ("Bold", 1, 2), ("m", 0, 1)]
    assert [(row.variant.label, row.won, row.count) for row in tally(others)] == [("Bold", 1, 1), ("Calm", 0, 1)]


def test_a_vote_is_for_one_and_can_be_taken_back(turns_of, store):  # noqa: F811
    turns = turns_of("fake script=' Hi.'")
    lives = written(turns, turns.send(store.create().id, "Hello", count=2))
    head = store.message(lives[0].message_id)
    voted = []
    for live in (lives[0], lives[1], lives[1]):
        turns.beside.vote(live.message_id)
        voted.append(turns.beside.voted(head, Beside.of(head.message)))
    assert voted == [lives[0].message_id, lives[1].message_id, ""]


def test_states_and_presets_are_compared_with_everything_a_preset_says(turns_of, store):  # noqa: F811
    turns = turns_of("fake slots=4")
    presets = turns._presets
    pirate = presets.create("Pirate", {"system_prompt": "Talk like a pirate.", "max_tokens": 5, "seed": 7})
    chat = store.create(system_prompt="Be brief.", sampling={"max_tokens": 3, "seed": 1})
    first = turns.send(chat.id, "Who are you?")
    watch(first)
    lives = written(turns, turns.several(first.message_id, [Variant(), Variant("preset", pirate.id, "Pirate")]))
    own, other = rows(store, lives)
    assert (own.stats["decoded_tokens"], own.stats["seed"]) == (3, 1)
    assert (other.stats["decoded_tokens"], other.stats["seed"], other.stats["preset"]) == (5, 8, "Pirate")
    assert other.stats["prompt_tokens"] != own.stats["prompt_tokens"]
    turns.decide(other.id, [other.id])
    fork = turns.fork(other.id, 2, 77)
    assert watch(fork)[-1].stats["prompt_tokens"] == other.stats["prompt_tokens"] + 3  # its preset's, not the chat's
    assert turns.beside.undecided(store.message(fork.message_id)) == []
    with raises_code("preset_not_found"):
        turns.several(first.message_id, [Variant(), Variant("preset", "gone")])
    for wrong in ([Variant()], [Variant()] * 33):
        with raises_code("chat_error"):
            turns.several(first.message_id, wrong)


def test_models_answer_in_turn_and_the_one_before_is_loaded_again(turns_of, model, store):  # noqa: F811
    other = model.with_name("other.safetensors")
    shutil.copy(model, other)
    try:
        turns = turns_of("fake script=' Hi.'")
        manager = turns._manager
        first = turns.send(store.create().id, "Hello")
        watch(first)
        variants = [Variant("model", other.name, other.name), Variant("model", model.name, model.name)]
        found = rows(store, written(turns, turns.several(first.message_id, variants)))
        assert [(row.model, row.message.content) for row in found] == [(other.name, "Hi."), (model.name, "Hi.")]
        wait_until(lambda: manager.status().model == model.name and manager.status().phase == "ready")
    finally:
        other.unlink()


def test_a_model_that_cannot_be_loaded_fails_only_its_own_answer(turns_of, store):  # noqa: F811
    turns = turns_of("fake script=' Hi.'")
    first = turns.send(store.create().id, "Hello")
    watch(first)
    lives = written(turns, turns.several(first.message_id, [Variant("model", "gone.pth"), Variant()]))
    gone, there = rows(store, lives)
    assert (gone.status, gone.error["code"], there.message.content) == ("failed", "model_not_found", "Hi.")


def test_calls_in_answers_side_by_side_wait_until_one_is_kept(turns_of, store, monkeypatch):  # noqa: F811
    turns = turns_of("fake script=' Hi.'")
    monkeypatch.setattr(TurnWriter, "has_calls", True)
    advanced = []
    monkeypatch.setattr(turns.tools, "advance", advanced.append)
    lives = written(turns, turns.send(store.create().id, "Hello", count=2))
    turns.decide(lives[0].message_id, [lives[1].message_id])
    wait_until(lambda: advanced)
    assert advanced == [lives[1].message_id]
