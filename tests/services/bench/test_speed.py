"""The speed bench: contestants take turns; medians and ratios, what is left out, the command's output."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.weights.make_checkpoints import write_checkpoint
from tests.wording import says
from webapp.backends.fake import FakeBackend
from webapp.cli import main
from webapp.i18n import Text
from webapp.services.bench import speed
from webapp.services.bench.speed import FEWEST_TOKENS, Plan, Rounds, compete, document_of, losses, ratios
from webapp.services.generation.generation import Generation

FAKE = "fake vocab=256"


class Scripted:
    """Has one speed after another; ``log`` is shared with the others."""

    def __init__(self, name: str, speeds: list[float], log: list[str]) -> None:
        self.name, self._speeds, self._log = name, speeds, log

    def load(self) -> dict[str, float]:
        return {"load_s": 1.0, "cold_ms": 1100.0}

    def decode(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        self._log.append(f"{self.name} {tokens}")
        speed = self._speeds[0] if len(self._speeds) == 1 else self._speeds.pop(0)
        return {"tokens_per_s": speed, "first_token_ms": 1.0, "prefill_tokens_per_s": 1.0, "wall_s": 1.0}

    def prefill(self, tokens: int) -> dict[str, float]:
        return {"tokens_per_s": 10.0, "first_token_ms": 100.0}

    def memory(self) -> dict[str, float | None]:
        return {"rss_mb": 1.0, "peak_mb": 2.0}

    def close(self) -> None: ...


def test_contestants_take_turns_and_ratios_are_of_the_same_round():
    log: list[str] = []
    plan = Plan(sequences=(1,), prefills=(), tokens=32, repeat=3)
    ours = Scripted("ours", [100, 100, 100, 200, 60], log)  # two for warm-up
    found = compete([ours, Scripted("theirs", [50, 50, 50, 100, 20], log)], plan, lambda *_: None)
    in_turn = ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [entry for entry in log if entry.endswith(" 32")] == [f"{name} 32" for name in in_turn]
    document = document_of(found["ours"], plan, {"rss_mb": 1.0})
    assert document["runs"][0]["decode_tokens_per_s"] == 100
    assert document["runs"][0]["spread"]["decode_tokens_per_s"] == [60, 200]
    assert ratios(found["ours"], found["theirs"], plan) == [
        {"what": "decode", "size": 1, "ratio": 2.0, "spread": [2.0, 3.0]}
    ]


def test_what_would_take_too_long_is_left_out_and_long_answers_are_cut():
    log: list[str] = []
    plan = Plan(sequences=(1, 64), prefills=(64, 4096), repeat=1)
    slow = Scripted("slow", [20.0, 20.0, 20.0, 1.0], log)
    found = compete([slow], plan, lambda *_: None)["slow"]
    assert found.tokens[1] == 2 * 20 and found.tokens[64] == FEWEST_TOKENS
    assert found.left_out == {("decode", 64), ("prefill", 4096)}
    assert [row["sequences"] for row in document_of(found, plan, {})["runs"]] == [1]


def test_reading_the_prompts_of_many_answers_is_not_counted_as_writing():
    """Eight answers of v7 1.5B seemed to have 32 tokens per second; half of that time was prefill."""

    class Reads(Scripted):
        def decode(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
            wall_s = sequences * prompt_tokens / 50 + (tokens - 1) / 5
            return super().decode(sequences, prompt_tokens, tokens) | {"wall_s": wall_s}

    plan = Plan(sequences=(1, 8), prefills=(), tokens=21, repeat=1)
    found = compete([Reads("ours", [7.0], [])], plan, lambda *_: None)["ours"]
    assert [row["tokens_per_s"] for row in found.figures["decode", 1]] == [7.0]
    assert [row["tokens_per_s"] for row in found.figures["decode", 8]] == [pytest.approx(8 * 5)]


@pytest.fixture
def bench(tmp_path, capsys):
    write_checkpoint(tmp_path / "tiny.safetensors", "7", n_layer=1, n_embd=64, vocab_size=256)

    def run(*flags: str):
        where = ["--models", str(tmp_path), "--data", str(tmp_path), "--model", "tiny.safetensors"]
        code = main(["bench", *where, "--strategy", FAKE, *flags])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_command_ends_in_one_document(bench):
    code, out, err = bench("--sequences", "1,3", "--prefill", "64", "--tokens", "4", "--repeat", "2")
    found = json.loads(out.splitlines()[-1])
    assert code == 0, err
    assert [row["sequences"] for row in found["runs"]] == [1, 3] and found["prefill"][0]["tokens"] == 64
    assert found["model"]["strategy"] == FAKE and found["first_token"]["cold_ms"] > found["first_token"]["warm_ms"]
    assert found["against"] == [] and found["left_out"] == []


def test_answers_at_once_are_to_different_prompts_of_one_length(bench, monkeypatch):
    """Equal rows of a batch share the zeros of RWKV-7's hidden units: v7 1.5B seemed a seventh faster with eight."""
    prompts = []

    class Noted(Generation):
        def __init__(self, manager, prompt, **more):
            prompts.append(prompt.token_ids)
            super().__init__(manager, prompt, **more)

    monkeypatch.setattr(speed, "Generation", Noted)
    bench("--sequences", "24", "--prefill", "", "--tokens", "2", "--repeat", "1")
    assert len(set(prompts[-24:])) == 24 and {len(prompt) for prompt in prompts[-24:]} == {Plan().prompt_tokens}


def test_what_a_backend_says_of_itself_is_in_table_and_document(bench, monkeypatch):
    remark = Text("strategy.advice.ggml_runs_on", source="libggml-python", version="0.20.2")
    monkeypatch.setattr(FakeBackend, "remarks", lambda options: [remark])
    code, out, err = bench("--sequences", "1", "--prefill", "", "--tokens", "4", "--repeat", "1")
    assert code == 0 and says(err, remark.key, **remark.params)
    assert json.loads(out.splitlines()[-1])["model"]["remarks"] == [remark.to_plain()]


def test_beside_busy_processes_the_loss_is_reported_and_they_end(bench):
    code, out, err = bench(
        "--sequences", "1", "--prefill", "64", "--tokens", "4", "--repeat", "1", "--busy", "1"
    )  # fmt: skip
    found = json.loads(out.splitlines()[-1])["busy"]
    assert code == 0 and found["processes"] == 1, err
    assert [(row["what"], row["size"]) for row in found["lost"]] == [("decode", 1), ("prefill", 64)]
    assert not [child for child in psutil.Process().children() if "while True" in " ".join(child.cmdline())]


def test_losses_are_of_medians():
    plan = Plan(sequences=(1,), prefills=())
    alone, beside = Rounds(), Rounds()
    for rounds, speeds in ((alone, (100, 90, 400)), (beside, (75, 80, 10))):
        rounds.figures["decode", 1] = [{"tokens_per_s": speed} for speed in speeds]
    assert losses(alone, beside, plan) == [{"what": "decode", "size": 1, "per_cent": 25.0}]


def test_a_rival_that_is_unknown_or_has_no_file_is_refused(bench):
    assert bench("--against", "vllm")[0] != 0
    assert bench("--against", "llama.cpp")[0] != 0
    assert bench("--sequences", "0")[0] != 0
