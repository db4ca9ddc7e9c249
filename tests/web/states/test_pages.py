"""The states pages without scripts: each action is a form, and the next page reports the result."""

from __future__ import annotations

import io
import re

import pytest

from tests.manager.conftest import last_output, request
from tests.waiting import PATIENCE_S
from tests.web.apps import open_app
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import write_checkpoint, write_state
from tests.wording import is_refused, says, text
from webapp.services.downloads.catalogue import trained_context
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.web.kit.page import current_page
from webapp.web.states.state_view import context_note, heat_map

OWN = {"Origin": "http://127.0.0.1"}
SIZES = {"n_layer": 2, "n_embd": 64, "head_size": 32, "vocab_size": 65536}
EVIL = "<img src=x onerror=alert(1)>.pth"


class Browser:
    def __init__(self, client, states, manager) -> None:
        self.client, self.states, self.manager = client, states, manager

    def get(self, path: str, **headers: str) -> str:
        answer = self.client.get(path, base_url="http://127.0.0.1", headers=headers)
        assert answer.status_code == 200, (path, answer.status_code)
        return answer.get_data(as_text=True)

    def post(self, path: str, expected: int = 200, **form: object) -> str:
        """After the redirect."""
        answer = self.client.post(path, base_url="http://127.0.0.1", headers=OWN, data=form, follow_redirects=True)
        assert answer.status_code == expected, (path, answer.status_code, answer.get_data(as_text=True)[:300])
        return answer.get_data(as_text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "seven.pth", "7", **SIZES)
    write_checkpoint(folder / "own.pth", "7", **SIZES, time_state=True)
    return folder


@pytest.fixture
def browser(folder, tmp_path):
    states = folder / "states"
    states.mkdir(exist_ok=True)
    for path in states.iterdir():
        path.unlink()
    write_state(states / "poet.pth", 2, 2, 32)
    write_state(states / "rwkv-x060-six.st", 2, 2, 32, seed=1)
    write_state(states / "wide.pth", 2, 4, 32, seed=2)
    settings = Settings(data_dir=tmp_path, models_dir=folder, model="seven.pth", strategy="fake", open_browser=False)
    with open_app(settings) as app:
        yield Browser(owner_client(app), states, app.extensions["model_manager"])


def begins_with(browser) -> str:
    return last_output(browser.manager.submit(request())).stats.initial_state_digest


def test_the_list_says_what_each_state_is_and_whether_it_fits(browser):
    page = browser.get("/states")
    assert "poet.pth" in page and says(page, "states.badge.unknown") and "RWKV-6" in page
    assert page.count('<svg class="chart"') == 3 and "style=" not in page
    assert len(re.findall(r'action="/states/use"', page)) == 1  # only poet.pth of the three fits
    assert text("states.here", "zh") in browser.get("/states?lang=zh")


def test_using_a_state_applies_to_the_next_answer_and_is_shown_in_the_strip(browser):
    plain = begins_with(browser)
    page = browser.post("/states/use", name="poet.pth")
    assert says(page, "states.said.used", name="poet.pth")
    strip = page[page.index('id="strip"') : page.index("</header>")]
    assert "poet.pth" in strip
    assert begins_with(browser) == browser.manager.status().state_digest != plain
    page = browser.post("/states/use", name="")
    assert says(page, "states.said.used_none") and begins_with(browser) == plain


def test_a_state_that_does_not_fit_is_refused_with_expected_and_found_and_the_one_in_use_stays(browser):
    browser.post("/states/use", name="poet.pth")
    for name, words in (("wide.pth", ("2 x 32 x 32", "4 x 32 x 32")), ("rwkv-x060-six.st", ("RWKV-7", "RWKV-6"))):
        page = browser.post("/states/use", expected=400, name=name)
        assert all(word in page for word in words)
    page = browser.post("/states/use", expected=404, name="../seven.pth")
    assert browser.manager.status().state == "poet.pth"


def test_details_show_norms_digest_and_models(browser):
    page = browser.get("/states/poet.pth")
    digest = browser.client.application.extensions["states"].entry("poet.pth").sheet.digest
    assert digest in page and "seven.pth" in page and says(page, "states.version.unknown")
    assert page.count("<rect ") == 2
    assert browser.client.get("/states/gone.pth", base_url="http://127.0.0.1").status_code == 404


