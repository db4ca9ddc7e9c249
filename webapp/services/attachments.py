"""Files attached to a chat: upload, number of tokens, and their texts for prompts and searches.

The type of a file is detected from its bytes, never from its name: text (UTF-8, UTF-16, UTF-32 or GB18030), or a PDF or
Word file, whose text a separate process extracts (:mod:`webapp.weights.file_reader`). Only the text is stored.
"""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from webapp.chat.messages import Message, ReadMode, Role, attached_files, display_name, fenced, with_files
from webapp.errors import RequestError, RoostError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.library.placing import writing
from webapp.settings import Settings
from webapp.storage.attachments import Attachment, AttachmentStore, Room
from webapp.storage.database import Database
from webapp.storage.records import StoredMessage
from webapp.storage.tools import StoredTool, ToolStore
from webapp.tokenizer import Tokenizer
from webapp.tools.builtin import BUILTINS
from webapp.tools.builtin.attachment_search import NAME, NamedText
from webapp.tools.definition import Behaviour

BOMS = (  # UTF-32 first: its little-endian BOM begins with the BOM of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
KNOWN = ((b"%PDF-", "PDF"), (b"PK\x03\x04", "ZIP, Word, Excel"), (b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"))
"""Types that people often attach or confuse with text, by their first bytes."""
COMMON_CONTROLS = frozenset("\t\n\r\f\v\b\x1b\x1a")
MAX_CONTROLS = 0.01
MIN_COMMON_CHINESE = 0.8
MIXED_BYTES = 4096


class DecodedText(Struct, frozen=True):
    text: str
    encoding: str


def decode_text(name: str, data: bytes) -> DecodedText:
    """Raises ``attachment_not_text`` if it is not text; ``name`` is used only in the message."""
    for mark, kind in KNOWN:
        if data.startswith(mark):
            raise RoostError("attachment_not_text", name=name, reason=Text("reason.services.file_kind", kind=kind))
    found = _with_mark(name, data) or _without_mark(data)
    if found is None:
        raise RoostError("attachment_not_text", name=name, reason=Text("reason.services.unknown_encoding"))
    if _is_binary(found.text):
        raise RoostError("attachment_not_text", name=name, reason=Text("reason.services.is_binary_data"))
    return found


def _with_mark(name: str, data: bytes) -> DecodedText | None:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            text = _strict(data[len(mark) :], encoding)
            if text is None:
                reason = Text("reason.services.wrong_encoding", encoding=encoding)
                raise RoostError("attachment_not_text", name=name, reason=reason)
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
    """Text that contains NUL decodes as UTF-8, but is UTF-16 without a BOM, or not text."""
    if encoding == "utf-8" and b"\0" in data:
        return None
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _utf16_order(data: bytes) -> str:
    """Detects UTF-16 by the zero bytes of spaces, line ends and Latin letters, all on one side; "" if undecided."""
    head = data[:MIXED_BYTES]
    if len(data) % 2 or b"\0" not in head:
        return ""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd and not even:
        return "utf-16-le"
    return "utf-16-be" if even and not odd else ""


def _is_chinese(data: bytes) -> bool:
    """Almost any bytes are valid GB18030: text is Chinese if most of its pairs are in the range of GB 2312."""
    pairs = common = position = 0
    while position < len(data):
        if data[position] < 0x80:
            position += 1
            continue
        following = data[position + 1] if position + 1 < len(data) else 0
        pairs += 1
        common += 0xA1 <= data[position] <= 0xF7 and following >= 0xA1
        position += 4 if 0x30 <= following <= 0x39 else 2
    return pairs > 0 and common >= pairs * MIN_COMMON_CHINESE


def _is_binary(text: str) -> bool:
    if "\0" in text:
        return True
    controls = sum(text.count(chr(code)) for code in range(1, 32) if chr(code) not in COMMON_CONTROLS)
    return controls > len(text) * MAX_CONTROLS


def document_kind(data: bytes) -> str:
    """``pdf`` or ``docx`` (Word); "" for possible text, also text about PDF. A PDF may begin up to 1 KB later."""
    head = data[:1024]
    if head.startswith(b"%PDF-") or (b"%PDF-" in head and b"%%EOF" in data[-1024:]):
        return "pdf"
    return "docx" if data.startswith(b"PK\x03\x04") and b"word/document.xml" in data else ""


FILE_BYTES = 2_000_000
FILE_LIMIT = "2 MB"
DOCUMENT_BYTES = 20_000_000
DOCUMENT_LIMIT = "20 MB"
ROOM = Room(most_files=20, most_bytes=8_000_000, text="8 MB")
WHOLE_TOKENS = 8_000
"""Up to this size a file goes into the prompt as a whole by default: a minute of prefill on a slow machine, and about
the context for which small models were trained."""
WHOLE_CHARACTERS = 16_000
"""The same limit if there is no model to count tokens with."""
HTML_NAME = re.compile(r"\.x?html?$", re.IGNORECASE)
HTML_BEGINS = re.compile(
    r"\s*(<\?xml[^>]{0,200}>\s*)?(<!--.{0,500}?-->\s*)?<(!doctype html|html)\b", re.IGNORECASE | re.DOTALL
)


def file_text(manager: ModelManager, name: str, data: bytes, reads_html: bool = False) -> str:
    """The text of an uploaded file: text unchanged, documents by the reader process, which also reads HTML if
    ``reads_html``. Raises the matching ``attachment_error``; for documents ``document_unreadable`` or
    FileReadingFailed."""
    shown, kind = display_name(name), document_kind(data)
    if len(data) > (DOCUMENT_BYTES if kind else FILE_BYTES):
        raise RoostError("attachment_too_large", name=shown, limit=DOCUMENT_LIMIT if kind else FILE_LIMIT)
    text = "" if kind else decode_text(shown, data).text
    if reads_html and (HTML_NAME.search(name) or HTML_BEGINS.match(text)):
        kind, data = "html", text.encode("utf-8", "replace")
    if kind:
        with tempfile.TemporaryDirectory(prefix="roost-") as folder:
            path = Path(folder) / f"given.{kind}"
            with writing(path.parent, len(data)):
                path.write_bytes(data)
            text = manager.library.reader.document_text(path, kind, shown)
    if not text.strip():
        raise RoostError("attachment_empty", name=shown)
    return text


class Attachments:
    """Cheap to make, safe from any thread."""

    def __init__(self, database: Database, manager: ModelManager, settings: Settings) -> None:
        self.store = AttachmentStore(database)
        self._manager = manager
        self._most_tokens = settings.max_prompt_tokens

    def check(self, name: str, data: bytes) -> str:
        """The text of a file, as of :func:`file_text`; stores nothing."""
        return file_text(self._manager, name, data)

    def attach(self, chat_id: str, name: str, data: bytes, text: str | None = None) -> Attachment:
        """Stores a file in the chat for the next message. ``text``: the result of :meth:`check`; without it, calls
        :meth:`check` and raises its errors. Raises ``attachments_full``."""
        shown, text = display_name(name), self.check(name, data) if text is None else text
        tokenizer = self._tokenizer()
        tokens = _count(shown, text, tokenizer) if tokenizer else None
        is_short = len(text) <= WHOLE_CHARACTERS if tokens is None else tokens <= WHOLE_TOKENS
        mode = ReadMode.WHOLE if is_short else ReadMode.SEARCH
        vocabulary = tokenizer.name if tokenizer else ""
        size = len(text.encode("utf-8", "replace")) if document_kind(data) else len(data)
        return self.store.add(chat_id, shown, text, size, mode, ROOM, tokens, vocabulary)

    def pending(self, chat_id: str) -> list[Attachment]:
        """Token counts use the vocabulary of the currently chosen model."""
        found = self.store.pending(chat_id) if chat_id else []
        tokenizer = self._tokenizer() if found else None
        return [self._counted(file, tokenizer) for file in found]

    def toggle(self, chat_id: str, attachment_id: str) -> None:
        """Switches between whole and searched; raises ``prompt_too_long`` for a file that fits into no prompt."""
        file = self.store.get(chat_id, attachment_id)
        mode = ReadMode.SEARCH if file.mode is ReadMode.WHOLE else ReadMode.WHOLE
        if mode is ReadMode.WHOLE and (file.tokens or 0) > self._most_tokens:
            raise RequestError("prompt_too_long", found=file.tokens, limit=self._most_tokens)
        self.store.set_mode(chat_id, attachment_id, mode)

    def _counted(self, file: Attachment, tokenizer: Tokenizer | None) -> Attachment:
        if tokenizer is None or tokenizer.name == file.tokenizer:
            return file
        try:
            tokens = _count(file.name, self.store.text(file.chat_id, file.id), tokenizer)
            self.store.set_tokens(file.chat_id, file.id, tokens, tokenizer.name)
            return self.store.get(file.chat_id, file.id)
        except RoostError:  # sent or removed meanwhile
            return file

    def _tokenizer(self) -> Tokenizer | None:
        try:
            return self._manager.tokenizer()
        except RoostError:
            return None


def _count(name: str, text: str, tokenizer: Tokenizer) -> int:
    """Counts the tokens of the file as it appears in a prompt."""
    return len(tokenizer.encode(fenced(name, text)))


def with_texts(messages: Sequence[Message], chat_id: str, store: AttachmentStore) -> list[Message]:
    """The messages for a prompt: each user message followed by its files."""
    files = [file for message in messages for file in attached_files(message) if file.mode is ReadMode.WHOLE]
    texts = store.texts(chat_id, [file.id for file in files]) if files else {}
    return [
        replace(message, content=with_files(message.content, attached_files(message), texts))
        if message.role is Role.USER
        else message
        for message in messages
    ]


def texts_before(path: Iterable[StoredMessage], store: AttachmentStore) -> list[NamedText]:
    """The texts of all files on a branch, whole ones too, each once, in the order in which they were attached."""
    rows = list(path)
    names = {file.id: file.name for stored in rows for file in attached_files(stored.message)}
    texts = store.texts(rows[0].chat_id, list(names)) if names else {}
    return [NamedText(name, texts[file_id]) for file_id, name in names.items() if file_id in texts]


AUTOMATIC_ID = "builtin.search_attachments"


def with_search(tools: Sequence[StoredTool], store: ToolStore) -> list[StoredTool]:
    """Adds the search tool: the user's own copy, with its text and approval, or the built-in one. Another tool of the
    user with the same name replaces it."""
    if any(_searches(tool) or tool.definition.name == NAME for tool in tools):
        return list(tools)
    names = {tool.definition.name for tool in tools}
    own = [tool for tool in store.list() if _searches(tool) and tool.definition.name not in names]
    return [*tools, own[0] if own else StoredTool(AUTOMATIC_ID, BUILTINS[NAME].definition, 0.0)]


def _searches(tool: StoredTool) -> bool:
    return tool.definition.behaviour is Behaviour.BUILTIN and tool.definition.builtin == NAME
