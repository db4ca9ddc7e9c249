"""The World tokenizer: the same tokens as the official one, and exact in both directions."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests.errors import raises_code
from webapp.errors import FileMissing
from webapp.tokenizer.loading import WorldTokenizer, official_vocabulary_path, world_tokenizer

SAMPLES = [
    "",
    "a",
    "Hello, world! The quick brown fox jumps over the lazy dog.",
    "User: 你好\n\nAssistant: 你好！有什么可以帮您的吗？",
    "  \t\t\n\n\r\n        def f(x):\n            return x**2  # ok\n" + " " * 300 + "-" * 100,
    "こんにちは 안녕하세요 Привет مرحبا שלום ไทย 🙂👩‍👩‍👧‍👦🇨🇳",
    "\x00\x01\x7f\x80\xff\u2028\u0085\ufeff\ufffd\U0010ffff",
]


@pytest.fixture(scope="module")
def official():
    rwkv_tokenizer = pytest.importorskip("rwkv.rwkv_tokenizer")
    return rwkv_tokenizer.TRIE_TOKENIZER(str(official_vocabulary_path()))


@pytest.fixture(scope="module")
def world():
    return world_tokenizer()


def random_texts(count):
    rng = random.Random(7)
    alphabets = [
        "abc xyz.\n",
        "the and ing tion ",
        "的一是不了人我在有他这",
        "🙂👩é߿\u0800\uffff\U00010000",
        "\t\n \r0123456789-=#",
    ]
    for _ in range(count):
        alphabet = rng.choice(alphabets) + rng.choice(alphabets)
        yield "".join(rng.choice(alphabet) for _ in range(rng.randrange(60)))
        yield "".join(chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(20))


def test_equal_to_the_official_one_on_text(world, official):
    for text in [*SAMPLES, *random_texts(500)]:
        token_ids = world.encode(text)
        assert token_ids == official.encode(text)
        assert world.decode(token_ids) == text
        assert official.decode(token_ids) == text


def test_equal_to_the_official_one_on_any_bytes(world, official):
    rng = random.Random(3)
    tokens = [token for token in world._id_of if len(token) > 1]
    for _ in range(500):
        pieces = [rng.choice(tokens)[: rng.randrange(1, 9)] for _ in range(20)]
        for data in (rng.randbytes(rng.randrange(1, 50)), b"".join(pieces)):
            token_ids = world.encode_bytes(data)
            assert token_ids == official.encodeBytes(data)
            assert world.decode_bytes(token_ids) == data


def test_every_token_encodes_to_itself(world):
    for token_id in (1, 256, 257, 20000, 65529):
        assert world.encode_bytes(world.token_bytes(token_id)) == [token_id]
    assert all(world.encode_bytes(token) == [token_id] for token_id, token in world._bytes_of.items())


def test_known_ids(world):
    assert world.encode("\n\n") == [261]
    assert world.encode("User: ") == world.encode_bytes(b"User: ")
    assert (world.name, world.vocab_size, world.token_bytes(0), world.token_bytes(70000)) == (
        "world",
        65536,
        None,
        None,
    )
    assert world.unassigned_ids() == [0, *range(65530, 65536)]


def test_lone_surrogates_and_halves_of_characters_never_raise(world):
    token_ids = world.encode("a\ud800b")
    assert world.decode(token_ids) == "a\ufffd\ufffd\ufffdb"
    half = world.encode_bytes("你".encode()[:2])
    assert world.decode([*half, 0, 65535, 10**9, -1]) == "\ufffd"


def test_a_vocabulary_of_ones_own(tmp_path):
    lines = [f"{byte} {bytes([byte])!r} 1" for byte in range(256)] + ["256 'it\\'s' 4", '257 "it\'s it" 7', "300 'é' 2"]
    (tmp_path / "v.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = WorldTokenizer(tmp_path / "v.txt", 512)
    assert own.encode("it's it's") == [257, ord("'"), ord("s")]
    assert own.encode("é") == [300]
    assert (own.name, own.last_id) == ("v.txt", 300)
    assert own.unassigned_ids()[:2] == [258, 259]
    with raises_code("vocabulary_invalid", key="reason.tokenizer.ids_beyond_vocabulary", found=300):
        WorldTokenizer(tmp_path / "v.txt", 300)


@pytest.mark.parametrize(
    "text, told",
    [
        ("1 'a' 2", {"line": 1}),
        ("1 'a'", {"line": 1}),
        ("x 'a' 1", {"line": 1}),
        ("1 __import__('os') 1", {"line": 1}),
        ("1 'a' + 'b' 2", {"line": 1}),
        ("1 3 1", {"line": 1}),
        ("1 '' 0", {"line": 1}),
        ("1 'a' 1", {"byte": "0x00"}),
    ],
)
def test_bad_vocabularies_say_where(tmp_path, text, told):
    (tmp_path / "v.txt").write_text(text)
    with raises_code("vocabulary_invalid", **told):
        WorldTokenizer(tmp_path / "v.txt")


def test_missing_and_binary_vocabularies(tmp_path):
    with pytest.raises(FileMissing):
        WorldTokenizer(tmp_path / "none.txt")
    (tmp_path / "v.txt").write_bytes(b"\xff\xfe\x00")
    with raises_code("vocabulary_invalid", key="reason.tokenizer.not_utf_8"):
        WorldTokenizer(tmp_path / "v.txt")


def test_loading_imports_neither_torch_nor_rwkv():
    code = """
import sys
from webapp.tokenizer import load_tokenizer
assert load_tokenizer(65536).decode([261]) == "\\n\\n"
assert not {"torch", "rwkv", "tokenizers", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
