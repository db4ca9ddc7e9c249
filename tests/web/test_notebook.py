"""The notebook without a browser: text that is generated, saved, undone and inspected."""

import contextlib
import itertools
import json
import re

import pytest

from tests.errors import raises_code
from tests.web.apps import open_app
from tests.web.chat.running_roost import fake_strategy, models_dir
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import write_checkpoint
from webapp.chat.messages import Finished
from webapp.services.notebook import known_tokens
from webapp.settings import Settings
from webapp.storage.notebooks import MAX_STEPS, Draft, NotebookStore
from webapp.tokenizer import load_tokenizer

ANSWER = "and so on, 中文."
LINES = "application/x-ndjson"


class Page:
    """One notebook as its page sees it; ``live``: the lines for the scripts, as dicts."""

    def __init__(self, app):
        self.app, self.client = app, owner_client(app)
        self.notebooks = app.extensions["notebooks"]
        self.id = self.post("/notebook").request.path.rpartition("/")[2]

    def post(self, path, accept="", **fields):
        headers = {"Origin": "http://127.0.0.1", **({"Accept": accept} if accept else {})}
        given = {"base_url": "http://127.0.0.1", "headers": headers, "data": fields}
        return self.client.post(path, follow_redirects=not accept, **given)

    def act(self, name, **fields):
        return self.post(f"/notebook/{self.id}/{name}", "application/json", **fields).get_json()

    def live(self, **fields):
        answer = self.post(f"/notebook/{self.id}/continue", LINES, **fields)
        return [json.loads(line) for line in answer.get_data(as_text=True).splitlines()]

    def get(self, path="", **headers):
        answer = self.client.get(f"/notebook/{self.id}{path}", base_url="http://127.0.0.1", headers=headers)
        return answer.get_data(as_text=True)

    def part(self, path):
        return self.get(path, **{"HX-Request": "true"})

    @property
    def stored(self):
        return self.notebooks.store.get(self.id)


@pytest.fixture
def opened(tmp_path):
    apps, numbers = contextlib.ExitStack(), itertools.count()

    def opened(strategy=fake_strategy(ANSWER), **more):  # noqa: B008  # made once
        more = {"data_dir": tmp_path / f"data{next(numbers)}", "models_dir": models_dir(), **more}
        settings = Settings(strategy=strategy, open_browser=False, **more)
        return Page(apps.enter_context(open_app(settings)))

    with apps:
        yield opened


def words(lines):
    return "".join(line.get("text", "") for line in lines)


def read_tokens(lines):
    """How many tokens were read, as the figures say."""
    figures = next(line["figures"] for line in lines if "figures" in line)
    return int(re.search(r"(\d+) tokens? read", figures)[1])


def test_a_text_is_continued_and_saved_and_prefills_nothing_again(opened):
    page = opened()
    first = page.live(text="Once upon a time ", name="A tale")
    assert words(first) == ANSWER and first[-1]["state"]["text"] == "Once upon a time " + ANSWER
    assert "".join(text for line in first for text, *_ in line.get("tokens", ())) == ANSWER
    assert (page.stored.name, page.stored.draft.text) == ("A tale", "Once upon a time " + ANSWER)
    longer = page.stored.draft.text + " Then"
    assert read_tokens(page.live(text=longer)) <= 2, "what stood before goes on from its state"
    assert page.stored.draft.text == longer + ANSWER
    assert ANSWER in page.get() and page.get("/export.txt") == longer + ANSWER


def test_undo_and_redo_move_over_whole_continuations_and_survive_the_page(opened):
    page = opened()
    page.live(text="One ")
    page.live(text="One " + ANSWER + " Two ")
    assert page.act("undo")["text"] == f"One {ANSWER} Two "
    back = page.act("undo")
    assert (back["text"], back["can_undo"], back["can_redo"]) == ("One ", False, True)
    assert page.act("undo")["text"] == "One ", "there is nothing before it"
    page.act("redo")
    assert page.act("redo")["text"] == f"One {ANSWER} Two {ANSWER}"
    page.act("undo")
    assert page.live(text="Three ")[-1]["state"]["can_redo"] is False


def test_each_token_shows_its_alternatives_and_a_fork_prefills_only_that(opened):
    page = opened()
    page.live(text="Once upon a time ")
    shown = page.part("/tokens")
    places = [int(place) for place in re.findall(r'name="at" value="(\d+)"', shown)]
    assert '<span class="typed">Once upon a time </span>' in shown and ">中</button>" in shown
    others = page.part(f"/tokens?at={places[3]}")
    assert others.count('class="alternative') - others.count('class="alternatives') >= 8
    fork = re.findall(r'value="(fork:\d+:\d+)">', others)[0]
    lines = page.live(fork=fork)
    place, token = (int(number) for number in fork.split(":")[1:])
    assert page.stored.draft.token_ids[place] == token and read_tokens(lines) == 1
    assert page.stored.draft.text.startswith("Once upon a time and") and page.stored.draft.text.endswith(ANSWER)
    assert page.act("undo")["text"] == "Once upon a time " + ANSWER
    assert page.live(fork="fork:99999:1")[0]["error"]["code"] == "notebook_token_gone"
    assert "notebook_token_gone" not in page.part(f"/tokens?at={places[3]}")
    page.act("save", text="Once other")
    assert 'class="failure' in page.part(f"/tokens?at={places[3]}")


