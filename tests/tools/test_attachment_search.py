"""Searching attachments: the right passage first, in English and Chinese, with its lines, and limited in size."""

from __future__ import annotations

import json

import pytest

from tests.errors import keys_in
from webapp.chat.messages import ToolCall
from webapp.tools.builtin import BUILTINS
from webapp.tools.builtin.attachment_search import (
    MAX_CHARS,
    MAX_RESULTS,
    PASSAGE_CHARS,
    NamedText,
    lines_of,
    search_attachments,
    spans,
    terms,
)
from webapp.tools.runner import MAX_RESULT_CHARS, run_call

RIVERS = "Some words about rivers, boats and the weather on the water. " * 11
ENGLISH = f"{RIVERS}\n\n{RIVERS}\n\nThe capital of Norland is Freja.\nIts cities are cold.\n\n{RIVERS}\n\n{RIVERS}"
WATER = "关于河流、船只和水上天气的一些文字。" * 20
CHINESE = f"{WATER}\n\n{WATER}\n\n诺兰的首都是弗雷亚，人口四万。\n\n{WATER}\n\n{WATER}"


def found(query, *texts, **arguments):
    files = [NamedText(f"{number}.txt", text) for number, text in enumerate(texts)]
    return search_attachments({"query": query, **arguments}, lambda: files)


def test_the_passage_with_the_rare_words_comes_first_and_says_where_it_is():
    first = found("What is the capital of Norland?", RIVERS * 3, ENGLISH)["results"][0]
    assert first["file"] == "1.txt" and "Freja" in first["text"]
    lines = ENGLISH.split("\n")
    begin, _, end = first["lines"].partition("-")
    assert "The capital of Norland is Freja." in lines[int(begin) - 1 : int(end)]


def test_chinese_is_found_by_pairs_of_characters():
    first = found("诺兰的首都在哪里", WATER * 3, CHINESE)["results"][0]
    assert first["file"] == "1.txt" and "弗雷亚" in first["text"]


def test_both_scripts_in_one_query():
    text = f"{WATER}\n\nRWKV模型的作者是彭博。\n\n{RIVERS}"
    assert "彭博" in found("who wrote RWKV 模型", text)["results"][0]["text"]


@pytest.mark.parametrize(
    ("query", "text", "is_found"),
    [
        ("city", "Two cities lie there.", True),
        ("cities", "A city lies there.", True),
        ("herons", "A Heron's nest", True),
        ("waiting", "He waits there.", True),
        ("cat", "concatenate", False),
        ("Norland?!", "in NORLAND", True),
        ("ＮＯＲＬＡＮＤ", "in Norland", True),
        ("图", "一张图", True),
        ("snake_case", "a snake_case name", True),
    ],
)
def test_forms_of_a_word_are_found_and_parts_of_another_are_not(query, text, is_found):
    assert bool(found(query, text)["results"]) is is_found


def test_words_that_say_nothing_count_only_alone():
    assert terms("What is the capital?") == ["capital"] and terms("what is this") == ["what", "is", "this"]


def test_a_passage_that_says_it_more_often_in_fewer_words_ranks_higher():
    often, once = "heron heron heron.", f"heron. {RIVERS}"
    assert [row["file"] for row in found("heron", once, often)["results"]] == ["1.txt", "0.txt"]


def test_places_stay_right_where_lower_case_is_longer():
    text = "İİİİ\n" * 300 + "the heron stands here"
    row = found("heron", text)["results"][0]
    assert "heron" in row["text"]


def test_nothing_found_says_so_and_names_the_files():
    assert found("zebra", ENGLISH)["files"] == ["0.txt"] and found("zebra", ENGLISH)["results"] == []


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, "x" * 5000, "\n" * 3000, "a b " * 900, "", "é" * 1500])
def test_passages_are_the_text_without_a_gap(text):
    parts = spans(text)
    assert "".join(text[start:end] for start, end in parts) == text
    assert all(0 < end - start <= PASSAGE_CHARS for start, end in parts)


def test_lines_are_counted_without_the_blank_ones_around():
    text = "one\n\ntwo\nthree\n\nfour"
    assert lines_of(text, (3, 15)) == (3, 4)


def test_the_answer_is_bounded_whatever_the_files_hold():
    hostile = 'heron "\\" \x01\n' * 20_000
    shown = found("heron", *[hostile] * 5, max_results=MAX_RESULTS)["results"]
    assert 1 <= len(shown) <= MAX_RESULTS
    assert len(json.dumps(shown, ensure_ascii=False)) < MAX_CHARS + 1000 < MAX_RESULT_CHARS
    assert "\x01" not in shown[0]["text"]


def test_as_many_as_asked_for():
    assert len(found("rivers", ENGLISH, max_results=2)["results"]) == 2


def call(arguments, texts=None):
    made = ToolCall("c", "search_attachments", json.dumps(arguments))
    return run_call(made, BUILTINS["search_attachments"].definition, texts=texts)


def test_outside_a_chat_it_says_why_there_is_nothing_to_search():
    result = call({"query": "heron"})
    assert result.is_error and keys_in(result.reason) == ["reason.tools.only_in_a_chat"]


def test_a_chat_without_files_says_so():
    result = call({"query": "heron"}, lambda: [])
    assert result.is_error and keys_in(result.reason) == ["reason.tools.no_attached_files"]


@pytest.mark.parametrize("arguments", [{}, {"query": "a", "max_results": 0}, {"query": "a", "max_results": 99}])
def test_arguments_that_do_not_fit_are_reported_before_anything_is_read(arguments):
    def never():
        raise AssertionError("the files were read")

    assert call(arguments, never).problems


def test_a_query_without_words_is_reported():
    result = call({"query": "?!"}, lambda: [NamedText("a", "b")])
    assert keys_in(result.reason) == ["reason.tools.query_without_words"]


def test_other_tools_run_as_ever_in_a_chat():
    made = ToolCall("c", "calculate", '{"expression": "2 + 3"}')
    result = run_call(made, BUILTINS["calculate"].definition, texts=list)
    assert json.loads(result.text)["result"] == 5
