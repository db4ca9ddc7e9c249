"""Windows of documents, and runs that resume exactly."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.starter.batches import WindowStream, compact_vocabulary  # noqa: E402
from models.starter.checkpoint import RunConfig  # noqa: E402
from models.starter.data.mixture import Mixture  # noqa: E402
from models.starter.loop import Trainer  # noqa: E402
from models.starter.vocabulary import CompactVocabulary, grown, ids_from_bitmap  # noqa: E402
from webapp.training.operations import PlainOperations  # noqa: E402


def byte_encode(text: str) -> list[int]:
    """World ids 1 to 256 are the single bytes."""
    return [byte + 1 for byte in text.encode()]


BYTES = compact_vocabulary({}, 1)


def stream() -> WindowStream:
    return WindowStream(Mixture(3, {"smalltalk": 1}), byte_encode, BYTES, 256)


def test_a_window_holds_whole_documents_each_followed_by_token_0():
    windows = stream()
    ids, weights = windows.window()
    assert len(ids) == len(weights) == 257
    text = bytes(i - 1 for i in ids if i).decode(errors="ignore")
    assert text.startswith(("User: ", "System: "))
    ends = [n for n, i in enumerate(ids) if i == 0 and n and ids[n - 1] != 0]
    assert ends and weights[ends[0]] == 1.0


def test_the_first_tokens_of_an_answer_weigh_more_and_prompts_nothing():
    _, ids, weights = stream().read(0)
    text = bytes(i - 1 for i in ids if i)
    begins = text.index(b"Assistant:") + len(b"Assistant:")
    assert not any(weights[:begins])
    assert weights[begins : begins + 3] == [3.0, 3.0, 1.0]


def test_a_stream_continues_from_its_saved_position():
    one = stream()
    one.batch(3)
    saved = one.state()
    expected = one.batch(2)
    other = stream()
    other.restore(saved)
    assert all(torch.equal(a, b) for a, b in zip(other.batch(2), expected, strict=True))


def test_tokens_outside_the_vocabulary_are_read_but_never_predicted():
    vocabulary = CompactVocabulary([0, 300])
    windows = WindowStream(Mixture(3, {"smalltalk": 1}), byte_encode, vocabulary, 64)
    rows, weights = windows.batch(1)
    assert (rows == vocabulary.shared_row).any()
    assert not weights[rows == vocabulary.shared_row].any()


def test_the_bitmap_names_the_used_ids():
    vocabulary = CompactVocabulary([0, 7, 8, 65535, 4096])
    assert ids_from_bitmap(vocabulary.bitmap()) == [0, 7, 8, 4096, 65535]
    assert vocabulary.row_of[4096] == 3 and vocabulary.row_of[5] == vocabulary.shared_row == 5


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(n_layer=1, n_embd=64, context=48, batch=2, warmup_steps=2)


def trainer(config: RunConfig) -> Trainer:
    made = Trainer(config, BYTES, Mixture(config.seed, {"arithmetic": 1}), byte_encode, torch.device("cpu"))
    made.model.ops = PlainOperations()
    return made


def test_a_resumed_run_equals_one_that_never_stopped(config, tmp_path, monkeypatch):
    monkeypatch.setattr("models.starter.loop.operations_for", lambda device: PlainOperations())
    straight = trainer(config)
    losses = [straight.train_step()[0] for _ in range(5)]
    first = trainer(config)
    assert [first.train_step()[0] for _ in range(3)] == losses[:3]
    first.save(tmp_path)
    mixture = Mixture(config.seed, {"arithmetic": 1})
    second = Trainer.resumed(tmp_path, mixture, byte_encode, torch.device("cpu"))
    assert [second.train_step()[0] for _ in range(2)] == losses[3:]
    assert (second.step, second.tokens) == (5, 5 * 2 * 48)
    assert all(torch.equal(second.average[name], value) for name, value in straight.average.items())


def test_a_run_writes_its_curve_and_learns(config, tmp_path, monkeypatch):
    monkeypatch.setattr("models.starter.loop.operations_for", lambda device: PlainOperations())
    run = trainer(config)
    before = run.held_out_loss()
    run.run(tmp_path, tokens=20 * 2 * 48, stop=lambda: False, log_steps=10, held_out_steps=20)
    assert (tmp_path / "latest.pt").exists()
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 2
    assert run.held_out_loss() < before


def test_a_grown_vocabulary_keeps_every_row_and_continues(config, monkeypatch):
    monkeypatch.setattr("models.starter.loop.operations_for", lambda device: PlainOperations())
    mixture, device = Mixture(1, {"arithmetic": 1}), torch.device("cpu")
    run = Trainer(config, CompactVocabulary([0, *range(40, 120)]), mixture, byte_encode, device)
    run.train_step()
    content = grown(run.content(), [7, 300])
    larger = CompactVocabulary(content["vocabulary"].tolist())
    assert larger.ids.tolist() == [0, 7, *range(40, 120), 300]
    old, new = run.model.emb.weight, content["model"]["emb.weight"]
    assert torch.equal(new[larger.row_of[40:120]], old[run.vocabulary.row_of[40:120]])
    assert torch.equal(new[larger.row_of[7]], old[-1]) and torch.equal(new[-1], old[-1])
    grown_run = Trainer(config, larger, mixture, byte_encode, device)
    grown_run.restore(content)
    grown_run.train_step()
