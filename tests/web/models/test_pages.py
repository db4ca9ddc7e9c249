"""The models pages for a browser with and without scripts."""

from __future__ import annotations

import html
import re
import urllib.parse
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.services.library.library_folder import good_bytes, tree
from tests.weights.make_checkpoints import write_tensors
from tests.wording import error_text, is_refused, pattern, says, text
from webapp.errors import translate_error
from webapp.services.strategy import probe
from webapp.web.kit import page as page_kit
from webapp.web.models.views import PAGE
from webapp.weights.convert.conversion import convert
from webapp.weights.convert.plan import ConversionOptions


def rows(page: str) -> list[str]:
    return [
        html.unescape(name) for name in re.findall(r'<p class="row-title"><a href="/models/[^"]*">([^<]*)</a>', page)
    ]


def token(page: str, part: str) -> str:
    return re.search(f'id="models-{part}" data-revision="([^"]*)"', page)[1]


def test_the_page_describes_every_file(browser):
    status, page = browser.get("/models")
    assert status == 200
    assert rows(page) == ["good.safetensors", "llama.safetensors", "roost-starter-v7.safetensors", "torn.safetensors"]
    assert "RWKV-7" in page and says(page, "models.kind.other")
    assert re.findall(r'data-error="(\w+)"', page) == ["file_truncated"]
    assert str(browser.folder) in page and f"{browser.folder}/torn" not in page
    assert page.count('name="name" value="good.safetensors"') == 2


def test_the_same_in_chinese(browser):
    page = browser.get("/models", **{"Accept-Language": "zh"})[1]
    torn = browser.manager.library.entry("torn.safetensors").error
    for said in (text("models.lead", "zh"), text("models.kind.other", "zh"), translate_error(torn, "zh")[1]):
        assert said in page


def test_names_and_metadata_are_escaped(browser):
    (browser.folder / '<img src=x onerror=alert(1)>".safetensors').write_bytes(good_bytes())
    page = browser.get("/models")[1]
    assert "<img" not in page and "&lt;img src=x" in page
    name = next(name for name in rows(page) if "img" in name)
    status, details = browser.get("/models/" + urllib.parse.quote(name))
    assert status == 200 and "<img" not in details
    assert "&lt;b&gt;somewhere&lt;/b&gt;" in browser.get("/models/llama.safetensors")[1]


