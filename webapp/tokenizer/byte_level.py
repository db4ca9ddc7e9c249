"""One token a byte: id = byte. The vocabulary of 256 that tiny test models are trained on."""

from __future__ import annotations

from collections.abc import Iterable


class ByteTokenizer:
    """Every id is a byte, so 0 is NUL here and nothing marks the end of a document."""

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
