"""Turns with the real manager and engine; only the model is fake."""

import pytest

from tests.errors import raises_code
from tests.manager.thread_engine import start_engine_in_thread
from tests.services.chat.watching import text_of, watch
from tests.waiting import PATIENCE_S, WaitRanOut, wait_until
from tests.weights.make_checkpoints import write_checkpoint
from webapp.manager.manager import ModelManager
from webapp.services.chat.probes import ask_aside
from webapp.services.chat.turns import ChatTurns
from webapp.services.generation import generation
from webapp.settings import Settings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Only its sizes matter: the fake backend does not read weights."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    write_checkpoint(path, "7", n_layer=1, n_embd=64, vocab_size=65536)
    return path


@pytest.fixture
def turns_of(model, database, tmp_path):
    made = []

    def make(strategy):
        settings = Settings(data_dir=tmp_path, models_dir=model.parent, model=model.name, strategy=strategy)
        manager = ModelManager(settings, start_engine=start_engine_in_thread)
        made.append((ChatTurns(manager, database, settings), manager))
        return made[-1][0]

    yield make
    for turns, manager in made:
        turns.close()
        manager.close()


def spelled(world, *texts):
    """A fake strategy that answers with these texts, each in the vocabulary's usual tokens."""
    return "fake script=" + ",".join(str(token_id) for text in texts for token_id in world.encode(text))


@pytest.mark.parametrize("rest", [(), ("\n\nUser: and so on",)], ids=["end of text", "role marker"])
def test_the_second_turn_reads_only_what_is_new(turns_of, store, world, rest):
    turns = turns_of(spelled(world, " Hi there.", *rest))
    chat = store.create()
    first = watch(turns.send(chat.id, "Hello"))
    assert (text_of(first), first[-1].finish_reason) == ("Hi there.", "stop")
    second = watch(turns.send(chat.id, "More"))[-1].stats
    new = world.encode("\n\n") + world.encode("User: More\n\n") + world.encode("Assistant:")
    assert second["prefilled_tokens"] <= len(new) + 1  # the last sampled token was not processed


@pytest.mark.parametrize(
    ("kind", "said", "lines"),
    [
        ("title", " **“Birds on wires”**\nand more", ["Birds on wires"]),
        ("questions", " 1. Why wires?\n\n- How many?\n3) When?\n4. Who?", ["Why wires?", "How many?", "When?"]),
        ("summary", " We spoke of birds.\nThey sit.", ["We spoke of birds.\nThey sit."]),
    ],
)
def test_a_side_question_prefills_only_the_question_and_leaves_no_trace(kind, said, lines, turns_of, store, world):
    turns = turns_of(spelled(world, said))
    chat = store.create(title="As it was")
    watch(turns.send(chat.id, "A long beginning: " + "birds on wires, " * 200))
    before = [row.id for row in store.branch(chat.id)]
    found, read = ask_aside(turns._manager, turns._presets, store, chat.id, kind, "Now something else.")
    assert found == lines and read < 20
    assert [row.id for row in store.branch(chat.id)] == before and store.get(chat.id).title == "As it was"
    assert watch(turns.send(chat.id, "On"))[-1].stats["read_again"] == 0


def test_no_side_question_in_a_chat_without_messages(turns_of, store):
    with raises_code("prompt_empty"):
        turns = turns_of("fake")
        ask_aside(turns._manager, turns._presets, store, store.create().id, "title", "A title?")


def test_a_stop_only_the_text_shows_costs_reading_that_one_answer_again(turns_of, store, world):
    r"""The stop is inside the single token "。\n", so the engine samples a part of it before the stop reaches it."""
    turns = turns_of(spelled(world, " 你好。\n\nUser: 好"))
    chat = store.create()
    assert text_of(watch(turns.send(chat.id, "你好"))) == "你好。"
    second = watch(turns.send(chat.id, "再见"))[-1].stats
    new = world.encode("Assistant:") + world.encode(" 你好。\n\n") + world.encode("User: 再见\n\nAssistant:")
    assert second["prefilled_tokens"] <= len(new)


def test_regenerate_reads_nothing(turns_of, store):
    turns = turns_of("fake script=' Hi.'")
    live = turns.send(store.create().id, "Hello, this is a somewhat longer question")
    watch(live)
    again = watch(turns.regenerate(live.message_id))[-1]
    assert (again.stats["prefilled_tokens"], again.stats["read_again"]) == (0, 0)


def restarted(turns_of, turns, strategy):
    turns.close()
    turns._manager.close()
    return turns_of(strategy)


def test_after_a_restart_every_way_to_continue_prefills_nothing_again(turns_of, store):
    strategy = "fake script=' Hi there.'"
    turns = turns_of(strategy)
    chat = store.create()
    first = turns.send(chat.id, "A first question of some length")
    watch(first)
    second = turns.send(chat.id, "And a second one")
    watch(second)
    for go_on, most in (
        (lambda turns: turns.regenerate(second.message_id), 0),
        (lambda turns: turns.edit(second.user_message_id, "Another second one"), 20),
        (lambda turns: turns.regenerate(first.message_id), 0),
        (lambda turns: turns.send(chat.id, "And a third"), 20),
    ):
        turns = restarted(turns_of, turns, strategy)
        stats = watch(go_on(turns))[-1].stats
        assert stats["read_again"] == 0 and stats["prefilled_tokens"] <= most