def test_a_name_that_is_no_text_does_no_harm(browser):
    try:
        Path(str(browser.folder), b"bad\xff.safetensors".decode("utf-8", "surrogateescape")).write_bytes(good_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    status, page = browser.get("/models")
    assert status == 200 and "bad?.safetensors" in page and 'data-error="library_error"' in page


@pytest.mark.parametrize(
    "name", ["none.pth", "../data/roost.db", "%2e%2e/data/roost.db", "/etc/passwd", "sub", "a%00b", "x" * 3000]
)
def test_there_is_nothing_outside_the_folders(browser, name):
    status, page = browser.get(f"/models/{name}")
    assert status in (404, 308) and "SQLite" not in page and "root:" not in page


def test_details_name_every_tensor_block_by_block(browser):
    page = browser.get("/models/good.safetensors")[1]
    assert "Block 0" in page and "RWKV-7" in page
    urls = [html.unescape(url) for url in re.findall(r'hx-get="(/models/tensors[^"]*)"', page)]
    shown = "".join(browser.part(url)[1] for url in urls)
    found = browser.manager.library.entry("good.safetensors").inspection
    assert {tensor.name for tensor in found.tensors} == set(re.findall(r'<td class="mono">([^<]*)</td>', shown))
    assert "<html" in browser.get(urls[0])[1] and "<html" not in browser.part(urls[0])[1]


def test_details_say_which_library_would_run_a_file_of_ggml(browser):
    made = ConversionOptions(type="f16")
    convert(browser.folder / "good.safetensors", browser.folder / "good.bin", "bin", made)
    for locale in ("en", "zh"):
        page = browser.get(f"/models/good.bin?lang={locale}")[1]
        assert re.search(pattern("strategy.advice.ggml_runs_on", locale), page)
        assert not re.search(
            pattern("strategy.advice.ggml_runs_on", locale), browser.get("/models/good.safetensors")[1]
        )


def test_a_file_that_cannot_be_read_has_details_too(browser):
    error = browser.manager.library.entry("torn.safetensors").error
    status, page = browser.get("/models/torn.safetensors")
    assert status == 200 and error_text("file_truncated", **{**error.params, "path": "torn.safetensors"}) in page
    assert browser.part("/models/tensors?name=torn.safetensors")[0] == 404


def test_search_and_filter(browser):
    assert rows(browser.part("/models/list?q=GOOD+saf")[1]) == ["good.safetensors"]
    assert rows(browser.part("/models/list?kind=broken")[1]) == ["torn.safetensors"]
    assert says(browser.part("/models/list?q=zebra")[1], "models.nothing.title")
    assert rows(browser.get("/models?q=llama&kind=other")[1]) == ["llama.safetensors"]
    assert len(rows(browser.part("/models/list?kind=nonsense&count=x")[1])) == 4


def test_five_hundred_files_are_looked_into_as_they_are_shown(browser, monkeypatch):
    opened: list[str] = []
    reader = browser.manager.library.reader
    real = reader.inspect
    monkeypatch.setattr(reader, "inspect", lambda path: opened.append(path.name) or real(path))
    for number in range(500):
        (browser.folder / f"m{number:03}.safetensors").write_bytes(good_bytes())
    page = browser.get("/models")[1]
    assert len(rows(page)) == PAGE and len(opened) <= PAGE + 2
    more = html.unescape(re.search(r'hx-get="(/models/rows[^"]*)"', page)[1])
    below = browser.part(more)[1]
    assert not set(rows(page)) & set(rows(below)) and len(rows(below)) == PAGE
    assert len(opened) <= 2 * PAGE + 3
    browser.get("/models")
    assert len(opened) <= 2 * PAGE + 3
    assert len(set(rows(browser.get("/models?count=5000")[1]))) == 504 and len(opened) <= 505


def test_an_open_page_gets_only_changes(browser):
    page = browser.get("/models")[1]
    known = {"list": token(page, "list"), "activity": token(page, "activity")}
    assert browser.part(f"/models/news?{urllib.parse.urlencode(known)}") == (204, "")
    (browser.folder / "new.safetensors").write_bytes(good_bytes())
    browser.manager.library.watch.look_again()
    status, news = browser.part(f"/models/news?{urllib.parse.urlencode(known)}")
    assert status == 200 and 'id="models-list"' in news and 'hx-swap-oob="true"' in news
    assert "new.safetensors" in news and 'id="models-activity"' not in news


def test_deleted_with_undo_by_htmx(browser):
    before = tree(browser.folder)
    status, news = browser.act("/models/delete", name="good.safetensors")
    assert status == 200 and says(news, "models.said.deleted", name="good.safetensors")
    assert "good.safetensors" not in rows(news)
    undo = re.search(r'name="do" value="(restore:\w+)"', news)[1]
    assert says(browser.post("/models/do", do=undo)[1], "models.said.restored", name="good.safetensors")
    assert tree(browser.folder) == before


def test_deleted_with_undo_without_scripts(browser):
    page = browser.post("/models/delete", name="good.safetensors")[1]
    assert says(page, "models.said.deleted", name="good.safetensors") and "good.safetensors" not in rows(page)
    item = re.search(r'/models/trash/restore" hx-swap="none"><button[^>]*name="id" value="(\w+)"', page)[1]
    assert "good.safetensors" in rows(browser.post("/models/trash/restore", id=item)[1])


def test_the_trash_is_emptied(browser):
    browser.act("/models/delete", name="good.safetensors")
    assert says(browser.act("/models/trash/empty")[1], "models.said.emptied")
    assert not any(name.startswith(".trash") for name in tree(browser.folder))


def test_a_loaded_model_is_shown_kept_and_unloaded(browser):
    browser.act("/models/load", name="good.safetensors")
    browser.manager.wait_ready(60)
    page = browser.get("/models")[1]
    assert says(page, "models.phase.loaded") and page.count('action="/models/unload"') == 1
    news = browser.act("/models/delete", name="good.safetensors")[1]
    assert is_refused(news, "model_in_use") and "good.safetensors" in rows(news)
    assert (browser.folder / "good.safetensors").exists()
    assert browser.post("/models/delete", name="good.safetensors")[0] == 409
    browser.act("/models/unload")
    assert browser.manager.wait_change(-1, 0).phase in ("unloading", "empty")


def test_a_model_is_loaded_with_an_adapter_from_either_page_and_without_it_again(browser):
    import numpy as np

    halves = {"blocks.0.att.key.lora_A": (4, 64), "blocks.0.att.key.lora_B": (64, 4)}
    write_tensors(browser.folder / "lora.safetensors", {name: np.ones(shape, "f4") for name, shape in halves.items()})
    for name, other in (("good", "lora"), ("lora", "good")):
        page = browser.get(f"/models/{name}.safetensors")[1]
        assert 'action="/models/load"' in page and f'<option value="{other}.safetensors"' in page
    given = {"name": "good.safetensors", "adapter_file": "lora.safetensors"}
    assert is_refused(browser.act("/models/load", **given)[1], "conversion_refused")  # no alpha is known
    browser.act("/models/load", **given, adapter_alpha="8")
    assert browser.manager.wait_ready(60).adapter == "lora.safetensors"
    assert says(browser.get("/models")[1], "models.adapter.fact", name="lora.safetensors")
    assert is_refused(browser.act("/models/load", **given, adapter_alpha="lots")[1], "preset_invalid")
    assert is_refused(browser.act("/models/load", name="good.safetensors", adapter_file="../x")[1], "preset_invalid")
    browser.act("/models/load", name="good.safetensors")
    assert browser.manager.wait_ready(60).adapter == ""


def test_a_model_is_not_deleted_while_it_loads_and_loading_can_be_cancelled(open_browser):
    browser = open_browser("fake load_ms=20000")
    browser.act("/models/load", name="good.safetensors")
    page = browser.get("/models")[1]
    assert says(page, "models.loading", name="good.safetensors") and "data-busy" in page
    assert is_refused(browser.act("/models/delete", name="good.safetensors")[1], "model_in_use")
    browser.act("/models/cancel")
    deadline = browser.manager.status()
    while deadline.phase in ("loading", "unloading"):
        deadline = browser.manager.wait_change(deadline.revision, 5)
    assert (browser.folder / "good.safetensors").exists()
    deleted = browser.act("/models/delete", name="good.safetensors")[1]
    assert says(deleted, "models.said.deleted", name="good.safetensors")


def test_a_load_that_cannot_begin_says_why(browser):
    news = browser.act("/models/load", name="torn.safetensors")[1]
    assert is_refused(news, "file_truncated") and str(browser.folder) not in news
    assert is_refused(browser.act("/models/load", name="../x.pth")[1], "model_not_found")


def test_renamed_or_told_why_not(browser):
    page = browser.post("/models/rename", name="good.safetensors", new_name="better.safetensors")[1]
    assert says(page, "models.said.renamed", name="better.safetensors") and "<h1>better.safetensors</h1>" in page
    status, page = browser.post("/models/rename", name="better.safetensors", new_name="llama.safetensors")
    assert status == 422 and error_text("file_name_taken", name="llama.safetensors") in page
    assert browser.post("/models/rename", name="none.pth", new_name="x.pth")[0] == 404


def test_import_by_path(browser, tmp_path):
    (tmp_path / "new.safetensors").write_bytes(good_bytes())
    news = browser.act("/models/import", path=str(tmp_path / "new.safetensors"), mode="move")[1]
    assert says(news, "models.said.imported", name="new.safetensors")
    assert "new.safetensors" in rows(news) and 'id="import-form"' in news
    form = browser.act("/models/import", path="/none/x.pth", mode="copy")[1]
    assert error_text("file_not_found", path="/none/x.pth") in form
    assert 'value="/none/x.pth"' in form and "models-list" not in form
    status, page = browser.post("/models/import", path="/none/x.pth", mode="copy")
    assert status == 422 and error_text("file_not_found", path="/none/x.pth") in page


def test_an_import_is_a_job_of_the_page(browser, tmp_path):
    (tmp_path / "new.safetensors").write_bytes(good_bytes())
    started = browser.act("/models/import", path=str(tmp_path / "new.safetensors"), mode="copy")[1]
    jobs = browser.app.extensions["jobs"]
    job = jobs.wait(jobs.jobs("import")[0].id, 20)
    assert f'data-job="{job.id}"' in started
    assert f'data-job="{job.id}" data-status="done"' in browser.get("/models")[1]
    assert job.id not in browser.act(f"/jobs/{job.id}/remove?kind=import")[1]


def test_the_published_models_are_links_that_are_not_followed_automatically(browser):
    page = browser.get("/models")[1]
    links = re.findall(r'<a href="(https://[^"]*)"([^>]*)>', page)
    assert len(links) >= 25 and all("noreferrer" in attributes for _, attributes in links)
    assert not re.search(r'(?:src|hx-get|action)="https?:', page)


@pytest.mark.parametrize(
    "path",
    [
        "delete",
        "load",
        "unload",
        "cancel",
        "rename",
        "import",
        "trash/restore",
        "trash/empty",
        "do",
        "uploads",
        "uploads/discard",
    ],
)
def test_nothing_is_done_for_another_sites_page(browser, path):
    before = tree(browser.folder)
    foreign = {"Origin": "http://evil.test", "HX-Request": "true"}
    form = {"name": "good.safetensors", "new_name": "x.safetensors", "path": "/etc/passwd", "size": "5"}
    answer = browser.client.post(f"/models/{path}", base_url="http://127.0.0.1", headers=foreign, data=form)
    assert answer.status_code == 403 and tree(browser.folder) == before
    assert browser.client.get(f"/models/{path}", base_url="http://127.0.0.1").status_code in (404, 405)


def test_further_folders_are_listed_by_their_name(open_browser, tmp_path):
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "far.safetensors").write_bytes(good_bytes())
    browser = open_browser(extra_models_dirs=(tmp_path / "llm",))
    assert "llm:far.safetensors" in rows(browser.get("/models")[1])
    assert browser.get("/models/llm:far.safetensors")[0] == 200
    browser.act("/models/load", name="llm:far.safetensors")
    assert browser.manager.wait_ready(60).model_path == str(tmp_path / "llm" / "far.safetensors")
    assert browser.get("/models")[1].count('action="/models/unload"') == 1


