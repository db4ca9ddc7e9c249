"""The text in a file, told by its bytes: UTF-8, UTF-16, UTF-32 or GB18030. Its name says nothing."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from webapp.errors import AttachmentNotText, Phrase

BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
KNOWN = ((b"%PDF-", "PDF"), (b"PK\x03\x04", "ZIP, Word, Excel"), (b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"))
"""Kinds that people take for text, or attach most often, by their first bytes."""
COMMON_CONTROLS = frozenset("\t\n\r\f\v\b\x1b\x1a")
MOST_CONTROLS = 0.01
LEAST_COMMON_CHINESE = 0.8
MIXED_BYTES = 4096


@dataclass(frozen=True)
class DecodedText:
    text: str
    encoding: str


def decode_text(name: str, data: bytes) -> DecodedText:
    """AttachmentNotText for what is none; ``name`` is only for its words."""
    for mark, kind in KNOWN:
        if data.startswith(mark):
            raise AttachmentNotText(name=name, reason=Phrase("it is a file of the kind {kind}", kind=kind))
    found = _with_mark(name, data) or _without_mark(data)
    if found is None:
        raise AttachmentNotText(name=name, reason="its bytes are no text in UTF-8, UTF-16 or GB18030")
    if _is_binary(found.text):
        raise AttachmentNotText(name=name, reason="it is binary data")
    return found


def _with_mark(name: str, data: bytes) -> DecodedText | None:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            text = _strict(data[len(mark) :], encoding)
            if text is None:
                reason = Phrase("it says it is {encoding}, and is not", encoding=encoding)
                raise AttachmentNotText(name=name, reason=reason)
            return DecodedText(text, encoding)
    return None


def _without_mark(data: bytes) -> DecodedText | None:
    for encoding in ("utf-8", _utf16_order(data), "gb18030"):
        text = _strict(data, encoding) if encoding else None
        if text is None or (encoding == "gb18030" and not _is_chinese(data)):
            continue
        return DecodedText(text, encoding)
    return None


def _strict(data: bytes, encoding: str) -> str | None:
    """UTF-8 with NUL in it decodes, but is UTF-16 without its mark, or no text."""
    if encoding == "utf-8" and b"\0" in data:
        return None
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _utf16_order(data: bytes) -> str:
    """Spaces, line ends and Latin letters have a zero byte, all on one side; "" where that does not show."""
    head = data[:MIXED_BYTES]
    if len(data) % 2 or b"\0" not in head:
        return ""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd and not even:
        return "utf-16-le"
    return "utf-16-be" if even and not odd else ""


def _is_chinese(data: bytes) -> bool:
    """Nearly any bytes are GB18030: Chinese are those whose pairs lie, mostly, in the square of GB 2312."""
    pairs = common = position = 0
    while position < len(data):
        if data[position] < 0x80:
            position += 1
            continue
        following = data[position + 1] if position + 1 < len(data) else 0
        pairs += 1
        common += 0xA1 <= data[position] <= 0xF7 and following >= 0xA1
        position += 4 if 0x30 <= following <= 0x39 else 2
    return pairs > 0 and common >= pairs * LEAST_COMMON_CHINESE


def _is_binary(text: str) -> bool:
    if "\0" in text:
        return True
    controls = sum(text.count(chr(code)) for code in range(1, 32) if chr(code) not in COMMON_CONTROLS)
    return controls > len(text) * MOST_CONTROLS