def test_after_another_model_and_back_nothing_is_read_again(turns_of, store):
    a, b = "fake script=' Hi there.'", "fake script=' Good day.'"
    turns = turns_of(a)
    live = turns.send(store.create().id, "A question of some length")
    watch(live)
    turns._manager.load(strategy=b)
    other = watch(turns.regenerate(live.message_id))
    assert text_of(other) == "Good day." and other[-1].stats["read_again"] > 0  # another model's state cannot be used
    turns._manager.load(strategy=a)
    back = watch(turns.regenerate(live.message_id))
    assert text_of(back) == "Hi there." and back[-1].stats["prefilled_tokens"] == 0


def test_lost_snapshots_are_read_again_and_counted(turns_of, store, tmp_path):
    strategy = "fake script=' Hi there.'"
    turns = turns_of(strategy)
    live = turns.send(store.create().id, "A question of some length")
    prompt_tokens = watch(live)[-1].stats["prompt_tokens"]
    turns.close()
    turns._manager.close()
    for file in (tmp_path / "snapshots").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    again = watch(turns_of(strategy).regenerate(live.message_id))[-1].stats
    assert again["read_again"] == prompt_tokens == again["prefilled_tokens"]


def test_stop_ends_an_endless_answer_and_continue_reads_almost_nothing(turns_of, store):
    turns = turns_of("fake script=' la' repeat=0 delay_ms=1")
    chat = store.create()
    live = turns.send(chat.id, "Sing")
    wait_for_length(live, 3)
    turns.stop(chat.id)
    assert watch(live)[-1].finish_reason == "abort"
    stopped = store.message(live.message_id)
    assert stopped.status == "stopped"
    again = turns.continue_answer(live.message_id)
    wait_for_length(again, len(stopped.message.content) + 3)
    turns.stop(chat.id)
    assert watch(again)[-1].stats["prefilled_tokens"] <= 4


def wait_for_length(live, length):
    """Waits until the log has this many characters of content."""
    shown, position = 0, 0
    while shown < length:
        events, position = live.events_after(position, PATIENCE_S)
        if not events:
            raise WaitRanOut(f"only {shown} characters came")
        shown += len(text_of(events))


def test_a_model_that_breaks_fails_the_turn_and_keeps_its_text(turns_of, store, world):
    prompt = world.encode("User: Hello\n\n") + world.encode("Assistant:")
    turns = turns_of(f"fake script=' Hi there.' nan_at={len(prompt) + 4}")
    live = turns.send(store.create().id, "Hello")
    failed = watch(live)[-1]
    assert failed.error["code"] == "non_finite_logits"
    stored = store.message(live.message_id)
    assert stored.status == "failed" and " Hi there.".startswith(" " + stored.message.content)


def test_eight_chats_at_once_get_their_own_answers(turns_of, store):
    turns = turns_of("fake script=' Hi there.' slots=4 delay_ms=1")
    lives = [turns.send(store.create().id, f"Hello {index}") for index in range(8)]
    assert [text_of(watch(live)) for live in lives] == ["Hi there."] * 8


def are_those_in_use(turns, store):
    """The folder contains exactly the snapshots that some chat uses."""
    with store.database.connect() as connection:
        used = {row["name"] for row in connection.execute("SELECT DISTINCT name FROM snapshot_uses")}
    files = turns._manager._settings.snapshot_dir.glob("*.snapshot")
    return used == {path.stem.removesuffix("-logits") for path in files} and len(used)


def test_a_deleted_chat_takes_its_snapshots_along_but_not_those_of_another(turns_of, store):
    turns = turns_of("fake script=' Hi there.'")
    ids = [store.create().id for _ in range(2)]
    for chat_id in ids:
        watch(turns.send(chat_id, "The same beginning"))
    watch(turns.send(ids[0], "Only here"))
    wait_until(lambda: are_those_in_use(turns, store) >= 4)
    turns.delete(ids[0])
    wait_until(lambda: 2 <= are_those_in_use(turns, store) < 4)
    assert watch(turns.send(ids[1], "More"))[-1].stats["read_again"] == 0
    store.restore(ids[0])
    assert watch(turns.send(ids[0], "And"))[-1].stats["read_again"] > 0


def test_what_a_stopped_answer_leaves_in_a_deleted_chat_goes_too(turns_of, store, monkeypatch):
    # an end that the engine did not report has no snapshots
    monkeypatch.setattr(generation, "ABORT_GRACE_S", PATIENCE_S)
    turns = turns_of("fake script=' la' repeat=0 delay_ms=1")
    first, second = (store.create().id for _ in range(2))
    live = turns.send(first, "Hum")
    wait_for_length(live, 3)
    turns.stop(first)
    watch(live)
    live = turns.send(second, "Sing")
    wait_for_length(live, 3)
    turns.delete(second)
    assert live.wait_finished(PATIENCE_S)
    wait_until(lambda: are_those_in_use(turns, store))
    with store.database.connect() as connection:
        owners = {row["owner"] for row in connection.execute("SELECT owner FROM snapshot_uses")}
    assert owners == {first}