def test_every_model_says_what_it_needs_of_what_is_free(open_browser):
    browser = open_browser("cpu fp32")
    page = browser.get("/models")[1]
    assert len(re.findall(pattern("models.fit.fits", strategy="cpu fp32"), page)) == 2
    details = browser.get("/models/good.safetensors")[1]
    assert re.search(pattern("models.fit.fits"), details)
    assert re.search(
        pattern("models.load_with", strategy="STRATEGY").replace("STRATEGY", r"(cpu|cuda|native) \w+"), details
    )
    assert re.search('name="strategy" value="[cn]', details)


def test_a_model_too_large_says_what_would_do(open_browser, monkeypatch):
    small = replace(probe(), ram_available=400 << 20, gpus=())
    monkeypatch.setattr(page_kit, "probe", lambda: small)
    page = open_browser("cpu fp32").get("/models")[1]
    assert any(re.search(pattern(f"models.fit.{key}", strategy="cpu fp32"), page) for key in ("tight", "does_not_fit"))


def test_a_strategy_that_cannot_run_here_is_said_of_every_model(open_browser):
    page = open_browser("banana").get("/models")[1]
    assert "banana" in page and 'class="fit fit-warn"' in page


def test_load_takes_a_strategy_the_file_can_be_run_with(open_browser, monkeypatch):
    """Int8 is in use, which does not support RWKV-7: the row of such a model shows the strategy that Load uses."""
    browser = open_browser("cpu fp32i8 -> cpu fp32 *1")
    taken = []
    monkeypatch.setattr(browser.manager, "load", lambda **given: taken.append(given))
    name = "good.safetensors"
    assert browser.manager.library.entry(name).inspection.config.major == 7
    strategy = re.search(pattern("models.fit.fits"), browser.get("/models")[1])["strategy"]
    browser.act("/models/load", name=name)
    browser.act("/models/load", name=name, strategy="cpu bf16")
    browser.act("/status/load", model=name)
    assert strategy in ("cpu fp32", "cuda fp16", "native q8", "torch cpu q8")
    assert [given["strategy"] for given in taken] == [
        strategy,
        "cpu bf16",
        strategy,
    ]
