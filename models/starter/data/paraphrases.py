"""Combined phrasings of the questions of `intents`: only for training, never held out.

A phrasing is dropped if it equals a held-out one (ignoring case, punctuation and filler words) or contains one of at
least four English words or five Chinese characters. So evaluation uses word sequences that are in no training text,
however many patterns there are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import lru_cache

from models.starter.data.paraphrases_guide import GUIDE_PATTERNS
from models.starter.data.paraphrases_talk import TALK
from models.starter.data.words import Words, word_list

UNKNOWN = "unknown"  # patterns without an intent: things that a small model does not know
MACROS = {
    "how": "[how do I|how can I|how to|how would I|how should I|how could I|what do I do to|what is the way to|"
    "tell me how to|show me how to|explain how to|can you tell me how to|I want to|I would like to|I'd like to|"
    "I need to|I am trying to|help me|is it possible to|what must I do to|please tell me how to|where do I]",
    "怎么": "[怎么|如何|怎样|怎么才能|要怎么|该怎么|应该怎么|请问怎么|请问如何|"
    "告诉我怎么|教我怎么|我想|我要|可以怎么|怎样才能|"
    "我想知道怎么|请教我|我该如何|有什么办法]",
}
BEFORE = ("hey, ", "hi, ", "ok, ", "so ", "well, ", "roost, ", "please, ", "and ", "hello! ", "one question: ")
AFTER = (" please", ", please", ", roost", " now", " thanks", " then")
BEFORE_ZH = ("请问，", "嗨，", "那么，", "Roost，", "你好，", "那", "对了，", "请问", "问一下，", "麻烦问下，")
AFTER_ZH = ("呢", "啊", "呀", "，谢谢", "，Roost")
FILLERS = frozenset(word_list("please hey hi hello roost just now so well ok okay and then thanks"))
FILLERS_ZH = re.compile("请问|请|嗨|那么|那|你好|对了|问一下|谢谢|吧|啊|呢|呀|roost")


@lru_cache(maxsize=2)
def patterns(chinese: bool) -> dict[str, tuple[str, ...]]:
    """Intent name -> its patterns, with macros expanded."""
    mark = "问: " if chinese else "u: "
    found: dict[str, tuple[str, ...]] = {}
    for block in (TALK + GUIDE_PATTERNS).split("\n# ")[1:]:
        name, *lines = block.strip().split("\n")
        body = next(line.removeprefix(mark) for line in lines if line.startswith(mark))
        for macro, text in MACROS.items():
            body = body.replace(f"<{macro}>", text)
        found[name] = tuple(alternatives(body))
    return found


def alternatives(text: str) -> list[str]:
    """Splits at the `|` outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def expanded(rng: random.Random, pattern: str) -> str:
    """One text of a pattern, with whitespace as people type it."""
    while "[" in pattern:
        pattern = re.sub(r"\[([^\[\]]*)\]", lambda match: rng.choice(match[1].split("|")), pattern)
    return re.sub(r" +([?.,!]|$)", r"\1", re.sub(r" {2,}", " ", pattern.strip()))


def filled(words: Words, text: str, chinese: bool) -> str:
    makers: dict[str, Callable[[bool], str]] = {"thing": words.thing, "name": words.name, "city": words.city}
    return re.sub(r"<(\w+)>", lambda match: makers[match[1]](chinese), text)


def paraphrase(rng: random.Random, name: str, chinese: bool, too_close: Callable[[str], bool]) -> str | None:
    """A phrasing of the intent; None if there is no pattern, or all attempts were too close."""
    choices = patterns(chinese).get(name)
    if not choices:
        return None
    pattern = rng.choices(choices, [1 + choice.count("[") for choice in choices])[0]
    for _ in range(8):
        text = filled(Words(rng), expanded(rng, pattern), chinese)
        text = wrapped(rng, text, chinese) if rng.random() < 0.15 else text
        if text and not too_close(text):
            return text if chinese else text[0].upper() + text[1:]
    return None


def wrapped(rng: random.Random, text: str, chinese: bool) -> str:
    """With the small words that people add to a question."""
    bare, end = text.rstrip("?？"), text[len(text.rstrip("?？")) :]
    if rng.random() < 0.65:
        return rng.choice(BEFORE_ZH if chinese else BEFORE) + text
    return bare + rng.choice(AFTER_ZH if chinese else AFTER) + end


def bare_words(text: str, chinese: bool) -> str:
    """The form in which two phrasings are compared; English words are separated by spaces."""
    if chinese:
        return FILLERS_ZH.sub("", "".join(re.findall(r"\w", text.lower())))
    return f" {' '.join(w for w in re.findall(r'[a-z0-9_]+', text.lower()) if w not in FILLERS)} "


def closeness(held_out: list[str], chinese: bool) -> Callable[[str], bool]:
    """Returns a function: whether a phrasing equals a held-out one, or contains one that is long enough to be
    recognised."""
    bare = {bare_words(text, chinese) for text in held_out}
    long = [b for b in bare if (len(b) >= 5 if chinese else len(b.split()) >= 4)]

    def too_close(text: str) -> bool:
        own = bare_words(text, chinese)
        return not own.strip() or own in bare or any(b in own for b in long)

    return too_close
