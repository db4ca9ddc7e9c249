"""Chats of other programs, in files that follow their formats; and files that only look like these."""

import io
import json
import time
import zipfile

import pytest

from tests.errors import raises_code
from webapp.chat.messages import Role
from webapp.i18n import Text
from webapp.services.chat import imports
from webapp.services.chat.imports import read_chats


def said(chat, head=None):
    """(role, text) of the branch that ends with ``head``, or of the shown one."""
    by_id, at, found = {stored.id: stored for stored in chat.messages}, head or chat.head, []
    while at is not None:
        found.append((by_id[at].message.role.value, by_id[at].message.content))
        at = by_id[at].parent_id
    return found[::-1]


def chatgpt_node(key, parent, role, *parts, kind="text", **more):
    content = {"content_type": kind, "parts": list(parts)}
    message = {"id": key, "author": {"role": role}, "create_time": 1.7e9, "content": content, "recipient": "all"}
    return {"id": key, "parent": parent, "children": [], "message": {**message, **more}}


def chatgpt(*nodes, current=None, title="Birds"):
    mapping = {"root": {"id": "root", "message": None, "parent": None, "children": []}}
    mapping.update((node["id"], node) for node in nodes)
    current = current or nodes[-1]["id"]
    return {
        "title": title,
        "create_time": 1.7e9,
        "update_time": 1.7e9 + 60,
        "mapping": mapping,
        "current_node": current,
    }


