"""The interface of all tokenizers, decoding of streamed token ids, the tokenizers of text models (World, bytes,
tokenizer.json), and the choice of a model's tokenizer: a vocabulary file next to it, otherwise the one for its
vocabulary size."""

from __future__ import annotations

import ast
import codecs
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from webapp.errors import FileMissing, WeightsError
from webapp.i18n import Text, system_reason
from webapp.tokenizer.music import ABC_SIZE, MIDI_VOCABULARIES, AbcTokenizer, MidiTokenizer


class Tokenizer(Protocol):
    """Converts text to token ids and back, for a model with ``vocab_size`` logits. Immutable, so threads may share
    one."""

    @property
    def name(self) -> str:
        """``world``, ``byte``, or the name of the vocabulary file."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def is_byte_level(self) -> bool:
        """True if the text of several tokens is the concatenation of their :meth:`token_bytes`."""

    def encode(self, text: str) -> list[int]:
        """Never raises. Lone surrogates, which UTF-8 cannot contain, are decoded as U+FFFD or ``?``."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Never raises. Ids without text are skipped; invalid UTF-8 becomes U+FFFD."""

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes: ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """None if the token has no text (end of document, unused or out of range)."""

    def unassigned_ids(self) -> list[int]:
        """Ids below ``vocab_size`` without text, ascending; they include 0, the end of a document."""


LONGEST_CHARACTER = 4  # bytes of UTF-8, so as many tokens at most


class StreamDecoder:
    """Decodes a growing sequence: the texts from :meth:`feed` and :meth:`flush` join to the text of all its tokens.

    Bytes of an incomplete character are held back. Bytes that can no longer become a character are released as U+FFFD
    immediately, so a model that writes U+FFFD does not stall.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._window: list[int] = []
        self._n_shown = 0

    def feed(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete; often empty."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(self._tokenizer.decode_bytes(token_ids))
        return "".join(self._feed_one(token_id) for token_id in token_ids)

    def flush(self) -> str:
        """At the end of a sequence: the held-back rest, as text. Resets the decoder."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(b"", final=True)
        text = self._unshown()
        self._window, self._n_shown = [], 0
        return text

    def _feed_one(self, token_id: int) -> str:
        """For tokens whose texts do not simply join: decodes a window that starts with the last released token, for
        context."""
        self._window.append(token_id)
        text = self._unshown()
        n_held = len(self._window) - self._n_shown
        if text.endswith("\ufffd") and n_held < LONGEST_CHARACTER:
            return ""
        if text or n_held >= LONGEST_CHARACTER:
            self._window = self._window[self._n_shown :]
            self._n_shown = len(self._window)
        return text

    def _unshown(self) -> str:
        shown = self._tokenizer.decode(self._window[: self._n_shown])
        return self._tokenizer.decode(self._window)[len(shown) :]


WORLD_FILE = "rwkv_vocab_v20230424.txt"


def official_vocabulary_path() -> Path:
    """The file in the rwkv package, found without importing it (which would import torch)."""
    spec = importlib.util.find_spec("rwkv")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise FileMissing(path=WORLD_FILE)
    return Path(folders[0]) / WORLD_FILE


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


WORLD_VOCAB_SIZE = 65536


class WorldTokenizer:
    """A vocabulary in the World text format; the official one by default. Greedy longest match over bytes, identical to
    the rwkv package's TRIE_TOKENIZER.

    Matching: a dict maps the first four bytes to the lengths of longer tokens, longest first; then one lookup each for
    three, two and one bytes. Compared with a trie of dicts, on 1 MB: 0.7 times its speed on English and 1.3 times on
    Chinese, with 1 MB of index instead of 17.
    """

    is_byte_level = True

    def __init__(
        self,
        path: Path | None = None,
        vocab_size: int = WORLD_VOCAB_SIZE,
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
            params = {"found": self.last_id, "limit": vocab_size - 1}
            reason = Text("reason.tokenizer.ids_beyond_vocabulary", **params)
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


def world_tokenizer(vocab_size: int = WORLD_VOCAB_SIZE) -> WorldTokenizer:
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


class ByteTokenizer:
    """One token per byte, for the vocabulary of 256 of tiny test models. Every id is a byte: 0 is NUL, and there is no
    end-of-document token."""

    name = "byte"
    vocab_size = 256
    is_byte_level = True

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))

    def encode_bytes(self, data: bytes) -> list[int]:
        return list(data)

    def decode(self, token_ids: Iterable[int]) -> str:
        return self.decode_bytes(token_ids).decode("utf-8", "replace")

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes:
        return bytes(token_id for token_id in token_ids if 0 <= token_id < 256)

    def token_bytes(self, token_id: int) -> bytes | None:
        return bytes([token_id]) if 0 <= token_id < 256 else None

    def unassigned_ids(self) -> list[int]:
        return []


