"""Training values from a larger pool than the lists, so that arguments are copied rather than memorised."""

from __future__ import annotations

import random
from functools import lru_cache

from models.starter.data import words as w
from models.starter.data.words import Words, is_held_out

WIDE = 0.45  # share of the names, cities and things in training
SURNAMES_ZH = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎"
    "余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文"
)


@lru_cache(maxsize=1)
def evaluation_words() -> frozenset[str]:
    """The held-out words of every list, lower case."""
    lists = (w.FIRST_NAMES, w.FIRST_NAMES_ZH, w.CITIES, w.CITIES_ZH, w.OBJECTS, w.OBJECTS_ZH, w.COLORS, w.COLORS_ZH)
    return frozenset(word.lower() for words in (*lists, w.ADJECTIVES, w.HOBBIES) for word in words if is_held_out(word))


@lru_cache(maxsize=2)
def pool(chinese: bool) -> tuple[str, ...]:
    """English words, or single Chinese characters, that evaluation does not use as values."""
    if chinese:
        return tuple(sorted(set(w.MORE_CHARACTERS.replace("\n", ""))))
    return tuple(sorted({word for word in w.MORE_WORDS if word.lower() not in evaluation_words()}))


class WideWords(Words):
    """The training side of `Words`; instead of a word of the requested kind often any word, or a made-up one."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, held_out=False)

    def made_up(self, syllables: int | None = None) -> str:
        while True:  # syllables may form a real name, such as Linda
            if (word := super().made_up(syllables)) not in evaluation_words():
                return word

    def any_characters(self, lengths: tuple[int, ...]) -> str:
        while True:
            text = "".join(self.rng.choice(pool(True)) for _ in range(self.rng.choice(lengths)))
            if text not in evaluation_words():
                return text

    def name(self, chinese: bool = False) -> str:
        if self.rng.random() > WIDE:
            return super().name(chinese)
        if chinese:
            return self.rng.choice(SURNAMES_ZH) + self.any_characters((1, 2, 2))
        first = self.rng.choice(pool(False)).capitalize()
        return f"{first} {self.made_up().capitalize()}" if self.rng.random() < 0.3 else first

    def city(self, chinese: bool = False) -> str:
        if self.rng.random() > WIDE:
            return super().city(chinese)
        if chinese:
            return self.any_characters((2, 2, 3)) + self.rng.choice(("", "", "市", "县", "镇", "路"))
        word = self.rng.choice((self.rng.choice(pool(False)), self.made_up())).capitalize()
        return self.rng.choice(("{}", "{}", "{}", "New {}", "{} City", "San {}", "{} Hill")).format(word)

    def thing(self, chinese: bool = False) -> str:
        if self.rng.random() > WIDE:
            return super().thing(chinese)
        if chinese:
            return self.any_characters((1, 2, 2, 3))
        return self.rng.choice((self.rng.choice(pool(False)).lower(), self.made_up()))