def test_without_scripts_the_form_is_posted_and_the_page_says_what_is_wrong(opened):
    page = opened()
    answer = page.post(f"/notebook/{page.id}/continue", text="Hello\r\nyou ", name="Mine")
    assert answer.status_code == 200 and page.stored.draft.text == "Hello\nyou " + ANSWER
    other = page.post(f"/notebook/{page.id}/save", text="typed here", seen="1.0")
    shown = other.get_data(as_text=True)
    assert other.status_code == 409 and "typed here" in shown and 'data-code="notebook_changed"' in shown
    assert page.stored.draft.text == "Hello\nyou " + ANSWER
    assert page.post(f"/notebook/{page.id}/continue", text="").status_code == 400
    gone = page.post(f"/notebook/{page.id}/delete")
    undo = re.search(r'value="(restore:\w+)"', gone.get_data(as_text=True))[1]
    assert page.client.get(f"/notebook/{page.id}", base_url="http://127.0.0.1").status_code == 404
    assert page.post("/notebook/do", do=undo).status_code == 200 and page.stored.name == "Mine"


def test_a_gap_is_filled_where_the_model_can(opened, tmp_path):
    assert opened().live(text="Before after", gap="7")[0]["error"]["code"] == "unsupported_parameter"
    (tmp_path / "models").mkdir()
    write_checkpoint(tmp_path / "models" / "rwkv7-g1d-tiny.pth", "7", n_layer=1, n_embd=64, vocab_size=65536)
    page = opened(models_dir=tmp_path / "models", model="rwkv7-g1d-tiny.pth")
    assert 'data-live="gap"' in page.get()
    lines = page.live(text="之前 after", gap="3")
    assert (lines[0]["head"], lines[0]["tail"], words(lines)) == ("之前 ", "after", ANSWER)
    assert page.stored.draft.text == f"之前 {ANSWER}after"
    assert set(page.stored.draft.chances) <= {None}, "its tokens were not written after what stands before them"


def test_sampling_that_differs_from_the_preset_is_kept_and_used(opened):
    page = opened()
    page.act("save", text="Once ", drawn_preset="", temperature="0.35", max_tokens="3", preset="gone")
    assert page.stored.settings == {"preset": "", "sampling": {"temperature": 0.35, "max_tokens": 3}}
    assert words(page.live(text="Once ")) == ANSWER[:3]
    page.act("save", text="Once ", drawn_preset="", temperature="hot", max_tokens="4")
    assert page.stored.settings["sampling"] == {"temperature": 0.35, "max_tokens": 4}
    assert 'value="0.35"' in page.get()


def test_what_is_written_stays_when_it_is_stopped_or_the_reader_leaves(opened):
    page = opened(fake_strategy("la ", repeat=0, delay_ms=1))
    steps = page.notebooks.continued(page.id, "Sing: ")
    seen = [step for step in (next(steps) for _ in range(40)) if getattr(step, "text", "")]
    with raises_code("notebook_busy"):
        page.notebooks.continued(page.id, "Sing: ")
    page.notebooks.stop(page.id)
    seen += [step for step in steps if getattr(step, "text", "")]
    assert page.stored.draft.text == "Sing: " + "".join(step.text for step in seen)
    left = page.notebooks.continued(page.id, "Hum: ")
    while not getattr(next(left), "text", ""):
        pass
    left.close()
    assert page.stored.draft.text.startswith("Hum: l") and not page.notebooks.is_running(page.id)


def test_a_stop_before_the_first_step_ends_it(opened, monkeypatch):
    page = opened(fake_strategy("la ", repeat=0, delay_ms=1))
    write = page.notebooks.store.write

    def stopped_meanwhile(*given, **more):
        page.notebooks.stop(page.id)
        return write(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(page.notebooks.store, "write", stopped_meanwhile)
        steps = page.notebooks.continued(page.id, "Sing: ")
    assert not any(isinstance(step, Finished) for step in steps), "the end of one that was stopped is told to nobody"
    assert not page.notebooks.is_running(page.id)
    steps = page.notebooks.continued(page.id, "Hum: ")
    while not getattr(next(steps), "text", ""):  # the next one is not stopped
        pass
    steps.close()


def test_one_deleted_while_it_is_written_says_so_and_keeps_no_states(opened, monkeypatch):
    page = opened()
    store = page.notebooks.store
    note, unneeded = store.note_snapshots, []

    def deleted_meanwhile(notebook_id, names):
        store.delete(notebook_id)
        unneeded.extend(note(notebook_id, ["late"]))
        return unneeded

    monkeypatch.setattr("webapp.services.notebook.SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(store, "note_snapshots", deleted_meanwhile)
    assert page.live(text="Sing: ")[-1]["error"]["code"] == "notebook_not_found" and unneeded == ["late"]
    with page.app.extensions["database"].connect() as connection:
        assert connection.execute("SELECT 1 FROM snapshot_uses WHERE owner = ?", (page.id,)).fetchall() == []


@pytest.mark.parametrize("text", ["", "中文 and more", "中文", "中", "other"])
def test_known_tokens_end_with_a_whole_character(text):
    tokenizer = load_tokenizer(65536)
    ids = [byte + 1 for byte in "中文".encode()]
    count, shown = known_tokens(ids, text, tokenizer)
    assert shown == {"": "", "other": ""}.get(text, text[:2]) and count == 3 * len(shown)


def test_a_store_keeps_a_limited_number_of_steps_and_refuses_changes_made_elsewhere(database):
    store = NotebookStore(database)
    made = store.create("one")
    for number in range(MAX_STEPS + 5):
        store.write(made.id, Draft(f"{number}"), is_step=True)
        store.write(made.id, Draft(f"{number} on"))
    found = [store.step(made.id, store.get(made.id).draft, is_back=True).draft.text for _ in range(MAX_STEPS + 5)]
    assert found[0] == f"{MAX_STEPS + 4}" and found[-1] == "5"
    with raises_code("notebook_changed"):
        store.write(made.id, Draft("x"), seen=1.0)
    store.delete(made.id)
    with raises_code("notebook_not_found"):
        store.get(made.id)
