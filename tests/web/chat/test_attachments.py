"""Files over HTTP: attached by a script or a form, shown escaped, downloaded, and malicious ones limited."""

import re
import urllib.error
import urllib.request
from html import escape

import pytest

from tests.weights.test_document_text import docx, needs_pypdf, pages, runs, word
from tests.weights.test_document_text import says as pdf_page
from tests.wording import is_refused, says
from webapp.chat.messages import attached_files
from webapp.services.attachments import FILE_BYTES, ROOM
from webapp.storage.attachments import AttachmentStore

BOUNDARY = "roostboundary"


def multipart(files, fields):
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()
    ]
    for name, data in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        parts.append(head.encode() + b"Content-Type: text/plain\r\n\r\n" + data + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def post(roost, path, files, headers=None, **fields):
    """(status, headers, body), also for a refusal."""
    told = {"Origin": roost.url, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **(headers or {})}
    request = urllib.request.Request(roost.url + path, multipart(files, fields), told)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers, refused.read().decode()


def attach(roost, chat, name, data, **fields):
    return post(roost, "/chat/attach", [(name, data)], {"HX-Request": "true"}, chat=chat, **fields)


def pending(roost, chat_id):
    return AttachmentStore(roost.app.extensions["database"]).pending(chat_id)


def test_a_file_begins_a_chat_with_what_the_panel_says_and_waits_in_it(roost):
    status, headers, html = attach(
        roost, "", "notes.md", "# 苍鹭\n".encode(), temperature="0.5", system_prompt="Be kind."
    )
    chat_id = headers["Roost-Chat"]
    assert status == 200 and "notes.md" in html and says(html, "chat.files.whole_uncounted")
    chat = roost.store.get(chat_id)
    assert (chat.sampling, chat.system_prompt) == ({"temperature": 0.5}, "Be kind.")
    page = roost.get(f"/chat/{chat_id}")
    assert f"remove_attachment:{pending(roost, chat_id)[0].id}" in page
    assert "remove_attachment" not in roost.get("/")


@pytest.mark.parametrize("name", ["notes.md", "会议记录 2026.txt"])
def test_a_chat_is_named_by_its_first_file_until_its_first_message(roost, name):
    chat_id = attach(roost, "", name, b"a heron")[1]["Roost-Chat"]
    attach(roost, chat_id, "other.md", b"an egret")
    assert roost.store.get(chat_id).title == name and f">{name}<" in roost.get("/")
    roost.turns.send(chat_id, "What is this?")
    assert roost.store.get(chat_id).title == "What is this?"


def test_a_removed_file_names_no_chat(roost):
    chat_id = attach(roost, "", "notes.md", b"a heron")[1]["Roost-Chat"]
    for left in ("other.md", ""):
        if left:
            attach(roost, chat_id, left, b"an egret")
        roost.post("/chat/do", chat=chat_id, do=f"remove_attachment:{pending(roost, chat_id)[0].id}")
        assert roost.store.get(chat_id).title == left


def test_a_sent_file_is_shown_with_its_message_and_read_by_the_model(roost):
    chat_id = attach(roost, "", "a.txt", b"heron")[1]["Roost-Chat"]
    file = pending(roost, chat_id)[0]
    roost.post("/chat/do", do="send", chat=chat_id, text="What?")
    assert roost.turns.live(chat_id).wait_finished(60)
    page = roost.get(f"/chat/{chat_id}")
    assert page.count("a.txt</a>") == 1 and f"/chat/{chat_id}/files/{file.id}" in page
    assert f"remove_attachment:{file.id}" not in page and pending(roost, chat_id) == []
    assert roost.store.get(chat_id).title == "What?"


def test_without_scripts_files_go_with_the_form(roost):
    files = [("one.txt", b"one"), ("", b""), ("two.txt", "二".encode("gbk") * 40)]
    status, _, page = post(roost, "/chat/do", files, do="send", chat="", text="Both?")
    chat_id = re.search(r'data-chat="(\w+)"', page)[1]
    assert status == 200 and roost.turns.live(chat_id).wait_finished(60)
    names = [file.name for file in attached_files(roost.store.branch(chat_id)[0].message)]
    assert names == ["one.txt", "two.txt"]


def test_a_refused_file_keeps_the_text_and_the_others_and_sends_nothing(roost):
    files = [("good.txt", b"good"), ("bad.bin", bytes(50))]
    status, _, page = post(roost, "/chat/do", files, do="send", chat="", text="Keep <this>")
    chat_id = re.search(r'data-chat="(\w+)"', page)[1]
    assert status == 422 and "toast-error" in page and "bad.bin" in page and "Keep &lt;this&gt;</textarea>" in page
    assert [file.name for file in pending(roost, chat_id)] == ["good.txt"] and roost.store.branch(chat_id) == []


def test_reading_is_toggled_and_a_file_removed_by_form(roost):
    chat_id = attach(roost, "", "a.txt", b"heron")[1]["Roost-Chat"]
    file = pending(roost, chat_id)[0]
    _, page = roost.post("/chat/do", do=f"toggle_attachment:{file.id}", chat=chat_id)
    assert says(page, "chat.files.searched") and says(page, "chat.files.search_note")
    _, page = roost.post("/chat/do", do=f"remove_attachment:{file.id}", chat=chat_id)
    assert "a.txt" not in page


def test_the_page_of_a_file_shows_it_escaped_and_gives_it_back(roost):
    text = "</pre><script>alert(1)</script> & 苍鹭\r\n"
    chat_id = attach(roost, "", "<b>x</b>&.html", text.encode("utf-16"))[1]["Roost-Chat"]
    file = pending(roost, chat_id)[0]
    page = roost.get(f"/chat/{chat_id}/files/{file.id}")
    assert "<script>alert" not in page and "&lt;/pre&gt;&lt;script&gt;" in page and "b&gt;&amp;.html" in page
    with urllib.request.urlopen(f"{roost.url}/chat/{chat_id}/files/{file.id}/download") as answer:
        assert answer.read().decode() == text
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "<b>x" not in roost.get(f"/chat/{chat_id}")


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("x.txt", b"\x00\x01" * 50, 422, "attachment_not_text"),
        ("x.pdf", b"%PDF-1.4 text", 422, "document_unreadable"),
        ("x.docx", docx("<w:p"), 422, "document_unreadable"),
        ("x.xlsx", docx("x", "xl/workbook.xml"), 422, "attachment_not_text"),
        ("x.txt", b"  ", 422, "attachment_empty"),
        ("<img src=x>.txt", bytes(9), 422, "attachment_not_text"),
        ("big.txt", b"a" * (FILE_BYTES + 1), 413, "attachment_too_large"),
    ],
)
def test_what_cannot_be_attached_begins_no_chat(roost, name, data, status, code):
    found, headers, page = attach(roost, "", name, data)
    assert (found, headers["Roost-Chat"]) == (status, "") and is_refused(page, code)
    assert escape(name) in page and "<img" not in page


