"""The World tokenizer: greedy longest match over bytes, identical to the rwkv package's TRIE_TOKENIZER."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from webapp.errors import FileMissing, WeightsError
from webapp.i18n import Text, system_reason

FILE_NAME = "rwkv_vocab_v20230424.txt"


def official_vocabulary_path() -> Path:
    """The file in the rwkv package, found without importing it (which would import torch)."""
    spec = importlib.util.find_spec("rwkv")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise FileMissing(path=FILE_NAME)
    return Path(folders[0]) / FILE_NAME


def read_vocabulary(path: Path) -> dict[int, bytes]:
    """Token bytes by id, from a file with one token per line: ``id literal length``. ``literal`` is a Python str or
    bytes literal, ``length`` its size in UTF-8 bytes. Every byte must be a token, so that any text can be encoded. The
    official file has ids 1 to 65529; ids 1 to 256 are the bytes."""
    text = read_vocabulary_text(path)
    vocabulary = {}
    for token_id, plain, length, line in _LINE.findall(text):
        token = plain.encode()
        if line or len(token) != int(length) or not token:
            token_id, token = _parse_line(path, text, line or f"{token_id} '{plain}' {length}")
        vocabulary[int(token_id)] = token
    _check_bytes(path, vocabulary)
    return vocabulary


_LINE = re.compile(r"^(?:(\d+) '([^'\\\n]*)' (\d+)|(.+))$", re.MULTILINE)
"""Parses plain text in single quotes, which all but 1,000 of the official lines are; the fourth group is any other
line. Parsing line by line took three times as long."""


def read_vocabulary_text(path: Path) -> str:
    """The text of a vocabulary file of any format. Raises FileMissing or WeightsError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise FileMissing(path=str(path)) from exc
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=system_reason(exc)) from exc
    except UnicodeDecodeError as exc:
        reason = Text("reason.tokenizer.not_utf_8")
        raise WeightsError("vocabulary_invalid", path=str(path), reason=reason) from exc


def _parse_line(path: Path, text: str, line: str) -> tuple[int, bytes]:
    try:
        token_id, rest = line.split(" ", 1)
        literal, length = rest.rsplit(" ", 1)
        token = _token(literal)
        if len(token) != int(length) or not token or int(token_id) < 0:
            raise ValueError("the length does not match")
        return int(token_id), token
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as exc:
        raise WeightsError(
            "vocabulary_invalid",
            path=str(path),
            reason=Text("reason.tokenizer.bad_line", line=text.split("\n").index(line) + 1),
        ) from exc


def _token(literal: str) -> bytes:
    quote = literal[:1]
    # literal_eval is slow, and only 840 of the official lines need it.
    if quote in ("'", '"') and literal[-1] == quote and literal.count(quote) == 2 and "\\" not in literal:
        return literal[1:-1].encode()
    value = ast.literal_eval(literal)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError("neither str nor bytes")


def _check_bytes(path: Path, vocabulary: Mapping[int, bytes]) -> None:
    singles = {token for token in vocabulary.values() if len(token) == 1}
    if len(singles) < 256:
        missing = next(byte for byte in range(256) if bytes([byte]) not in singles)
        raise WeightsError(
            "vocabulary_invalid",
            path=str(path),
            reason=Text("reason.tokenizer.byte_without_token", byte=f"0x{missing:02x}"),
        )


VOCAB_SIZE = 65536


class WorldTokenizer:
    """A vocabulary in the World text format; the official one by default.

    Matching: a dict maps the first four bytes to the lengths of longer tokens, longest first; then one lookup each for
    three, two and one bytes. Compared with a trie of dicts, on 1 MB: 0.7 times its speed on English and 1.3 times on
    Chinese, with 1 MB of index instead of 17.
    """

    is_byte_level = True

    def __init__(
        self,
        path: Path | None = None,
        vocab_size: int = VOCAB_SIZE,
        name: str | None = None,
        vocabulary: Mapping[int, bytes] | None = None,
    ) -> None:
        """``vocabulary``: token bytes by id, if the file at ``path`` has been read already."""
        self.vocab_size = vocab_size
        is_official = path is None
        path = path or official_vocabulary_path()
        self.name = name or path.name
        if vocabulary is not None:
            _check_bytes(path, vocabulary)
        self._bytes_of = read_vocabulary(path) if vocabulary is None else dict(vocabulary)
        if is_official:  # a model converted without padding may lack the last token; other tokens can spell its text
            self._bytes_of = {token_id: token for token_id, token in self._bytes_of.items() if token_id < vocab_size}
        self.last_id = max(self._bytes_of)
        if self.last_id >= vocab_size:
            told = {"found": self.last_id, "limit": vocab_size - 1}
            reason = Text("reason.tokenizer.ids_beyond_vocabulary", **told)
            raise WeightsError("vocabulary_invalid", path=str(path), reason=reason)
        self._id_of = {token: token_id for token_id, token in self._bytes_of.items()}
        self._lengths = _lengths_by_prefix(self._id_of)
        self._single = [self._id_of[bytes([byte])] for byte in range(256)]

    @property
    def vocabulary(self) -> Mapping[int, bytes]:
        """Token bytes by id."""
        return self._bytes_of

    def encode(self, text: str) -> list[int]:
        return self.encode_bytes(text.encode("utf-8", "surrogatepass"))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Accepts any bytes, also invalid UTF-8."""
        token_ids: list[int] = []
        append, find, lengths, nothing = token_ids.append, self._id_of.get, self._lengths.get, ()
        position, end = 0, len(data)
        # A slice at the end may be shorter than requested. It then contains the rest of the data, and the position
        # moves past the end, which ends the loop.
        while position < end:
            for length in lengths(data[position : position + 4], nothing):
                token_id = find(data[position : position + length])
                if token_id is not None:
                    append(token_id)
                    position += length
                    break
            else:
                if (token_id := find(data[position : position + 3])) is not None:
                    position += 3
                elif (token_id := find(data[position : position + 2])) is not None:
                    position += 2
                else:
                    token_id = self._single[data[position]]
                    position += 1
                append(token_id)
        return token_ids

    def decode(self, token_ids: Iterable[int]) -> str:
        return self.decode_bytes(token_ids).decode("utf-8", "replace")

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes_of.get(token_id, b"") for token_id in token_ids)

    def token_bytes(self, token_id: int) -> bytes | None:
        return self._bytes_of.get(token_id)

    def unassigned_ids(self) -> list[int]:
        return [token_id for token_id in range(self.vocab_size) if token_id not in self._bytes_of]


def world_tokenizer(vocab_size: int = VOCAB_SIZE) -> WorldTokenizer:
    """The official vocabulary, read once per process (0.1 s)."""
    return _world_tokenizer(vocab_size)


@lru_cache(maxsize=1)
def _world_tokenizer(vocab_size: int) -> WorldTokenizer:
    return WorldTokenizer(vocab_size=vocab_size, name="world")


def _lengths_by_prefix(tokens: Iterable[bytes]) -> dict[bytes, tuple[int, ...]]:
    found: dict[bytes, set[int]] = {}
    for token in tokens:
        if len(token) >= 4:
            found.setdefault(token[:4], set()).add(len(token))
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # 14,500 prefixes share a few hundred tuples
    ordered = ((prefix, tuple(sorted(lengths, reverse=True))) for prefix, lengths in found.items())
    return {prefix: shared.setdefault(lengths, lengths) for prefix, lengths in ordered}
