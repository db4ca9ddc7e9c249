"""Small sums and comparisons, sometimes with a short think part."""

from __future__ import annotations

import random

from models.starter.data.document import Dialogue, Document
from models.starter.data.words import Words, word_list

NUMBER_WORDS = word_list("""
zero one two three four five six seven eight nine ten eleven twelve
""")


def arithmetic_exchange(rng: random.Random, chinese: bool) -> tuple[str, str, str]:
    """(question, answer, the step in between)."""
    sign = rng.choices("+-*", (5, 3, 3))[0]
    a, b = (
        (rng.randrange(13), rng.randrange(13))
        if sign == "*" or rng.random() < 0.6
        else (rng.randrange(100), rng.randrange(100))
    )
    if sign == "-" and b > a:
        a, b = b, a
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    step = f"{a} {sign} {b} = {result}"
    if chinese:
        word = {"+": "加", "-": "减", "*": "乘"}[sign]
        question = rng.choice(
            (
                f"{a}{sign}{b}等于多少？",
                f"{a} {sign} {b} = ?",
                f"{a}{word}{b}等于几？",
                f"计算{a} {sign} {b}",
                f"{a}{word}{b}是多少",
            )
        )
        return question, rng.choice((f"{a} {sign} {b} = {result}。",)), step
    word = {"+": "plus", "-": "minus", "*": "times"}[sign]
    spoken = (NUMBER_WORDS[a], NUMBER_WORDS[b]) if max(a, b) <= 12 and rng.random() < 0.15 else (a, b)
    question = rng.choice(
        (
            f"What is {a} {sign} {b}?",
            f"What is {spoken[0]} {word} {spoken[1]}?",
            f"{a} {sign} {b} = ?",
            f"{a}{sign}{b}",
            f"How much is {a} {sign} {b}?",
            f"Calculate {a} {sign} {b}.",
        )
    )
    return question, f"{a} {sign} {b} = {result}.", step


def comparison(rng: random.Random, chinese: bool) -> tuple[str, str]:
    a, b = rng.sample(range(1000) if rng.random() < 0.5 else range(30), 2)
    if chinese:
        return f"{a}和{b}哪个大？", f"{max(a, b)}更大。"
    larger = rng.random() < 0.6
    return (
        f"Which is {'larger' if larger else 'smaller'}, {a} or {b}?",
        f"{max(a, b) if larger else min(a, b)} is {'larger' if larger else 'smaller'}.",
    )


def counting(words: Words, chinese: bool) -> tuple[str, str]:
    n, k = words.rng.randrange(1, 30), words.rng.randrange(3, 8)
    numbers = ", ".join(str(x) for x in range(n, n + k))
    return (f"从{n}数到{n + k - 1}" if chinese else f"Count from {n} to {n + k - 1}."), numbers


def arithmetic_document(rng: random.Random, chinese: bool) -> Document:
    dialogue = Dialogue(rng)
    for _ in range(rng.choice((1, 2, 3))):
        draw = rng.random()
        if draw < 0.12:
            dialogue_turn = comparison(rng, chinese)
        elif draw < 0.2:
            dialogue_turn = counting(Words(rng), chinese)
        else:
            dialogue_turn = arithmetic_exchange(rng, chinese)[:2]
        dialogue.user(dialogue_turn[0]).assistant(dialogue_turn[1])
    return dialogue.document()
