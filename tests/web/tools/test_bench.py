"""The pages of the tool bench: cases are generated, written, imported and deleted; a run is started, shown and
stored."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest

from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.chat.running_roost import fake_strategy
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import write_checkpoint
from tests.wording import error_text, says, text
from webapp.backends.fake import FakeBackend
from webapp.settings import Settings
from webapp.storage.tools import ToolStore
from webapp.tokenizer import load_tokenizer
from webapp.tools.definition import from_openai

BASE = "http://127.0.0.1"
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = ' ```json\n{"name":"get_weather","arguments":{"city":"Paris"}}\n```'


class Browser:
    def __init__(self, app: Any) -> None:
        self.client = owner_client(app)
        self.bench = app.extensions["tool_bench"]
        self.tools = ToolStore(app.extensions["database"])

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        answer = self.client.get(path, base_url=BASE, headers=headers)
        return answer.status_code, unescape(answer.get_data(as_text=True))

    def post(self, path: str, **form: Any) -> tuple[int, str, str]:
        answer = self.client.post(f"/tools/bench{path}", base_url=BASE, headers={"Origin": BASE}, data=form)
        return answer.status_code, answer.headers.get("Location", ""), unescape(answer.get_data(as_text=True))

    def prompts(self) -> list[str]:
        return [stored.case.prompt for stored in self.bench.store.cases()]

    def run(self, **form: Any) -> str:
        """Starts a run and waits for its end; the address of its page."""
        status, where, page = self.post("/runs", **{"tool": ["get_weather"], "mode": "free", **form})
        assert status == 303, page
        assert self.bench.wait(60)
        return where


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_checkpoint(folder / "roost-starter-v7.safetensors", "7", n_layer=1, n_embd=64, vocab_size=65536)
    settings = Settings(
        data_dir=folder, models_dir=folder, model="roost-starter-v7.safetensors", strategy=fake_strategy("x")
    )
    with open_app(settings) as app:
        yield app


@pytest.fixture
def browser(app, monkeypatch):
    """The model answers every prompt with CALL, in the tokens that a grammar expects."""
    script = load_tokenizer(65536).encode(CALL)
    monkeypatch.setattr(
        FakeBackend, "_script_token", lambda self, position: script[position] if position < len(script) else 0
    )
    browser = Browser(app)
    browser.tools.create(from_openai(WEATHER))
    yield browser
    browser.bench.store.delete_cases()
    for tool in browser.tools.list():
        browser.tools.delete(tool.id)
    for run in browser.bench.store.runs():
        browser.bench.store.delete_run(run.id)


PARIS = {"prompt": "Weather in Paris?", "expect": "get_weather", "arguments": '{"city": "Paris"}'}


def test_without_cases_the_page_offers_to_make_some(browser: Browser) -> None:
    status, page = browser.get("/tools/bench")
    assert status == 200 and says(page, "tool_bench.empty_title") and 'aria-current="page"' in page
    status, where, _ = browser.post("/cases/make", seed="3", per_tool="2")
    assert status == 303
    _, page = browser.get(where)
    assert says(page, "tool_bench.said.made", count=6) and says(page, "tool_bench.cases.generated")
    assert len(browser.prompts()) == 6
    first = browser.prompts()
    browser.post("/cases/make", seed="3", per_tool="2")
    assert browser.prompts() == first
    browser.post("/cases/make", seed="4", per_tool="2")
    assert browser.prompts() != first


def test_made_cases_speak_the_pages_language(browser: Browser) -> None:
    browser.client.post("/tools/bench/cases/make?lang=zh", base_url=BASE, headers={"Origin": BASE}, data={})
    assert any("请" in prompt for prompt in browser.prompts())
    _, page = browser.get("/tools/bench?lang=zh")
    assert text("tool_bench.cases.generated", "zh") in page and not re.search(r">\s*tool_bench\.", page)
    browser.get("/tools/bench?lang=en")


def test_a_tool_no_case_can_be_made_for_is_named(browser: Browser) -> None:
    code = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{9}$"}}, "required": ["code"]}
    browser.tools.create(from_openai({"name": "odd_one", "parameters": code}))
    _, where, _ = browser.post("/cases/make")
    assert says(browser.get(where)[1], "tool_bench.said.without", names="odd_one")


def test_a_case_is_written_changed_deleted_and_restored(browser: Browser) -> None:
    assert browser.post("/cases", **PARIS)[0] == 303
    [stored] = browser.bench.store.cases()
    assert stored.case.calls[0].arguments == {"city": "Paris"}
    _, page = browser.get(f"/tools/bench/cases/{stored.id}")
    assert "Weather in Paris?" in page and '{"city": "Paris"}' in page
    two = '[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "get_weather", "arguments": {}}]'
    assert browser.post(f"/cases/{stored.id}", prompt="Twice", expect="*", arguments=two)[0] == 303
    assert len(browser.bench.store.case(stored.id).case.calls) == 2
    assert 'value="*" selected' in browser.get(f"/tools/bench/cases/{stored.id}")[1]
    _, where, _ = browser.post(f"/cases/{stored.id}/delete")
    undo = re.search(r'value="(restore:[^"]+)"', browser.get(where)[1])
    assert undo and browser.prompts() == []
    assert browser.post("/do", do=undo[1])[0] == 303 and browser.prompts() == ["Twice"]
    _, where, _ = browser.post("/cases/clear")
    undo = re.search(r'value="(restore:[^"]+)"', browser.get(where)[1])
    assert undo and browser.prompts() == []
    browser.post("/do", do=undo[1])
    assert browser.prompts() == ["Twice"]
    assert browser.get(f"/tools/bench/cases/{'0' * 32}")[0] == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 8001}, "prompt"),
        ({"arguments": "{"}, "arguments"),
        ({"arguments": "[]"}, "arguments"),
        ({"expect": "*", "arguments": "[3]"}, "arguments"),
    ],
)
def test_what_is_wrong_with_a_case_is_said_at_its_field(browser: Browser, change: dict, field: str) -> None:
    status, _, page = browser.post("/cases", **{**PARIS, **change})
    assert status == 422 and browser.prompts() == []
    assert re.search(rf'id="field-{field}-error">\S', page)


def test_cases_are_imported_and_exported_as_lines(browser: Browser) -> None:
    line = json.dumps({"prompt": "Hi <b>", "calls": []})
    assert browser.post("/cases/import", text=f"{line}\n{line}")[0] == 303
    answer = browser.client.get("/tools/bench/cases/export", base_url=BASE).get_data(as_text=True)
    assert answer == f"{line}\n{line}\n"
    status, _, page = browser.post("/cases/import", text=f'{line}\n{{"prompt": 3}}')
    refused = error_text("bench_line_invalid", line=2, reason=text("tool_bench.problem.empty"))
    assert status == 422 and refused in page and len(browser.prompts()) == 2


def test_a_run_shows_figures_confusion_and_what_was_read_and_written(browser: Browser) -> None:
    browser.post("/cases", **PARIS)
    browser.post("/cases", **{**PARIS, "prompt": "Weather in Rome?", "arguments": '{"city": "Rome"}'})
    browser.post("/cases", prompt="<script>Hi</script>", expect="", arguments="")
    where = browser.run(mode="both")
    raw = browser.client.get(where, base_url=BASE).get_data(as_text=True)
    assert "<script>Hi" not in raw and "&lt;script&gt;Hi" in raw
    status, page = browser.get(where)
    assert status == 200 and page.count("66.7 %") == 2 and page.count("50.0 %") == 2  # decision, exact arguments
    assert page.index("Weather in Rome?") < page.index("User: Weather in Paris?"), "the wrong ones come first"
    assert says(page, "tool_bench.verdict.called") and says(page, "tool_bench.verdict.wrong_arguments")
    assert "User: Weather in Rome?\n\nAssistant:" in page and CALL.strip() in page and "Tools:" in page
    found = json.loads(browser.get(f"{where}/export")[1])
    assert found["modes"]["free"]["confusion"] == {"get_weather": {"get_weather": 2}, "(no call)": {"get_weather": 1}}
    assert found["setup"]["model"] == "roost-starter-v7.safetensors" and len(found["answers"]) == 6
    _, index = browser.get("/tools/bench")
    assert index.count(where) == 2 and index.count("66.7 %") == 2
    _, fragment = browser.get(f"{where}/progress", **{"HX-Request": "true"})
    assert "hx-get" not in fragment
    assert browser.post(where.removeprefix("/tools/bench") + "/delete")[0] == 303
    assert browser.get(where)[0] == 404


def test_a_run_is_followed_and_stopped(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBackend, "_script_token", lambda self, position: 33)  # never ends
    for number in range(3):
        browser.post("/cases", **{**PARIS, "prompt": f"Weather {number}"})
    _, where, _ = browser.post("/runs", tool=["get_weather"], mode="free")
    _, page = browser.get(where)
    assert f'hx-get="{where}/progress"' in page and says(page, "tool_bench.run.progress", done=0, total=3)
    status, _, page = browser.post("/runs", tool=["get_weather"], mode="free")
    assert status == 409 and says(page, "tool_bench.problem.running")
    assert browser.post(where.removeprefix("/tools/bench") + "/stop")[0] == 303
    wait_until(lambda: browser.bench.wait(1))
    assert says(browser.get(where)[1], "tool_bench.status.stopped")
    assert browser.client.get(
        f"{where}/progress", base_url=BASE, headers={"HX-Request": "true"}
    ).headers["HX-Refresh"] == "true"  # fmt: skip


def test_a_run_that_cannot_begin_says_why(browser: Browser) -> None:
    browser.post("/cases", **PARIS)
    status, _, page = browser.post("/runs", mode="free")
    assert status == 409 and says(page, "tool_bench.problem.no_tools")
    browser.post("/cases/clear")
    browser.post("/cases", prompt="Hi", expect="gone", arguments="")
    status, _, page = browser.post("/runs", tool=["get_weather"], mode="free")
    assert status == 409 and says(page, "tool_bench.problem.no_cases")
    assert says(page, "tool_bench.cases.unavailable")
