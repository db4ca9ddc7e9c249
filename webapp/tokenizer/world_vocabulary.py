"""The World vocabulary file: one token a line, as ``id literal length``.

``literal`` is a Python str or bytes literal, ``length`` its size in UTF-8 bytes. The official file comes with the rwkv
package (rwkv_vocab_v20230424.txt: ids 1 to 65529, of which 1 to 256 are the single bytes).
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from webapp.errors import FileMissing, WeightsError
from webapp.i18n import Phrase

FILE_NAME = "rwkv_vocab_v20230424.txt"


def official_vocabulary_path() -> Path:
    """The file inside the rwkv package, found without importing it (that would import torch)."""
    spec = importlib.util.find_spec("rwkv")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise FileMissing(path=FILE_NAME)
    return Path(folders[0]) / FILE_NAME


def read_vocabulary(path: Path) -> dict[int, bytes]:
    """Token bytes by id. Every single byte must be a token, so that any text can be encoded."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as exc:
        raise FileMissing(path=str(path)) from exc
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=exc.strerror or str(exc)) from exc
    except UnicodeDecodeError as exc:
        raise WeightsError("vocabulary_invalid", path=str(path), reason="a vocabulary is UTF-8 text") from exc
    vocabulary = {}
    for number, line in enumerate(lines, 1):
        if line:
            token_id, token = _parse_line(path, number, line)
            vocabulary[token_id] = token
    _check_bytes(path, vocabulary)
    return vocabulary


def _parse_line(path: Path, number: int, line: str) -> tuple[int, bytes]:
    try:
        token_id, rest = line.split(" ", 1)
        literal, length = rest.rsplit(" ", 1)
        token = _token(literal)
        if len(token) != int(length) or not token or int(token_id) < 0:
            raise ValueError("the length does not match")
        return int(token_id), token
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as exc:
        raise WeightsError(
            "vocabulary_invalid", path=str(path), reason=Phrase("line {line} is not `id literal length`", line=number)
        ) from exc


def _token(literal: str) -> bytes:
    quote = literal[:1]
    # All but 840 of the official lines are plain text between quotes, which saves 0.4 s of literal_eval.
    if quote in ("'", '"') and literal[-1] == quote and literal.count(quote) == 2 and "\\" not in literal:
        return literal[1:-1].encode()
    value = ast.literal_eval(literal)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError("neither str nor bytes")


def _check_bytes(path: Path, vocabulary: dict[int, bytes]) -> None:
    singles = {token for token in vocabulary.values() if len(token) == 1}
    if len(singles) < 256:
        missing = next(byte for byte in range(256) if bytes([byte]) not in singles)
        raise WeightsError(
            "vocabulary_invalid",
            path=str(path),
            reason=Phrase("it has no token for the single byte {byte}", byte=f"0x{missing:02x}"),
        )