def test_a_file_is_uploaded_and_downloaded(browser, tmp_path):
    write_state(tmp_path / "new.st", 2, 2, 32, seed=7)
    data = (tmp_path / "new.st").read_bytes()
    page = browser.post("/states/upload", file=(io.BytesIO(data), "new.st"))
    assert says(page, "states.said.added", name="new.st")
    answer = browser.client.get("/states/file?name=new.st", base_url="http://127.0.0.1")
    assert answer.get_data() == data and "attachment" in answer.headers["Content-Disposition"]
    answer.close()


@pytest.mark.parametrize(
    "form, name, data, code",
    [
        ("/states/upload", "x.pth", b"PK\3\4 torn", "file_truncated"),
        ("/states/upload", "x.pth", b"", "file_empty"),
        ("/states/upload", "x.exe", b"abc", "file_name_unusable"),
        ("/states/upload", "", b"", "file_name_unusable"),
    ],
)
def test_an_upload_that_is_no_state_leaves_nothing(browser, form, name, data, code):
    before = sorted(browser.states.iterdir())
    answer = browser.client.post(
        form, base_url="http://127.0.0.1", headers=OWN, data={"file": (io.BytesIO(data), name)}
    )
    assert answer.status_code in (400, 409) and is_refused(answer.get_data(as_text=True), code)
    assert sorted(browser.states.iterdir()) == before


def test_what_is_deleted_can_be_undone_from_the_toast(browser):
    page = browser.post("/states/delete", name="poet.pth")
    undo = re.search(r'name="do" value="(restore:[0-9a-f]{32})"', page)
    assert undo and says(page, "states.said.deleted", name="poet.pth")
    assert says(browser.post("/states/do", do=undo[1]), "states.said.restored", name="poet.pth")
    assert (browser.states / "poet.pth").is_file()
    browser.post("/states/do", expected=404, do="restore:nonsense")


def test_the_state_in_use_is_not_deleted(browser):
    browser.post("/states/use", name="poet.pth")
    assert is_refused(browser.post("/states/delete", expected=409, name="poet.pth"), "state_in_use")
    assert (browser.states / "poet.pth").is_file()


def test_a_blend_is_made_of_the_parts_with_a_weight(browser):
    form = {"part": ["poet.pth", "wide.pth", "-"], "weight": ["1", "0", "0,5"], "name": "soft"}
    assert says(browser.post("/states/blend", **form), "states.said.blended", name="soft.safetensors")
    refused = browser.post("/states/blend", expected=400, **{**form, "weight": ["1", "1", "0"], "name": "b"})
    assert "2 x 4 x 32" in refused and 'value="b"' in refused
    assert '<details class="fold" id="blend" open>' in refused
    browser.post("/states/blend", expected=400, **{**form, "weight": ["lots", "", ""]})


def test_a_text_is_read_and_becomes_a_state(browser):
    browser.post("/states/make", text="Anna has a cat.", name="anna")
    jobs = browser.client.application.extensions["jobs"]
    jobs.wait(jobs.jobs("state")[0].id, 20)
    fragment = browser.get("/jobs?kind=state", **{"HX-Request": "true"})
    assert 'data-status="done"' in fragment and "/states/anna.safetensors" in fragment and "hx-trigger" not in fragment
    assert "anna.safetensors" in browser.post("/states/use", name="anna.safetensors")
    assert is_refused(browser.post("/states/make", expected=400, text=" ", name="b"), "prompt_empty")


def test_a_state_merged_in_the_model_is_shown_left_out_and_copied(browser):
    browser.manager.load("own.pth")
    browser.manager.wait_ready(60)
    page = browser.get("/states")
    assert says(page, "states.in_use.own") and 'name="name" value="-"' in page
    assert says(browser.post("/states/use", name="-"), "states.said.used_none")
    assert browser.manager.status().state == "-" and begins_with(browser) == browser.manager.status().state_digest
    assert says(browser.post("/states/use", name=""), "states.said.used_own")
    assert browser.manager.status().state == ""
    copied = browser.post("/states/copy-out", model="own.pth", name="own-state")
    assert says(copied, "states.said.copied", name="own-state.safetensors")


def test_a_name_is_never_markup(browser):
    (browser.states / EVIL).write_bytes(b"nothing")
    for path in ("/states", f"/states?said=used&about={EVIL}"):
        page = browser.get(path)
        assert "<img" not in page
    browser.post("/states/rename", expected=404, name="gone", new_name=EVIL)


