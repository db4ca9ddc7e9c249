"""Tokenizers in the ``tokenizer.json`` format: 20B_tokenizer.json of the Pile models, and others.

The tokenizers library is imported at first use. Byte-level vocabularies (20B) give exact bytes for every token; of
others (the word lists of the MIDI models) only the text of a whole sequence is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.tokenizer.world import read_vocabulary_text


class HfTokenizer:
    """Special tokens (``<|endoftext|>``, id 0 in 20B) are found in text as the file says, and decode to nothing."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self.name = path.name
        self.vocab_size = vocab_size
        text = read_vocabulary_text(path)
        self._tokenizer = _build(path, text)
        self.last_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if self.last_id >= vocab_size:
            told = {"found": self.last_id, "limit": vocab_size - 1}
            reason = Text("reason.tokenizer.ids_beyond_vocabulary", **told)
            raise WeightsError("vocabulary_invalid", path=str(path), reason=reason)
        self.is_byte_level = _decodes_bytes(json.loads(text).get("decoder"))
        self._bytes_of = self._token_table()

    def encode(self, text: str) -> list[int]:
        clean = text.encode("utf-8", "replace").decode()  # the library raises over lone surrogates
        return list(self._tokenizer.encode(clean, add_special_tokens=False).ids)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Invalid UTF-8 becomes U+FFFD: this format encodes text only."""
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
    """The byte each character of a byte-level token stands for (GPT-2's encoder.py, ``bytes_to_unicode``)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


def _build(path: Path, text: str) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as exc:  # the library raises nothing narrower
        raise WeightsError(
            "vocabulary_invalid", path=str(path), reason=Text("reason.tokenizer.no_tokenizer_json", error=str(exc))
        ) from exc


def _decodes_bytes(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    steps = decoder.get("decoders", [decoder])
    return any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps)
