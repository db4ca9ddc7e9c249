"""Several turns where a later question needs an earlier statement: a name, a number, a list."""
# ruff: noqa: E501 (one alternative per line would hide the structure)

from __future__ import annotations

import random

from models.starter.data import words as w
from models.starter.data.document import Dialogue, Document
from models.starter.data.smalltalk import plain_exchange
from models.starter.data.words import Words

FACTS_EN = (
    ("name", ("My name is {v}.", "I am {v}.", "I'm {v}", "Hi, my name is {v}.", "Call me {v}."), ("Nice to meet you, {v}!", "Hello, {v}!"), ("What is my name?", "Do you remember my name?", "Who am I?", "what's my name"), "Your name is {v}."),
    ("city", ("I live in {v}.", "I am from {v}.", "My city is {v}."), ("{v} sounds nice.", "Thank you for telling me. {v} it is."), ("Where do I live?", "Which city did I name?", "Where am I from?"), "You told me: {v}."),
    ("number", ("My number is {v}.", "Remember the number {v}.", "The code is {v}."), ("I will remember {v}.", "Noted: {v}."), ("What was the number?", "What is my number?", "Which code did I give you?"), "It was {v}."),
    ("color", ("My favorite color is {v}.", "I like the color {v}."), ("{v} is a nice color.", "Good choice, {v}!"), ("What is my favorite color?", "Which color do I like?"), "Your favorite color is {v}."),
    ("hobby", ("I like {v}.", "My hobby is {v}.", "I enjoy {v}."), ("{v} is fun!", "That is a nice hobby."), ("What is my hobby?", "What do I like?"), "You like {v}."),
    ("pet", ("My dog is called {v}.", "I have a dog named {v}."), ("{v} is a nice name for a dog.",), ("What is my dog called?", "What is the name of my dog?"), "Your dog is called {v}."),
)  # fmt: skip
FACTS_ZH = (
    ("name", ("我叫{v}。", "我的名字是{v}", "你好，我是{v}。", "叫我{v}吧"), ("你好，{v}！", "很高兴认识你，{v}！"), ("我叫什么名字？", "你还记得我的名字吗？", "我是谁？", "我叫什么"), "你叫{v}。"),
    ("city", ("我住在{v}。", "我来自{v}", "我在{v}生活"), ("{v}是个好地方。", "{v}很不错。"), ("我住在哪里？", "我来自哪里？"), "你说的是{v}。"),
    ("number", ("我的号码是{v}。", "请记住数字{v}", "密码是{v}"), ("我记住了：{v}。", "好的，{v}。"), ("号码是多少？", "我说的数字是什么？", "密码是什么？"), "是{v}。"),
    ("color", ("我最喜欢的颜色是{v}。", "我喜欢{v}"), ("{v}很好看。",), ("我最喜欢什么颜色？", "我喜欢什么颜色？"), "你喜欢{v}。"),
    ("hobby", ("我喜欢{v}。", "我的爱好是{v}"), ("{v}很有意思！",), ("我的爱好是什么？", "我喜欢做什么？"), "你喜欢{v}。"),
    ("pet", ("我的猫叫{v}。", "我有一只猫，名字是{v}"), ("{v}是个好名字。",), ("我的猫叫什么？", "我的猫叫什么名字？"), "你的猫叫{v}。"),
)  # fmt: skip


def fact_value(kind: str, words: Words, chinese: bool) -> str:
    if kind in ("name", "pet"):
        return words.name(chinese)
    if kind == "city":
        return words.city(chinese)
    if kind == "number":
        return words.rng.choice((str(words.number()), words.identifier()))
    pools = {"color": (w.COLORS, w.COLORS_ZH), "hobby": (w.HOBBIES, w.HOBBIES_ZH)}
    return words.pick(pools[kind][chinese])


def memory_document(rng: random.Random, chinese: bool) -> Document:
    """One to three facts, perhaps other talk in between, then the questions."""
    words, dialogue = Words(rng), Dialogue(rng)
    if rng.random() < 0.25:
        return list_document(words, dialogue, chinese)
    facts = rng.sample(FACTS_ZH if chinese else FACTS_EN, rng.choice((1, 1, 2, 3)))
    told = []
    for kind, statements, replies, questions, answer in facts:
        value = fact_value(kind, words, chinese)
        reply = rng.choice(replies).format(v=value)
        dialogue.user(rng.choice(statements).format(v=value)).assistant(reply[0].upper() + reply[1:])
        told.append((rng.choice(questions), answer.format(v=value)))
    for _ in range(rng.choice((0, 0, 1, 2))):
        dialogue.user((turn := plain_exchange(rng, chinese, False))[0]).assistant(turn[1])
    rng.shuffle(told)
    for question, answer in told:
        dialogue.user(question).assistant(answer)
    return dialogue.document()


def list_document(words: Words, dialogue: Dialogue, chinese: bool) -> Document:
    """A shopping list that grows and is read back."""
    rng = words.rng
    things = list(dict.fromkeys(words.thing(chinese) for _ in range(rng.choice((2, 3)))))
    if chinese:
        dialogue.user(f"我要买{'、'.join(things)}。").assistant(f"好的，清单是{'、'.join(things)}。")
    else:
        dialogue.user(
            rng.choice(("I need to buy {t}.", "My shopping list: {t}.")).format(t=", ".join(things))
        ).assistant(f"OK, the list is {', '.join(things)}.")
    if rng.random() < 0.5:
        extra = words.thing(chinese)
        things.append(extra)
        dialogue.user(
            f"再加上{extra}。" if chinese else rng.choice(("Add {t}.", "Also {t}.")).format(t=extra)
        ).assistant(f"已加上{extra}。" if chinese else f"I added {extra}.")
    if chinese:
        dialogue.user(rng.choice(("清单上有什么？", "我要买什么？"))).assistant(f"清单是{'、'.join(things)}。")
    else:
        dialogue.user(rng.choice(("What is on my list?", "What do I need to buy?"))).assistant(
            f"The list is {', '.join(things)}."
        )
    return dialogue.document()