def test_another_site_can_do_nothing(browser):
    headers, form = {"Origin": "http://evil.example"}, {"name": "poet.pth"}
    for path in (
        "use",
        "delete",
        "upload",
        "import",
        "blend",
        "make",
        "copy-out",
        "rename",
        "do",
        "bake",
        "bake-preset",
        "bake-again",
    ):
        answer = browser.client.post(f"/states/{path}", base_url="http://127.0.0.1", headers=headers, data=form)
        assert answer.status_code == 403


def test_kept_states_of_chats_are_shown_and_cleared(browser, tmp_path):
    assert 'id="chats"' in browser.get("/states") and "/states/clear-chats" not in browser.get("/states")
    folder = tmp_path / "snapshots"
    folder.mkdir(exist_ok=True)
    for number in range(3):
        (folder / f"{number}.snapshot").write_bytes(bytes(1000))
    page = browser.get("/states")
    assert 'data-count="3"' in page and "/states/clear-chats" in page
    page = browser.post("/states/clear-chats")
    assert says(page, "states.said.cleared", name="3") and 'data-count="0"' in page and not list(folder.iterdir())
    assert text("states.chats.title", "zh") in browser.get("/states?lang=zh")


# prefixes


def bakes(browser, path="/states/bake", **form) -> str:
    """The list after the requested prefills."""
    browser.post(path, **form)
    jobs = browser.client.application.extensions["jobs"]
    jobs.wait(jobs.jobs("state")[0].id, 20)
    assert jobs.jobs("state")[0].status == "done", jobs.jobs("state")[0].error
    return browser.get("/states")


def row_of(page: str, name: str) -> str:
    return page[page.index(f'id="state-{name}') :].split("</li>")[0]


def test_a_dropped_document_becomes_a_state_that_a_chat_starts_from(browser):
    html = b"<html><body><h1>Cats</h1><p>The cat is called Tom.</p><script>no()</script>"
    page = bakes(browser, kind="document", file=(io.BytesIO(html), "folder/cats.html"))
    assert "/states/cats.safetensors" in page and says(page, "states.prefix.document") and "seven.pth" in page
    chat = re.search(r'href="(/\?state=cats.safetensors)"', page)
    assert chat and re.search(r'<option value="cats.safetensors" selected>', browser.get(chat[1]))
    source = browser.client.application.extensions["states"].library.reader.prefix_source(
        browser.states / "cats.safetensors"
    )
    assert source[1]["system"] == "File: cats.html\n```\nCats\nThe cat is called Tom.\n```"
    assert text("states.prefix.document", "zh") in browser.get("/states/cats.safetensors?lang=zh")


def test_a_pasted_system_prompt_is_used_unchanged(browser):
    page = bakes(browser, kind="prompt", text=" You are kind. ", name="kind")
    assert says(page, "states.prefix.prompt") and "kind.safetensors" in page


def test_a_presets_prompt_and_tools_are_read(browser):
    presets = browser.client.application.extensions["presets"]
    preset = presets.create("Kind one", {"system_prompt": "You are kind."})
    assert "Kind one" in browser.get("/states")
    page = bakes(browser, "/states/bake-preset", preset=preset.id)
    assert "Kind one.safetensors" in page and says(page, "states.prefix.prompt")
    chat = re.search(r'href="(/\?state=Kind[^"]+)"', page)
    assert chat and f"preset={preset.id}" in chat[1]
    browser.post("/states/bake-preset", expected=404, preset="nobody")


