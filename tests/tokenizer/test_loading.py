"""load_tokenizer(): a file next to the model has priority; files that do not fit are refused or skipped."""

from __future__ import annotations

import pytest

from tests.errors import raises_code
from tests.tokenizer.make_tokenizers import write_byte_level
from webapp.errors import FileMissing
from webapp.tokenizer import load_tokenizer


def write_world(path, last_id):
    lines = [f"{byte + 1} {bytes([byte])!r} 1" for byte in range(256)] + [f"{last_id} 'the' 3"]
    path.write_text("\n".join(lines) + "\n")


def test_built_in_by_size():
    assert load_tokenizer(65536).name == "world"
    assert load_tokenizer(65536) is load_tokenizer(65536)
    assert load_tokenizer(256).name == "byte"


def test_a_file_of_the_models_own_name_wins(tmp_path):
    write_world(tmp_path / "poet.vocab.txt", 999)
    write_world(tmp_path / "other_vocab.txt", 65530)
    found = load_tokenizer(65536, tmp_path / "poet.pth")
    assert (found.name, found.vocab_size, found.encode("the")) == ("poet.vocab.txt", 65536, [999])


def test_a_shared_file_wins_where_it_fits(tmp_path):
    write_world(tmp_path / "rwkv_vocab_special.txt", 65533)
    assert load_tokenizer(65536, tmp_path / "m.pth").name == "rwkv_vocab_special.txt"
    size = write_byte_level(tmp_path / "tokenizer.json")
    assert load_tokenizer(65536, tmp_path / "m.pth").name == "rwkv_vocab_special.txt"
    assert load_tokenizer(size, tmp_path / "m.pth").name == "tokenizer.json"


def test_a_shared_file_for_another_model_is_passed_over(tmp_path):
    write_world(tmp_path / "small_vocab.txt", 500)
    assert load_tokenizer(65536, tmp_path / "m.pth").name == "world"


def test_the_file_of_the_pile_models_is_found_beside_the_model(tmp_path):
    size = write_byte_level(tmp_path / "20B_tokenizer.json")
    assert load_tokenizer(size, tmp_path / "m.pth").name == "20B_tokenizer.json"


def test_an_own_file_that_does_not_fit_is_refused(tmp_path):
    write_world(tmp_path / "poet.vocab.txt", 999)
    with raises_code("vocabulary_invalid", key="reason.tokenizer.ids_beyond_vocabulary", found=999):
        load_tokenizer(500, tmp_path / "poet.pth")


def test_override(tmp_path):
    write_world(tmp_path / "mine.txt", 400)
    assert load_tokenizer(512, tmp_path / "m.pth", tmp_path / "mine.txt").name == "mine.txt"
    assert load_tokenizer(65536, override="world").name == "world"
    assert load_tokenizer(256, override="byte").name == "byte"
    with raises_code("vocabulary_invalid", key="reason.tokenizer.token_count_differs", found=65536, expected=300):
        load_tokenizer(300, override="world")
    with pytest.raises(FileMissing):
        load_tokenizer(65536, override=tmp_path / "none.txt")


@pytest.mark.parametrize(
    "vocab_size, wanted", [(50277, "20B_tokenizer.json"), (50432, "20B_tokenizer.json"), (777, "m.vocab.txt")]
)
def test_no_tokenizer_names_the_way_out(tmp_path, vocab_size, wanted):
    with raises_code("tokenizer_missing", vocab_size=vocab_size) as caught:
        load_tokenizer(vocab_size, tmp_path / "m.pth")
    assert wanted in caught.value.params["wanted"]


def test_music_of_another_vocabulary_is_known_by_its_name(tmp_path):
    with raises_code("music_of_remi"):
        load_tokenizer(1000, tmp_path / "rwkv7-music-REMI-L29-D512.pth")


@pytest.mark.parametrize("vocab_size", [65530, 65529])
def test_the_world_vocabulary_serves_models_without_its_padding(vocab_size):
    found = load_tokenizer(vocab_size)
    assert (found.name, found.vocab_size) == ("world", vocab_size)
    last = load_tokenizer(65536).decode([65529])
    ids = found.encode(f"Hello {last}, 你好")
    assert max(ids) < vocab_size and found.decode(ids) == f"Hello {last}, 你好"
    assert load_tokenizer(vocab_size, override="world").vocab_size == vocab_size
