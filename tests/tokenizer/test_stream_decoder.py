"""StreamDecoder: never half a character, and none is lost."""

from __future__ import annotations

import random

import pytest

from tests.tokenizer.make_tokenizers import write_byte_fallback, write_byte_level, write_word_level
from webapp.tokenizer import StreamDecoder, load_tokenizer
from webapp.tokenizer.loading import ByteTokenizer, HfTokenizer

TEXT = "Hi 你好 🙂👩‍👩‍👧 é\u0301 \ufffd end"


def pieces(tokenizer, token_ids):
    decoder = StreamDecoder(tokenizer)
    return [decoder.feed([token_id]) for token_id in token_ids] + [decoder.flush()]


@pytest.mark.parametrize("vocab_size", [256, 65536])
def test_pieces_join_to_the_text_and_have_whole_characters(vocab_size):
    tokenizer = load_tokenizer(vocab_size)
    token_ids = [token_id for byte in TEXT.encode() for token_id in tokenizer.encode_bytes(bytes([byte]))]
    found = pieces(tokenizer, token_ids)
    assert "".join(found) == TEXT
    assert [piece for piece in found if piece] == list(TEXT)


def test_a_character_appears_with_its_last_byte():
    assert pieces(ByteTokenizer(), "你a".encode()) == ["", "", "你", "a", ""]


def test_bytes_that_can_be_no_character_appear_at_once():
    assert pieces(ByteTokenizer(), b"\xff\xc3(\xe4") == ["\ufffd", "", "\ufffd(", "", "\ufffd"]


def test_a_model_that_writes_the_replacement_character_does_not_stall():
    assert pieces(load_tokenizer(65536), load_tokenizer(65536).encode("\ufffd") * 3) == ["\ufffd"] * 3 + [""]


def test_random_bytes_stream_as_they_decode_at_once():
    rng = random.Random(5)
    for _ in range(300):
        data = bytes(
            rng.choice(b"a\x80\xbf\xc3\xe4\xbd\xa0\xf0\x9f\x99\x82\xff\xed\xa0") for _ in range(rng.randrange(30))
        )
        assert "".join(pieces(ByteTokenizer(), data)) == data.decode("utf-8", "replace")


def test_many_tokens_at_once_and_use_again_after_flush():
    decoder = StreamDecoder(ByteTokenizer())
    assert decoder.feed("你好".encode()[:5]) + "|" + decoder.flush() == "你|\ufffd"
    assert decoder.feed(b"ok") == "ok"


def test_byte_level_json_streams_by_bytes(tmp_path):
    size = write_byte_level(tmp_path / "t.json")
    tokenizer = HfTokenizer(tmp_path / "t.json", size)
    token_ids = tokenizer.encode(TEXT)
    found = pieces(tokenizer, token_ids)
    assert "".join(found) == TEXT
    assert "".join(found).count("\ufffd") == 1


def test_word_lists_stream_with_their_spaces(tmp_path):
    size = write_word_level(tmp_path / "t.json", ["<pad>", "a", "b"])
    tokenizer = HfTokenizer(tmp_path / "t.json", size)
    assert pieces(tokenizer, [1, 2, 2, 1]) == ["a", " b", " b", " a", ""]


def test_pieces_with_byte_fallback_wait_for_whole_characters(tmp_path):
    size = write_byte_fallback(tmp_path / "t.json")
    tokenizer = HfTokenizer(tmp_path / "t.json", size)
    assert not tokenizer.is_byte_level
    assert pieces(tokenizer, [256, *"你".encode(), 257]) == ["the", "", "", "你", " cat", ""]


def test_byte_fallback_does_not_stall_over_bytes_that_are_no_character(tmp_path):
    tokenizer = HfTokenizer(tmp_path / "t.json", write_byte_fallback(tmp_path / "t.json"))
    *streamed, rest = pieces(tokenizer, [0xFF] * 9)
    assert "".join(streamed).count("\ufffd") == 8 and rest == "\ufffd"
