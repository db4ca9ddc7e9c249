"""Values of natural tools as people say them and as a call has them: "Paris" is Europe/Paris, 12 times 7 is 12 * 7."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from models.starter.data.words import Words, is_held_out

Value = str | int | float | bool
Said = tuple[Value, str]
"""The value in the call, and the words of the user."""

TABLE_FILE = Path(__file__).with_suffix(".json")
"""``zones``: English, Chinese, IANA name. ``units``: families, English and Chinese. ``choices``: the call's value, the
English and the Chinese words. ``free``: the call has the user's words. ``signs``: the symbol and its words."""


@lru_cache(maxsize=1)
def value_table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(TABLE_FILE.read_text(encoding="utf-8"))
    return table


class ValueMaker:
    """Values for one call: the second of a pair (``unit2``, ``city2``, ``currency2``) differs from the first."""

    def __init__(self, words: Words, chinese: bool) -> None:
        self.words, self.rng, self.chinese = words, words.rng, chinese
        self.units = self.rng.sample(self.rng.choice(value_table()["units"])[chinese], 2)
        self.firsts: dict[str, Said] = {}

    def make(self, kind: str) -> Said:
        """Raises KeyError for an unknown kind. ``int:LOW:HIGH`` and ``=text`` contain their own values."""
        name, *limits = kind.split(":")
        if name == "int":
            number = self.rng.randrange(int(limits[0]), int(limits[1]) + 1)
            return number, str(number)
        if name.startswith("="):
            return name[1:], name[1:]
        if name in ("unit", "unit2"):
            return (self.units[name == "unit2"],) * 2
        if name in ("city2", "currency2"):
            return self._other(name[:-1])
        self.firsts[name] = said = self._drawn(name)
        return said

    def _other(self, name: str) -> Said:
        """The held-out side of a list may be a single word; then a made-up one is added."""
        for _ in range(50):
            if (said := self._drawn(name)) != self.firsts.get(name):
                return said
        return (self.words.made_up().capitalize(),) * 2

    def _drawn(self, name: str) -> Said:
        table = value_table()
        if name in table["choices"]:
            held, *spoken = self.rng.choice(table["choices"][name])
            return held, spoken[self.chinese]
        if name in table["free"]:
            return (self.rng.choice(table["free"][name][self.chinese]),) * 2
        if name in table["phrases"]:
            return (self.phrase_of(table["phrases"][name]),) * 2
        if name in SPECIAL:
            return SPECIAL[name](self)
        text = str(PLAIN[name](self))
        return text, text

    def phrase_of(self, patterns: list[list[str]]) -> str:
        pattern: str = self.rng.choice(patterns)[self.chinese]
        return pattern.format(
            thing=self.words.thing(self.chinese), name=self.words.name(self.chinese), city=self.words.city(self.chinese)
        )

    def topic(self) -> str:
        draw = self.rng.random()
        if draw < 0.4:
            return self.words.phrase(self.chinese)
        if draw < 0.6:
            return self.words.name(self.chinese)
        between = "和" if self.chinese else " and "
        return self.words.thing(self.chinese) + (between + self.words.thing(self.chinese) if draw < 0.75 else "")

    def file(self) -> str:
        stem = self.rng.choice((self.words.thing(), self.words.made_up(), "notes", "report", "readme", "main"))
        return f"{stem.replace(' ', '_')}.{self.rng.choice(('txt', 'md', 'csv', 'json', 'pdf', 'py', 'png'))}"

    def email(self) -> str:
        return f"{self.words.made_up()}@{self.rng.choice(('example.org', 'example.com', 'mail.example'))}"

    def code(self) -> str:
        first, second = self.rng.randrange(2, 100), self.rng.randrange(2, 100)
        return self.rng.choice((f"print({first} + {second})", f"len('{self.words.made_up()}')", f"sum(range({first}))"))

    def number(self) -> Said:
        number: int | float = self.rng.randrange(1, 10 ** self.rng.choice((1, 2, 2, 3)))
        if self.rng.random() < 0.25:
            number = float(f"{number + self.rng.choice((0.5, 0.25, 0.1, 0.75)):g}")
        return number, str(number)

    def zone(self) -> Said:
        english, chinese, zone = self.rng.choice(zones())
        return zone, self.rng.choice((chinese if self.chinese else english,) * 5 + (zone,))

    def expression(self) -> Said:
        """Symbols stay as they are; words and typographic signs become symbols."""
        rng = self.rng
        first, second, third = (rng.randrange(1, 10 ** rng.choice((1, 2, 2, 3))) for _ in range(3))
        signs = value_table()["signs"]
        sign, english, chinese = rng.choice(signs)
        draw = rng.random()
        if draw < 0.4:
            text = f"{first} {sign} {second}" if rng.random() < 0.6 else f"{first}{sign}{second}"
            return text, text
        if draw < 0.6:
            other = rng.choice(signs)[0]
            text = rng.choice(
                (f"({first} {sign} {second}) {other} {third}", f"{first} {sign} {second} {other} {third}")
            )
            return text, text
        if draw < 0.85:
            spoken = f"{first}{chinese}{second}" if self.chinese else f"{first} {english} {second}"
            return f"{first} {sign} {second}", spoken
        if draw < 0.93:
            symbol = {"*": "×", "/": "÷"}.get(sign, sign)
            return f"{first} {sign} {second}", rng.choice((f"{first}{symbol}{second}", f"{first} {symbol} {second}"))
        return f"sqrt({first})", f"{first}的平方根" if self.chinese else f"the square root of {first}"


SPECIAL: dict[str, Callable[[ValueMaker], Said]] = {
    "num": ValueMaker.number,
    "zone": ValueMaker.zone,
    "expression": ValueMaker.expression,
}
PLAIN: dict[str, Callable[[ValueMaker], str]] = {
    "city": lambda make: make.words.city(make.chinese),
    "name": lambda make: make.words.name(make.chinese),
    "thing": lambda make: make.words.thing(make.chinese),
    "phrase": lambda make: make.words.phrase(make.chinese),
    "date": lambda make: make.words.date(),
    "time": lambda make: make.words.time(),
    "id": lambda make: make.words.identifier(),
    "made": lambda make: make.words.made_up().capitalize(),
    "ticker": lambda make: "".join(make.rng.choice("ABCDEFGHIKLMNOPRST") for _ in range(make.rng.choice((3, 4)))),
    "topic": ValueMaker.topic,
    "file": ValueMaker.file,
    "email": ValueMaker.email,
    "code": ValueMaker.code,
}


@lru_cache(maxsize=1)
def zones() -> tuple[tuple[str, str, str], ...]:
    """Zones whose places are not evaluation words."""
    rows = [tuple(row) for row in value_table()["zones"]]
    return tuple(row for row in rows if not is_held_out(row[0]) and not is_held_out(row[1]))