@needs_pypdf
def test_of_a_pdf_or_word_file_the_text_is_attached(roost):
    chat_id = attach(roost, "", "bird.pdf", pages(pdf_page("Herons wait.")))[1]["Roost-Chat"]
    big = word(runs("x" * 60) * 10, picture=bytes(FILE_BYTES))
    assert attach(roost, chat_id, "Brief.docx", big)[0] == 200
    pdf, letter = pending(roost, chat_id)
    assert (pdf.size_bytes, letter.size_bytes) == (len("Herons wait."), 609)
    with urllib.request.urlopen(f"{roost.url}/chat/{chat_id}/files/{pdf.id}/download") as answer:
        assert answer.read() == b"Herons wait." and "bird.pdf.txt" in answer.headers["Content-Disposition"]


def test_fifty_megabytes_are_refused_before_they_are_read(roost):
    status, _, _ = attach(roost, "", "huge.txt", b"a" * 50_000_000)
    assert status == 413


def test_a_path_in_a_name_is_left_out(roost):
    chat_id = attach(roost, "", "../../x", b"text")[1]["Roost-Chat"]
    assert pending(roost, chat_id)[0].name == "x"


def test_a_chat_that_is_full_says_so(roost):
    chat_id = roost.store.create().id
    for _ in range(ROOM.most_bytes // FILE_BYTES):
        assert attach(roost, chat_id, "a.txt", b"a b " * (FILE_BYTES // 4))[0] == 200
    status, _, html = attach(roost, chat_id, "more.txt", b"a")
    assert status == 409 and is_refused(html, "attachments_full") and "more.txt" in html


def test_files_of_another_chat_are_not_there(roost):
    mine = roost.store.create().id
    other = attach(roost, "", "secret.txt", b"secret")[1]["Roost-Chat"]
    file = pending(roost, other)[0]
    for path in (f"/chat/{mine}/files/{file.id}", f"/chat/{mine}/files/{file.id}/download"):
        with pytest.raises(urllib.error.HTTPError) as missing:
            roost.get(path)
        assert missing.value.code == 404 and b"secret" not in missing.value.read()
    for action in ("toggle_attachment", "remove_attachment"):
        with pytest.raises(urllib.error.HTTPError) as missing:
            roost.post("/chat/do", do=f"{action}:{file.id}", chat=mine)
        assert missing.value.code == 404
    assert len(pending(roost, other)) == 1


def test_a_file_for_a_chat_that_is_gone_or_from_another_site_is_refused(roost):
    assert attach(roost, "nobody", "a.txt", b"a")[0] == 404
    assert post(roost, "/chat/attach", [("a.txt", b"a")], {"Origin": "http://evil.example"}, chat="")[0] == 403


def test_every_page_of_the_chat_shows_waiting_calls(roost):
    chat_id = roost.store.create().id
    page = roost.socket()
    page.open(chat_id)
    attach(roost, chat_id, "a.txt", b"a")
    page.until(lambda frame: isinstance(frame, str) and 'id="attached"' in frame and "a.txt" in frame)
    file = pending(roost, chat_id)[0]
    page.send(do=f"toggle_attachment:{file.id}", chat=chat_id)
    page.until(lambda frame: isinstance(frame, str) and says(frame, "chat.files.searched"))
    page.send(do="send", chat=chat_id, text="Now")
    page.until(lambda frame: isinstance(frame, str) and 'id="attached"' in frame and "a.txt" not in frame)


def test_the_tools_page_offers_the_search_and_a_trial_says_why_it_finds_nothing(roost):
    assert "search_attachments" in roost.get("/tools")
    fields = {"name": "search_attachments", "behaviour": "builtin", "builtin": "search_attachments"}
    row = {"row.0.name": "query", "row.0.kind": "string", "row.0.path": "query"}
    _, page = roost.post("/tools/try", arguments='{"query": "heron"}', **fields, **row)
    assert says(page, "reason.tools.only_in_a_chat")