THOUGHTS = {"content_type": "thoughts", "thoughts": [{"summary": "s", "content": "Wires are warm."}]}
CHATGPT = chatgpt(
    chatgpt_node("s", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
    chatgpt_node(
        "u", "s", "user", {"content_type": "image_asset_pointer", "asset_pointer": "file-service://cat"}, "Why?",
        kind="multimodal_text", metadata={"attachments": [{"name": "notes.pdf", "mime_type": "application/pdf"}]},
    ),
    chatgpt_node("t", "u", "assistant", content=THOUGHTS),
    chatgpt_node("a1", "t", "assistant", "Because.", metadata={"model_slug": "gpt-x"}),
    chatgpt_node("c", "u", "assistant", "search()", recipient="browser"),
    chatgpt_node("r", "c", "tool", "results"),
    chatgpt_node("a2", "r", "assistant", "They rest."),
    current="a1",
)  # fmt: skip


def zipped(*members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def data(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_chatgpt_export_has_its_tree_and_thoughts_and_the_rest_is_named(is_zip):
    content = data([CHATGPT])
    content = zipped(("export/conversations.json", content), ("chat.html", "<html>")) if is_zip else content
    [chat] = read_chats("conversations.json", content)
    assert (chat.title, chat.created_at, chat.updated_at) == ("Birds", 1.7e9, 1.7e9 + 60)
    question = "[image left out: file-service://cat]\n\nWhy?\n\n[file left out: notes.pdf]"
    assert said(chat) == [("user", question), ("assistant", "Because.")]
    assert said(chat, "a2") == [("user", question), ("assistant", "They rest.")]
    first = next(stored for stored in chat.messages if stored.id == "a1")
    assert (first.message.reasoning, first.model) == ("Wires are warm.", "gpt-x")
    assert chat.left_out == {"image": 1, "file": 1, "tool_step": 2}


def test_open_webui_brings_versions_thinking_and_the_shown_branch():
    thought = '<details type="reasoning" done="true"><summary>Thought</summary>\n&gt; A &amp; B\n</details>\nHello!'
    nodes = {
        "1": {"id": "1", "parentId": None, "role": "user", "content": "Hi", "timestamp": 1_700_000_000,
              "files": [{"type": "image", "url": "data:", "name": "cat.png"}]},
        "2": {"id": "2", "parentId": "1", "role": "assistant", "content": thought, "model": "m"},
        "3": {"id": "3", "parentId": "1", "role": "assistant", "content": "Good day."},
    }  # fmt: skip
    told = {"title": "T", "system": "Be kind.", "history": {"messages": nodes, "currentId": "2"}}
    [chat] = read_chats("export.json", data([{"id": "x", "title": "Greeting", "chat": told, "created_at": 1.7e9}]))
    assert (chat.title, chat.system_prompt) == ("Greeting", "Be kind.")
    assert said(chat) == [("user", "Hi\n\n[image left out: cat.png]"), ("assistant", "Hello!")]
    assert next(stored for stored in chat.messages if stored.id == "2").message.reasoning == "A & B"
    assert said(chat, "3")[1] == ("assistant", "Good day.") and chat.left_out == {"image": 1}


def test_open_webui_of_old_has_only_the_branch():
    rows = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    [chat] = read_chats("x.json", data({"title": "Old", "chat": {"messages": rows}}))
    assert said(chat) == [("user", "Hi"), ("assistant", "Hello")]


def test_sillytavern_brings_swipes_as_versions():
    lines = [
        {"user_name": "Ann", "character_name": "Rook", "create_date": "2026-01-02", "chat_metadata": {}},
        {"name": "Rook", "is_user": False, "mes": "Caw.", "swipes": ["Caw.", "Kraa."], "swipe_id": 1},
        {"name": "note", "is_system": True, "mes": "hidden"},
        {"name": "Ann", "is_user": True, "mes": "Hello", "send_date": "2026-01-02T10:00:00Z",
         "extra": {"image": "bird.png"}},
        {"name": "Rook", "is_user": False, "mes": "Hi", "extra": {"reasoning": "A greeting."}},
    ]  # fmt: skip
    [chat] = read_chats("Rook.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert chat.title == "Rook"
    assert said(chat) == [
        ("assistant", "Kraa."), ("user", "Hello\n\n[image left out: bird.png]"), ("assistant", "Hi"),
    ]  # fmt: skip
    assert chat.messages[-1].message.reasoning == "A greeting." and chat.left_out == {"image": 1, "comment": 1}


@pytest.mark.parametrize(
    "text",
    [
        "User: Hi\nthere: you\n\nAssistant: Hello.\n\nIt is late.\n\nUser: Bye",
        "**M E**\n - 1/2/2026, 3:04:05 PM\n\nHi\nthere: you\n\n**A I**\n - 1/2/2026\n\nHello.\n\nIt is late.\n\n"
        "**M E**\n - 1/2/2026\n\nBye\n\n",
        "用户: Hi\nthere: you\n\n助手：Hello.\n\nIt is late.\n\nQ: Bye",
    ],
)
def test_runner_brings_its_lines(text):
    [chat] = read_chats("conversation.txt", text.encode())
    assert said(chat) == [("user", "Hi\nthere: you"), ("assistant", "Hello.\n\nIt is late."), ("user", "Bye")]


def test_five_thousand_messages_take_seconds_at_most():
    nodes, parent = [], "root"
    for number in range(5000):
        nodes.append(chatgpt_node(str(number), parent, ("user", "assistant")[number % 2], f"Message {number} " * 20))
        parent = str(number)
    content, begun = data([chatgpt(*reversed(nodes), current=parent)]), time.process_time()
    [chat] = read_chats("conversations.json", content)
    assert len(said(chat)) == 5000 and time.process_time() - begun < 10


def test_parents_that_go_round_or_lead_nowhere_begin_a_branch():
    nodes = [chatgpt_node("a", "b", "user", "A"), chatgpt_node("b", "a", "user", "B"),
             chatgpt_node("c", "gone", "user", "C"), chatgpt_node("d", "d", "user", "D")]  # fmt: skip
    [chat] = read_chats("x.json", data([chatgpt(*nodes)]))
    seen = set()
    for stored in chat.messages:
        assert stored.parent_id is None or stored.parent_id in seen
        seen.add(stored.id)
    assert seen == {"a", "b", "c", "d"}


ROOST = {"format": "roost-chat", "format_version": 1, "chat": {"title": "x"}, "messages": []}
ROW = {"id": "1", "parent_id": None, "role": "user", "content": "Hi"}
HOSTILE = {
    "nothing": b"",
    "noise": bytes(range(256)) * 8,
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94",
    "half of JSON": b'[{"mapping": {',
    "deep JSON": b"[" * 100_000,
    "a number without end": b'[{"mapping": {"a": ' + b"9" * 10_000 + b"}}]",
    "a list of numbers": b"[1, 2, 3]",
    "an object of nothing": b"{}",
    "a list of nothing": b"[]",
    "prose": b"Once upon a time there was a bird.",
    "prose before the first speaker": b"Dear User: hello\n\nUser: Hi",
    "no messages": data([chatgpt(chatgpt_node("a", None, "user", ""))]),
    "JSON lines that break off": b'{"user_name": "A"}\n{"mes": "x"',
    "JSON lines of numbers": b'{"user_name": "A"}\n1\n2\n',
    "another zip": zipped(("word/document.xml", b"<x/>")),
    "half a zip": zipped(("conversations.json", data([CHATGPT])))[:-30],
    "a zip with a broken member": zipped(("conversations.json", data([CHATGPT]))).replace(b"Why", b"why", 1)[:200],
    "ours, newer": data({**ROOST, "format_version": 2}),
    "ours without messages": data(ROOST),
    "ours, a child before its parent": data({**ROOST, "messages": [{**ROW, "parent_id": "2"}, {**ROW, "id": "2"}]}),
    "ours, one id twice": data({**ROOST, "messages": [ROW, ROW]}),
    "ours, a role nobody has": data({**ROOST, "messages": [{**ROW, "role": "root"}]}),
    "ours, an id that is a list": data({**ROOST, "messages": [{**ROW, "id": [1]}]}),
    "ours, a parent that is an object": data({**ROOST, "messages": [{**ROW, "parent_id": {}}]}),
    "ours, tokens below zero": data({**ROOST, "messages": [{**ROW, "token_ids": [-1]}]}),
    "ours, tokens that are text": data({**ROOST, "messages": [{**ROW, "token_ids": "abc"}]}),
    "ours, calls that are numbers": data({**ROOST, "messages": [{**ROW, "tool_calls": [7]}]}),
    "ours, thinking nobody knows": data({**ROOST, "messages": [{**ROW, "think_mode": "hard"}]}),
    "ours, files without names": data({**ROOST, "messages": [{**ROW, "metadata": {"attachments": [1]}}]}),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_with_a_reason(content):
    with raises_code("chat_import_invalid"):
        read_chats("x", content)


def test_half_a_zip_says_so_in_the_readers_language():
    whole = zipped(("conversations.json", data([CHATGPT])))
    with raises_code("chat_import_invalid") as caught:
        read_chats("export.zip", whole[: len(whole) // 2])
    assert caught.value.params["reason"] == Text("reason.services.zip_is_damaged")


def test_a_zip_that_unpacks_without_end_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(imports, "MAX_BYTES", 1 << 20)
    bomb = zipped(("conversations.json", b" " * (64 << 20)))
    assert len(bomb) < 1 << 20
    with raises_code("too_large"):
        read_chats("bomb.zip", bomb)


def test_figures_and_settings_of_a_stranger_are_believed_only_where_they_make_sense():
    row = {**ROW, "role": "assistant", "status": "streaming", "finish_reason": "magic",
           "stats": {"tokens_per_s": "fast", "decoded_tokens": 3, "seed": -1, "evil": [1], "total_s": float("inf")},
           "metadata": {"tokenizer": 5, "calls": {"x": {"result": "r", "is_error": 0}}}}  # fmt: skip
    chat = {"title": 5, "sampling": {"temperature": 99, "top_p": 0.5, "rm": 1}, "think_mode": "hard",
            "created_at": 1e99, "tools": {"approved": ["all"], "is_on": True, "tool_ids": ["x"]}}  # fmt: skip
    [found] = read_chats("x.json", data({**ROOST, "chat": chat, "messages": [row]}))
    [stored] = found.messages
    assert (stored.status, stored.finish_reason, stored.stats) == ("interrupted", "", {"decoded_tokens": 3})
    assert stored.message.metadata == {} and stored.message.role is Role.ASSISTANT
    assert (found.sampling, found.think_mode, found.tool_names) == ({"top_p": 0.5}, None, ())
