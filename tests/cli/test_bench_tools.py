"""`roost bench tools`: the tools and cases it uses, its output, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.weights.make_checkpoints import write_checkpoint
from webapp.cli import main
from webapp.storage.bench import BenchStore
from webapp.storage.database import Database
from webapp.storage.tools import ToolStore
from webapp.tools.bench import BenchCase, ExpectedCall, cases_to_lines
from webapp.tools.definition import from_openai

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "models" / "roost-starter-v7.safetensors"
WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
PARIS = BenchCase("What's the weather like in Paris?", (ExpectedCall(WEATHER["name"], {"location": "Paris"}),))
SPOKEN = "fake script=' Hello there.'"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny.safetensors", "7", n_layer=1, n_embd=64, vocab_size=65536)
    return folder


@pytest.fixture
def bench(models, tmp_path, capsys):
    """bench(*flags) -> (exit code, the document or None, other output)."""

    def run(*flags: str):
        where = ["--models", str(models), "--data", str(tmp_path), "-m", "tiny.safetensors", "--strategy", SPOKEN]
        code = main(["bench", "tools", *where, *flags])
        shown = capsys.readouterr()
        lines = shown.out.strip().splitlines()
        return code, json.loads(lines[-1]) if lines else None, shown.err

    return run


@pytest.fixture
def files(tmp_path):
    tools, cases = tmp_path / "tools.json", tmp_path / "cases.jsonl"
    tools.write_text(json.dumps([{"type": "function", "function": WEATHER}]), encoding="utf-8")
    cases.write_text(cases_to_lines([PARIS, BenchCase("Hi")]), encoding="utf-8")
    return ["--tools", str(tools), "--cases", str(cases)]


def test_files_are_asked_and_the_document_comes_last(bench, files):
    code, found, said = bench(*files, "--mode", "free")
    assert code == 0 and list(found["modes"]) == ["free"] and found["setup"]["cases_from"] == "file"
    assert found["modes"]["free"]["counts"] == {
        "decision": [1, 2], "readable": [0, 1], "name": [0, 1], "arguments": [0, 1],
    }  # fmt: skip
    assert found["answers"][0]["raw"] == " Hello there." and "decision 1/2 (50.0 %)" in said


def test_without_anything_kept_the_shipped_tools_and_made_cases_are_asked(bench, tmp_path):
    transcripts = tmp_path / "answers.jsonl"
    _, found, _ = bench("--seed", "5", "--per-tool", "1", "--transcripts", str(transcripts))
    assert found["setup"]["tools"][0]["name"] == "calculate" and "answers" not in found
    answers = 2 * (len(found["setup"]["tools"]) + 4)  # one case per tool and four of small talk, in two modes
    assert (found["setup"]["cases_from"], found["setup"]["seed"], found["answered"]) == ("made", 5, answers)
    rows = [json.loads(line) for line in transcripts.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == answers and {row["mode"] for row in rows} == {"constrained", "free"}
    assert not (tmp_path / "roost.db").exists()


def test_what_the_pages_keep_is_asked_where_nothing_else_is_named(bench, tmp_path):
    database = Database(tmp_path / "roost.db")
    ToolStore(database).create(from_openai(WEATHER))
    BenchStore(database).add_cases([PARIS])
    database.close()
    _, found, _ = bench("--mode", "free")
    assert (found["setup"]["cases_from"], [tool["name"] for tool in found["setup"]["tools"]]) == (
        "stored", [WEATHER["name"]],
    )  # fmt: skip
    assert bench("--mode", "free", "--seed", "1")[1]["setup"]["cases_from"] == "made"


def test_an_engine_that_crashes_gives_the_text_so_far_and_the_error(bench, files):
    code, found, said = bench(*files, "--mode", "free", "--strategy", "fake nan_at=60")
    assert code == 2 and found["error"]["code"] == "non_finite_logits" and "roost: " in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tools.json", b"{"),
        ("tools.json", b"3"),
        ("tools.json", "天气".encode("gbk")),
        ("cases.jsonl", b"{}"),
        ("cases.jsonl", b""),
        ("cases.jsonl", '{"prompt": "天气"}'.encode("gbk")),
    ],
)
def test_a_file_that_cannot_be_is_one_line_and_exit_code_2(bench, files, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    code, found, said = bench(*files)
    assert code == 2 and found is None and said.startswith("roost: ") and said.count("\n") == 1


@pytest.mark.skipif(not STARTER.exists(), reason="the bundled model models/roost-starter-v7.safetensors is missing")
def test_the_bundled_model_calls_for_the_weather(files, tmp_path, capsys):
    places = ["--models", str(STARTER.parent), "--data", str(tmp_path), "-m", STARTER.name, "--strategy", "cpu fp32"]
    assert main(["bench", "tools", *places, *files]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    for mode in ("constrained", "free"):
        assert found["modes"][mode]["counts"]["arguments"] == [1, 1], found["answers"]
        assert found["modes"][mode]["counts"]["decision"] == [2, 2], found["answers"]