class HfTokenizer:
    """The ``tokenizer.json`` format: 20B_tokenizer.json of the Pile models, and others. Imports the tokenizers library
    at first use.

    Byte-level vocabularies (20B) give exact bytes for every token; with others (the words of the MIDI models) only the
    text of a whole sequence is exact. Special tokens (``<|endoftext|>``, id 0 in 20B) are recognised in text as the
    file defines, and decode to nothing.
    """

    def __init__(self, path: Path, vocab_size: int) -> None:
        self.name = path.name
        self.vocab_size = vocab_size
        text = read_vocabulary_text(path)
        self._tokenizer = _build(path, text)
        self.last_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if self.last_id >= vocab_size:
            params = {"found": self.last_id, "limit": vocab_size - 1}
            reason = Text("reason.tokenizer.ids_beyond_vocabulary", **params)
            raise WeightsError("vocabulary_invalid", path=str(path), reason=reason)
        self.is_byte_level = _decodes_bytes(json.loads(text).get("decoder"))
        self._bytes_of = self._token_table()

    def encode(self, text: str) -> list[int]:
        clean = text.encode("utf-8", "replace").decode()  # the library refuses lone surrogates
        return list(self._tokenizer.encode(clean, add_special_tokens=False).ids)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Invalid UTF-8 becomes U+FFFD, because this format encodes only text."""
        return self.encode(data.decode("utf-8", "replace"))

    def decode(self, token_ids: Iterable[int]) -> str:
        known = [token_id for token_id in token_ids if token_id in self._bytes_of]
        if self.is_byte_level:
            return self.decode_bytes(known).decode("utf-8", "replace")
        return str(self._tokenizer.decode(known, skip_special_tokens=True))

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes:
        if self.is_byte_level:
            return b"".join(self._bytes_of.get(token_id, b"") for token_id in token_ids)
        return self.decode(token_ids).encode()

    def token_bytes(self, token_id: int) -> bytes | None:
        return self._bytes_of.get(token_id)

    def unassigned_ids(self) -> list[int]:
        return [token_id for token_id in range(self.vocab_size) if token_id not in self._bytes_of]

    def _token_table(self) -> dict[int, bytes]:
        added = self._tokenizer.get_added_tokens_decoder()
        byte_of = byte_of_character()
        table: dict[int, bytes] = {}
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token_id in added and added[token_id].special:
                continue
            if self.is_byte_level and token_id not in added and all(character in byte_of for character in token):
                table[token_id] = bytes(byte_of[character] for character in token)
            else:
                table[token_id] = token.encode()
        return table


def byte_of_character() -> dict[str, int]:
    """The byte for each character of a byte-level token (GPT-2's encoder.py, ``bytes_to_unicode``)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


def _build(path: Path, text: str) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as exc:  # the library has no narrower exception
        raise WeightsError(
            "vocabulary_invalid", path=str(path), reason=Text("reason.tokenizer.no_tokenizer_json", error=str(exc))
        ) from exc


def _decodes_bytes(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    steps = decoder.get("decoders", [decoder])
    return any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps)


PILE_VOCAB_SIZE = 50277  # 20B_tokenizer.json of GPT-NeoX; the models' vocabulary may be padded
PILE_FILE = "20B_tokenizer.json"
LARGEST_PADDING = 256  # 6 in the World models
WORLD_SIZES = (WORLD_VOCAB_SIZE, 65530, 65529)
"""The ids of the World vocabulary end at 65529. Models are padded to 65,536, not padded, or without the last token."""
SHARED_NAMES = ("tokenizer.json", PILE_FILE)


def load_tokenizer(
    vocab_size: int,
    model_path: str | Path | None = None,
    override: str | Path | None = None,
    in_model: Callable[[], Mapping[int, bytes] | None] = lambda: None,
) -> Tokenizer:
    """The tokenizer for a model with ``vocab_size`` logits.

    ``override``: a vocabulary file, or ``world`` or ``byte``; then only this is used. Otherwise, next to the model:
    ``<model>.vocab.txt`` and ``<model>.tokenizer.json``; then the vocabulary that ``in_model`` finds in the model's
    file (token bytes by id). These raise WeightsError if the size differs. Then ``tokenizer.json``,
    ``20B_tokenizer.json`` and ``*_vocab*.txt`` if their size fits, because models may share a folder. Last, the
    built-in ones: World for 65,536 and the sizes of conversions without padding, bytes for 256, and those of the music
    models.
    """
    if override:
        return _named(str(override), vocab_size)
    model = Path(model_path) if model_path else None
    return (
        _own_file(model, vocab_size)
        or _in_model(in_model(), model, vocab_size)
        or _shared_file(model, vocab_size)
        or _built_in(vocab_size, model)
    )


def _in_model(vocabulary: Mapping[int, bytes] | None, model: Path | None, vocab_size: int) -> Tokenizer | None:
    """Returns the built-in World vocabulary if it is the same, so that it is in memory only once."""
    if vocabulary is None or model is None:
        return None
    if vocab_size in WORLD_SIZES and world_tokenizer(vocab_size).vocabulary == vocabulary:
        return world_tokenizer(vocab_size)
    return WorldTokenizer(model, vocab_size, vocabulary=vocabulary)


def _named(override: str, vocab_size: int) -> Tokenizer:
    built_in = {"world": WORLD_SIZES, "byte": (ByteTokenizer.vocab_size,)}
    if override not in built_in:
        return _from_file(Path(override), vocab_size)
    if vocab_size not in built_in[override]:
        params = {"name": repr(override), "found": built_in[override][0], "expected": vocab_size}
        reason = Text("reason.tokenizer.token_count_differs", **params)
        raise WeightsError("vocabulary_invalid", path=override, reason=reason)
    return _built_in(vocab_size, None)


def _own_file(model: Path | None, vocab_size: int) -> Tokenizer | None:
    if model is not None:
        for ending in (".vocab.txt", ".tokenizer.json"):
            path = model.with_name(f"{model.stem}{ending}")
            if path.is_file():
                return _from_file(path, vocab_size)
    return None


def _shared_file(model: Path | None, vocab_size: int) -> Tokenizer | None:
    for path in _shared_candidates(model.parent) if model is not None else ():
        # Read with any vocabulary size: a vocabulary of another size belongs to another model.
        found = _from_file(path, vocab_size=2**31)
        if 0 <= vocab_size - (found.last_id + 1) <= LARGEST_PADDING:
            return _from_file(path, vocab_size)
    return None


def _shared_candidates(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in SHARED_NAMES if (folder / name).is_file())
    yield from (path for path in sorted(folder.glob("*_vocab*.txt")) if path.is_file())


def _from_file(path: Path, vocab_size: int) -> WorldTokenizer | HfTokenizer:
    if not path.is_file():
        raise FileMissing(path=str(path))
    with path.open("rb") as file:
        is_json = file.read(64).lstrip().startswith(b"{")
    return HfTokenizer(path, vocab_size) if is_json else WorldTokenizer(path, vocab_size)


def _built_in(vocab_size: int, model: Path | None) -> Tokenizer:
    if vocab_size in WORLD_SIZES:
        return world_tokenizer(vocab_size)
    if vocab_size == ByteTokenizer.vocab_size:
        return ByteTokenizer()
    if vocab_size == ABC_SIZE:
        return AbcTokenizer()
    if vocab_size in MIDI_VOCABULARIES:
        return MidiTokenizer(MIDI_VOCABULARIES[vocab_size])
    if model is not None and "remi" in model.stem.lower():
        raise WeightsError("music_of_remi", path=str(model))
    wanted = f"{model.stem if model else '<model>'}.vocab.txt or a tokenizer.json"
    if 0 <= vocab_size - PILE_VOCAB_SIZE <= LARGEST_PADDING:
        wanted = f"{PILE_FILE} (it comes with GPT-NeoX 20B and the Raven and Pile models of RWKV-4)"
    raise WeightsError("tokenizer_missing", path=str(model or "this model"), vocab_size=vocab_size, wanted=wanted)