def test_another_model_says_that_it_is_stale_and_one_click_reads_it_again(browser):
    bakes(browser, kind="document", text="Tom sleeps.", name="tom")
    browser.manager.load("own.pth")
    browser.manager.wait_ready(60)
    page = browser.get("/states")
    assert says(page, "states.prefix.stale", made_by="seven.pth", model="own.pth")
    assert says(page, "states.prefix.again", model="own.pth")
    page = bakes(browser, "/states/bake-again", name="tom.safetensors")
    assert not says(page, "states.prefix.stale", made_by="seven.pth", model="own.pth")
    assert says(page, "states.prefix.by", model="own.pth")
    browser.post("/states/bake-again", expected=404, name="poet.pth")


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.docx", b"PK\3\4 office", "attachment_not_text"),
        ("a.bin", bytes(range(256)), "attachment_not_text"),
        ("a.txt", b" \n ", "attachment_empty"),
        ("a.html", b"<script>x</script>", "document_unreadable"),
        ("a.pdf", b"%PDF-1.7\nnothing", "document_unreadable"),
        ("a.txt", b"x " * 150_000, "document_too_long"),
        ("a.txt", b"x" * 2_000_001, "attachment_too_large"),
    ],
)
def test_a_document_that_cannot_be_read_says_why_and_leaves_nothing(browser, name, data, code):
    before = sorted(browser.states.iterdir())
    form = {"kind": "document", "file": (io.BytesIO(data), name)}
    answer = browser.client.post("/states/bake", base_url="http://127.0.0.1", headers=OWN, data=form)
    assert 400 <= answer.status_code < 500 and is_refused(answer.get_data(as_text=True), code)
    assert sorted(browser.states.iterdir()) == before


# views of a state


def test_a_files_page_shows_each_layer_and_head_and_compares_another_state(browser):
    write_state(browser.states / "prose.pth", 2, 2, 32, seed=5)
    page = browser.get("/states/poet.pth")
    assert page.count('<svg class="heat"') == 1 and 'viewBox="0 0 2 2"' in page and 'data-layers="2"' in page
    page = browser.get("/states/poet.pth?with=prose.pth")
    assert page.count('<svg class="heat"') == 2 and says(page, "states.view.apart", name="prose.pth")
    assert says(page, "states.view.cosine") and '<option value="prose.pth" selected>' in page
    page = browser.get("/states/poet.pth?with=wide.pth")
    assert page.count('<svg class="heat"') == 1 and "4 x 32" in page
    assert "<img" not in browser.get(f"/states/poet.pth?with={EVIL}")


def test_a_chats_page_says_what_is_absorbed_and_what_the_last_answer_changed(browser):
    app = browser.client.application
    store = ChatStore(app.extensions["database"])
    chat = store.create(title="Cats & <b>dogs</b>")
    path = f"/states/of-chat?chat={chat.id}"
    page = browser.get(path)
    assert says(page, "states.view.not_loaded") and 'action="/states/of-chat"' in page
    live = app.extensions["chat_turns"].send(chat.id, "Hello, who are you?")
    assert live.wait_finished(PATIENCE_S)
    stats = store.message(live.message_id).stats
    page = browser.get(path)
    tokens = stats["prompt_tokens"] + stats["decoded_tokens"] - 1
    assert says(page, "states.view.changed", first=stats["prompt_tokens"] + 1, last=tokens)
    assert page.count('<svg class="heat"') == 2 and says(page, "states.view.trained_unknown", model="seven.pth")
    assert "<b>dogs" not in page and "style=" not in page
    page = browser.get(f"{path}&with=poet.pth")
    assert says(page, "states.view.apart", name="poet.pth")
    assert "2 x 32 x 32" in browser.get(f"{path}&with=wide.pth")
    assert text("states.view.strength", "zh") in browser.get(f"{path}&lang=zh")
    answer = browser.client.get("/states/of-chat?chat=nobody", base_url="http://127.0.0.1")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("model", "tokens", "key"),
    [
        ("rwkv7-g1d-0.1b-20260129-ctx8192.pth", 8192, "states.view.within"),
        ("rwkv7-g1d-0.1b-20260129-ctx8192.pth", 8193, "states.view.beyond"),
        ("mine-ctx4096.pth", 5000, "states.view.beyond"),
        ("roost-starter-v7.safetensors", 513, "states.view.beyond"),
        ("mine.pth", 5000, "states.view.trained_unknown"),
    ],
)
def test_beyond_the_models_training_length_the_page_says_so(browser, model, tokens, key):
    with browser.client.application.test_request_context(base_url="http://127.0.0.1"):
        note = context_note(current_page(), model, tokens)
    words = {"tokens": tokens, "trained": trained_context(model), "model": model}
    assert text(key, "en", **words) in (note["title"], note["text"])
    assert (note["kind"] == "warn") == (key == "states.view.beyond")


def test_the_largest_states_picture_stays_small(browser):
    import random

    values = [[random.Random(layer).random() for _ in range(64)] for layer in range(61)]
    with browser.client.application.test_request_context(base_url="http://127.0.0.1"):
        drawn = heat_map(current_page(), values, "")
    assert sum(len(path) for _, path in drawn["paths"]) < 40_000
