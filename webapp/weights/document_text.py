"""Extracts the text of a document: PDF with pypdf, Word and HTML with Python's own parsers.

Only the reader process (:mod:`.reader_process`) calls this: a file that takes too much time or memory ends only it.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from webapp.errors import WeightsError
from webapp.i18n import Text

MAX_PAGES = 500
MAX_CHARS = 2_000_000
"""Much more than a state can be made from."""
UNSEEN = frozenset(("script", "style", "template", "noscript", "svg", "math", "head", "iframe", "object"))
DOCX_UNSEEN = frozenset(("Fallback", "moveFrom", "tabs"))
"""Elements without visible text: copies for old programs, text at its old place after a move, tab stops of a
paragraph."""
DOCX_BREAKS = {"p": "\n", "br": "\n", "cr": "\n", "tr": "\n", "tab": "\t", "noBreakHyphen": "-"}
BLOCKS = re.compile(
    "address|article|aside|blockquote|br|d[dlt]|div|figcaption|footer|form|h[1-6r]|header|li|main|nav|ol|p|pre|section|"
    "table|t[dhr]|ul"
)


def pdf_text(path: Path) -> str:
    """Text page by page. Raises ``document_unreadable`` if it is damaged, locked, too long or has no text (scanned
    pages)."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import PdfReadError, PyPdfError
    except ImportError as exc:
        raise _unreadable(path, Text("reason.weights.pypdf_missing")) from exc
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise _unreadable(path, Text("reason.weights.pdf_is_locked"))
        count = len(reader.pages)
        if count > MAX_PAGES:
            raise _unreadable(path, Text("reason.weights.too_many_pages", found=count, limit=MAX_PAGES))
        pages: list[str] = []
        length = 0
        for page in reader.pages:
            pages.append(page.extract_text())
            length += len(pages[-1])
            if length > MAX_CHARS:
                raise _unreadable(path, Text("reason.weights.too_much_text", limit=MAX_CHARS))
    except WeightsError:
        raise
    except MemoryError:
        raise
    except (PdfReadError, PyPdfError) as exc:
        raise _unreadable(path, Text("reason.weights.pdf_is_damaged", error=str(exc)[:200])) from exc
    except Exception as exc:  # untrusted files may cause unexpected errors in the parser
        raise _unreadable(path, Text("reason.weights.pdf_is_damaged", error=type(exc).__name__)) from exc
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    if not text:
        raise _unreadable(path, Text("reason.weights.pdf_has_no_text", pages=count))
    return text


def docx_text(path: Path) -> str:
    """One line per paragraph; cells of a table row are separated by tabs. Notes, comments and deleted text are left out
    (ECMA-376, part 1, 17). Raises ``document_unreadable`` if it is damaged, too long or has no text."""
    import zipfile
    from xml.etree import ElementTree

    pieces: list[str] = []
    length = unseen = 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open("word/document.xml") as body:
            for event, node in ElementTree.iterparse(body, ("start", "end")):
                name = node.tag.rpartition("}")[2]
                if name in DOCX_UNSEEN:
                    unseen += 1 if event == "start" else -1
                if event == "start" or unseen:
                    continue
                if name == "tc" and pieces[-1:] == ["\n"]:
                    pieces[-1] = "\t"
                elif piece := (node.text or "") if name == "t" else DOCX_BREAKS.get(name, ""):
                    pieces.append(piece)
                    length += len(piece)
                if length > MAX_CHARS:
                    raise _unreadable(path, Text("reason.weights.too_much_text", limit=MAX_CHARS))
                node.clear()
    except (WeightsError, MemoryError):
        raise
    except Exception as exc:  # as for PDF
        raise _unreadable(path, Text("reason.weights.docx_is_damaged", error=type(exc).__name__)) from exc
    text = "\n".join(line.rstrip(" \t") for line in "".join(pieces).split("\n")).strip()
    if not text:
        raise _unreadable(path, Text("reason.weights.html_has_no_text"))
    return text


def html_text(path: Path) -> str:
    """The visible text, one line per paragraph; the file is UTF-8."""
    parser = _Seen()
    parser.feed(path.read_text(encoding="utf-8", errors="replace"))
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.found).split("\n"))
    text = re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip()
    if not text:
        raise _unreadable(path, Text("reason.weights.html_has_no_text"))
    return text


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen == ["head"] and (BLOCKS.fullmatch(tag) or tag == "body"):
            self._unseen.clear()  # the end of a head may be left out
        if tag in UNSEEN:
            self._unseen.append(tag)
        elif BLOCKS.fullmatch(tag):
            self.found.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if BLOCKS.fullmatch(tag):
            self.found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif BLOCKS.fullmatch(tag):
            self.found.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.found.append(data)


def _unreadable(path: Path, reason: Text) -> WeightsError:
    return WeightsError("document_unreadable", path=str(path), reason=reason)
