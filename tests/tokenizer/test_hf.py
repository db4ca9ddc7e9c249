"""HfTokenizer: tokenizer.json files, byte-level and not."""

from __future__ import annotations

import pytest

from tests.errors import raises_code
from tests.tokenizer.make_tokenizers import write_byte_level, write_word_level
from webapp.errors import FileMissing
from webapp.tokenizer.loading import HfTokenizer, byte_of_character

TEXTS = ["the cat", "你好，世界 🙂", "\n\n    x\t\x00\x7fé", "a\u2028b", ""]


@pytest.fixture
def byte_level(tmp_path):
    size = write_byte_level(tmp_path / "tokenizer.json")
    return HfTokenizer(tmp_path / "tokenizer.json", size + 3)


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_text_comes_back(byte_level, text):
    token_ids = byte_level.encode(text)
    assert byte_level.decode(token_ids) == text
    assert b"".join(byte_level.token_bytes(token_id) for token_id in token_ids) == text.encode()


def test_all_bytes_have_a_character():
    assert sorted(byte_of_character().values()) == list(range(256))
    assert byte_of_character()["Ġ"] == ord(" ") and byte_of_character()["Ċ"] == ord("\n")


def test_special_and_unused_ids_have_no_text(byte_level):
    size = byte_level.last_id + 1
    assert byte_level.encode("<|endoftext|>") == [0]
    assert byte_level.decode([0, *byte_level.encode("the"), 0, size + 1]) == "the"
    assert byte_level.unassigned_ids() == [0, size, size + 1, size + 2]


def test_lone_surrogates_do_not_raise(byte_level):
    assert byte_level.decode(byte_level.encode("a\ud800b")) == "a?b"


def test_word_lists_join_with_spaces(tmp_path):
    size = write_word_level(tmp_path / "midi.json", ["<pad>", "t125", "v:0", "n:60"])
    words = HfTokenizer(tmp_path / "midi.json", size)
    assert not words.is_byte_level
    assert words.encode("t125 n:60") == [1, 3]
    assert words.decode([1, 3, 2]) == "t125 n:60 v:0"


def test_files_that_are_no_tokenizer(tmp_path):
    (tmp_path / "t.json").write_text('{"not": "one"}')
    with raises_code("vocabulary_invalid", key="reason.tokenizer.no_tokenizer_json"):
        HfTokenizer(tmp_path / "t.json", 100)
    with pytest.raises(FileMissing):
        HfTokenizer(tmp_path / "none.json", 100)
    write_byte_level(tmp_path / "t.json")
    with raises_code("vocabulary_invalid", key="reason.tokenizer.ids_beyond_vocabulary"):
        HfTokenizer(tmp_path / "t.json", 100)
