"""Documents become text in the reader process: the visible text, or the reason why there is none; malicious ones are
limited."""

from __future__ import annotations

import importlib.util
import io
import zipfile
import zlib

import pytest

from tests.errors import raises_code
from webapp.weights import document_text, file_reader
from webapp.weights.file_reader import FileReader

needs_pypdf = pytest.mark.skipif(importlib.util.find_spec("pypdf") is None, reason="pip install pypdf")
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


@pytest.fixture(scope="module")
def reader():
    return FileReader()


def pdf(*objects: bytes, root: int = 1) -> bytes:
    """A PDF with these objects, numbered from 1."""
    out, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    trailer = b"trailer << /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, root, len(out))
    return out + head + table + trailer


def stream(content: bytes, extra: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), extra, content)


def pages(*contents: bytes, count: int | None = None) -> bytes:
    """One page for each content."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(contents)))
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    objects.append(b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(contents) if count is None else count))
    objects.append(FONT)
    for n, content in enumerate(contents):
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Resources << /Font << /F 3 0 R >> >>"
        objects += [page + b" /Contents %d 0 R >>" % (5 + 2 * n), content]
    return pdf(*objects)


def says(text: str) -> bytes:
    return stream(b"BT /F 12 Tf 10 100 Td (%s) Tj ET" % text.encode())


def text_of(reader, folder, data: bytes | str, kind: str) -> str:
    path = folder / "given"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return reader.document_text(path, kind, f"document.{kind}")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<p>One <b>bold</b> word.</p><p>Two</p>", "One bold word.\nTwo"),
        ("<html><head><title>T</title><body>Seen<script>alert('x')</script><style>p{}</style>", "Seen"),
        ("<head><meta charset=utf-8><p>The head was never closed", "The head was never closed"),
        ("a &amp; b &lt;c&gt; &#21488;<br/>next", "a & b <c> 台\nnext"),
        ("<table><tr><td>1<td>2</table><ul><li>x<li>y", "1\n2\nx\ny"),
        ("<svg><text>drawn</text></svg>said", "said"),
        ("<p" * 20_000 + ">deep", "deep"),
        ("<div>" * 50_000 + "deep", "deep"),
        ("</p>" * 50_000 + "end", "end"),
    ],
)
def test_html_gives_its_visible_text(reader, tmp_path, source, expected):
    assert text_of(reader, tmp_path, source, "html").endswith(expected)


@pytest.mark.parametrize("source", ["", "<script>x</script>", "<!-- only this -->"])
def test_html_without_text_is_refused(reader, tmp_path, source):
    with raises_code("document_unreadable"):
        text_of(reader, tmp_path, source, "html")


@needs_pypdf
def test_a_pdf_is_read_page_by_page(reader, tmp_path):
    assert (
        text_of(reader, tmp_path, pages(says("First page."), says("Second page.")), "pdf")
        == "First page.\n\nSecond page."
    )


LOOP = pdf(
    b"<< /Type /Catalog /Pages 2 0 R >>",
    b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>",
)
SELF = stream(b"/X Do", b"/Type /XObject /Subtype /Form /Resources << /XObject << /X 5 0 R >> >>")
HOSTILE = {
    "empty": b"%PDF-1.7\n",
    "noise": b"%PDF-1.7\n" + bytes(range(256)) * 40,
    "cut off": pages(says("text"))[:200],
    "pages that hold themselves": LOOP,
    "a form that draws itself": pages(SELF),
    "scanned": pages(stream(b"q Q")),
    "deep brackets": pages(stream(b"[" * 200_000)),
    "deep objects": pdf(b"<<" * 5_000 + b">>" * 5_000),
    "an endless root": pdf(b"<< /Type /Catalog /Pages 1 0 R >>"),
    "a stream that grows": lambda: pages(stream(zlib.compress(b"\0" * (1 << 28)), b"/Filter /FlateDecode")),
    "a chain of filters": lambda: pages(
        stream(zlib.compress(zlib.compress(b"\0" * (1 << 26))), b"/Filter [/FlateDecode /FlateDecode]")
    ),
    "wrong sizes": pages(b"<< /Length 999999999999 >>\nstream\nx\nendstream"),
    "a lie about pages": pages(says("")[:10], count=1 << 31),
}
"""Slow ones are functions, because every worker imports this."""


@needs_pypdf
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pdf_is_an_error_in_bounded_time_and_the_next_one_is_read(reader, tmp_path, data):
    with raises_code("document_unreadable", "file_reading_failed"):
        text_of(reader, tmp_path, data() if callable(data) else data, "pdf")
    assert text_of(reader, tmp_path, pages(says("fine")), "pdf") == "fine"


@needs_pypdf
def test_a_document_that_takes_too_long_is_ended(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(file_reader, "DOCUMENT_WORK_S", 0.2)
    words = b"".join(b"(word) Tj " for _ in range(400_000))
    with raises_code("file_reading_failed"):
        text_of(reader, tmp_path, pages(stream(b"BT /F 12 Tf " + words + b"ET")), "pdf")


@needs_pypdf
def test_more_pages_than_are_read_are_refused(reader, tmp_path):
    with raises_code("document_unreadable"):
        text_of(reader, tmp_path, pages(*[says("x")] * (document_text.MAX_PAGES + 1)), "pdf")


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx(body: bytes | str, name: str = "word/document.xml", picture: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, body)
        archive.writestr("word/media/image1.png", picture, zipfile.ZIP_STORED)
    return out.getvalue()


def word(inner: str, head: str = "", picture: bytes = b"") -> bytes:
    body = f'{head}<w:document xmlns:w="{WORD}" xmlns:mc="urn:mc"><w:body>{inner}</w:body></w:document>'
    return docx(body, picture=picture)


def runs(*texts: str) -> str:
    return "<w:p>" + "".join(f"<w:r><w:t>{text}</w:t></w:r>" for text in texts) + "</w:p>"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (runs("Two ", "runs &amp; 台") + runs("next"), "Two runs & 台\nnext"),
        ("<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r></w:p>", "a\tb\nc"),
        (f"<w:tbl><w:tr><w:tc>{runs('1')}</w:tc><w:tc>{runs('2')}</w:tc></w:tr></w:tbl>{runs('x')}", "1\t2\nx"),
        ("<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>here</w:t></w:r></w:p>", "here"),
        (f"<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>a</w:t></w:r></w:p>{runs('b')}" * 2, "a\nb\na\nb"),
        pytest.param(runs("a", " " * 300_000, "b"), f"a{' ' * 300_000}b", id="a wide gap"),
        (f"<w:p><w:moveFrom><w:r><w:t>old</w:t></w:r></w:moveFrom></w:p><w:moveTo>{runs('new')}</w:moveTo>", "new"),
        (f"<mc:Choice>{runs('box')}</mc:Choice><mc:Fallback>{runs('box')}</mc:Fallback>", "box"),
    ],
)
def test_a_word_file_gives_its_visible_text(reader, tmp_path, inner, expected):
    assert text_of(reader, tmp_path, word(inner), "docx") == expected


LAUGHS = (
    "<!DOCTYPE d [<!ENTITY a0 'ha'>" + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)) + "]>"
)
HOSTILE_WORD = {
    "no zip": b"PK\3\4 word/document.xml",
    "cut off": word(runs("text"))[:-30],
    "no document in it": docx("x", "word/styles.xml"),
    "no text": word("<w:p/>"),
    "broken XML": docx("<w:p"),
    "laughs": word(runs("&a9;"), LAUGHS),
    "another file": word(runs("&f;"), "<!DOCTYPE d [<!ENTITY f SYSTEM 'file:///etc/hostname'>]>"),
    "a bomb": lambda: docx(b"<a>" + b"x" * (1 << 28)),
    "many paragraphs": lambda: word(runs("word " * 100) * 10_000),
}


@pytest.mark.parametrize("data", HOSTILE_WORD.values(), ids=HOSTILE_WORD)
def test_a_hostile_word_file_is_an_error_in_bounded_time(reader, tmp_path, data):
    with raises_code("document_unreadable", "file_reading_failed"):
        text_of(reader, tmp_path, data() if callable(data) else data, "docx")
    assert text_of(reader, tmp_path, word(runs("fine")), "docx") == "fine"
