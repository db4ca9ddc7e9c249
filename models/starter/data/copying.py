"""Repeating, quoting, spelling and selecting: teaches a model to use the words of its prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from models.starter.data import words as w
from models.starter.data.document import Dialogue, Document
from models.starter.data.tool_schemas import KINDS
from models.starter.data.wide_words import WideWords
from models.starter.data.words import Words

KEYS = tuple(dict.fromkeys(name for kind in KINDS.values() for name in (*kind.names, "value")))


def value(words: Words, chinese: bool) -> str:
    """Any text or number that can be copied."""
    rng = words.rng
    draw = rng.randrange(10)
    if draw == 0:
        return words.identifier()
    if draw == 1:
        return words.name(chinese)
    if draw == 2:
        return words.city(chinese)
    if draw == 3:
        return words.phrase(chinese)
    if draw == 4:
        return words.made_up() if not chinese else words.thing(True)
    if draw == 5:
        return str(words.number())
    if draw == 6:
        return rng.choice((words.date(), words.time()))
    if draw == 7:
        return words.pick(w.COLORS_ZH if chinese else w.COLORS)
    if draw == 8 and not chinese:
        return words.made_up().capitalize() + " " + words.made_up().capitalize()
    return words.thing(chinese)


def repeat(words: Words, zh: bool) -> tuple[str, str]:
    rng, text = words.rng, value(words, zh)
    for _ in range(rng.choice((0, 0, 1, 2, 4))):
        text += ("，" if zh else " ") + value(words, zh)
    if zh:
        return rng.choice(("重复：{t}", "请重复“{t}”", "跟我说：{t}", "请说“{t}”", "复述一遍：{t}")).format(
            t=text
        ), text
    return rng.choice(
        (
            "Repeat: {t}",
            'Say "{t}"',
            "Repeat after me: {t}",
            'Please repeat "{t}".',
            "Say exactly this: {t}",
            "Echo {t}",
        )
    ).format(t=text), text


def several(words: Words, zh: bool, count: int) -> list[str]:
    """Different pieces of text, sometimes in both languages."""
    mixed = words.rng.random() < 0.2
    found = []
    for _ in range(count):
        chinese = zh != (mixed and words.rng.random() < 0.5)
        found.append(words.any_word(chinese) if words.rng.random() < 0.75 else value(words, chinese))
    return found


def repeat_many(words: Words, zh: bool) -> tuple[str, str]:
    """Dense copying: many words per document, which is learnt sooner than one."""
    rng = words.rng
    text = rng.choice((" ", ", ", " ") if not zh else ("、", "，", " ")).join(several(words, zh, rng.randrange(4, 14)))
    asked = ("重复：{t}", "跟我说：{t}", "复述一遍：{t}") if zh else ("Repeat: {t}", "Repeat after me: {t}", "Echo {t}")
    return rng.choice(asked).format(t=text), text


def json_list(words: Words, zh: bool) -> tuple[str, str]:
    things = several(words, zh, words.rng.randrange(2, 14))
    answer = json.dumps(things, ensure_ascii=False, separators=(",", ":"))
    if zh:
        return f"写成JSON列表：{'、'.join(things)}", answer
    return words.rng.choice(("Write as a JSON list: {t}", "JSON list of {t}")).format(t=", ".join(things)), answer


def quote(words: Words, zh: bool) -> tuple[str, str]:
    text = words.any_word(zh) if words.rng.random() < 0.6 else value(words, zh)
    if zh:
        return words.rng.choice(("给{t}加上引号。", "把{t}放进引号里")).format(t=text), json.dumps(
            text, ensure_ascii=False
        )
    return words.rng.choice(("Put {t} in quotes.", "Write {t} in quotes", "Quote the word {t}.")).format(
        t=text
    ), json.dumps(text)


def as_json(words: Words, zh: bool) -> tuple[str, str]:
    rng = words.rng
    keys = rng.sample(KEYS, rng.choice((1, 2, 3, 4, 5)))
    pairs = {key: words.any_word(zh) if rng.random() < 0.6 else value(words, zh) for key in keys}
    answer = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    if zh:
        text = "，".join(f"{k}{rng.choice(('是', '为', '用', ''))}{v}" for k, v in pairs.items())
        return rng.choice(("写成JSON：{t}", "用JSON表示：{t}", "{t}。请写成JSON。")).format(t=text), answer
    between = rng.choice((", ", " and ", " ", " with "))
    text = between.join(f"{k} {rng.choice(('is ', '', '= ', 'as '))}{v}" for k, v in pairs.items())
    return rng.choice(("Write as JSON: {t}", "Make JSON of {t}", "{t}. Give me that as JSON.")).format(t=text), answer


def from_json(words: Words, zh: bool) -> tuple[str, str]:
    rng = words.rng
    keys = rng.sample(
        ("name", "city", "id", "color", "item", "code", "title", "place", "owner", "price", "status"),
        rng.choice((2, 3, 4)),
    )
    pairs = {key: value(words, zh) for key in keys}
    asked = rng.choice(keys)
    text = json.dumps(pairs, ensure_ascii=False, separators=rng.choice(((",", ":"), (", ", ": "))))
    if zh:
        return f"{text}\n{asked}是什么？", f"{asked}是{pairs[asked]}。"
    return rng.choice(("{t}\nWhat is the {a}?", "Here is some data: {t} What is the {a}?")).format(
        t=text, a=asked
    ), f"The {asked} is {pairs[asked]}."


def spell(words: Words, zh: bool) -> tuple[str, str]:
    rng = words.rng
    word = rng.choice((words.thing(), words.made_up(2), words.pick(w.FIRST_NAMES).lower()))
    answer = "-".join(word) if rng.random() < 0.3 else " ".join(word)
    ask: tuple[str, ...] = (
        ("How do you spell {t}? Use dashes.", "Spell {t} with dashes.")
        if "-" in answer
        else ("Spell {t}.", "Spell the word {t}", "How do you spell {t}?")
    )
    if zh:
        ask = ("用连字符拼写{t}",) if "-" in answer else ("拼写{t}", "{t}怎么拼写？")
    return rng.choice(ask).format(t=word), answer


def first_or_last(words: Words, zh: bool) -> tuple[str, str]:
    rng = words.rng
    things = [value(words, zh) if rng.random() < 0.5 else words.thing(zh) for _ in range(rng.choice((3, 3, 4, 5)))]
    last = rng.random() < 0.5
    answer = things[-1] if last else things[0]
    if zh:
        return f"{'、'.join(things)}。{'最后' if last else '第'}一个是什么？", answer
    return f"{', '.join(things)}. What is the {'last' if last else 'first'} one?", answer


def make_list(words: Words, zh: bool) -> tuple[str, str]:
    things = list(dict.fromkeys(words.thing(zh) for _ in range(words.rng.choice((2, 3, 4)))))
    listed = "\n".join(f"{n}. {thing}" for n, thing in enumerate(things, 1))
    if zh:
        return f"把这些写成列表：{'、'.join(things)}", listed
    return words.rng.choice(("Make a list of {t}.", "Write as a numbered list: {t}")).format(
        t=", ".join(things)
    ), listed


def thrice(words: Words, zh: bool) -> tuple[str, str]:
    word = words.rng.choice((words.thing(), words.made_up(2)))
    asked = "把{t}重复三次" if zh else words.rng.choice(("Say {t} three times.", "Write {t} three times"))
    return asked.format(t=word), f"{word} {word} {word}"


TASKS: tuple[tuple[Callable[[Words, bool], tuple[str, str]], int], ...] = (
    (repeat, 14), (repeat_many, 18), (json_list, 18), (quote, 8), (as_json, 26), (from_json, 10), (spell, 4),
    (first_or_last, 4), (make_list, 3), (thrice, 2),
)  # fmt: skip


def copying_exchange(words: Words, chinese: bool) -> tuple[str, str]:
    task = words.rng.choices([t for t, _ in TASKS], [n for _, n in TASKS])[0]
    return task(words, chinese)


def copying_document(rng: random.Random, chinese: bool) -> Document:
    words, dialogue = WideWords(rng), Dialogue(rng)
    for _ in range(rng.choice((1, 2, 3, 4))):
        user, answer = copying_exchange(words, chinese)
        dialogue.user(user).assistant(answer)
    return dialogue.document()
