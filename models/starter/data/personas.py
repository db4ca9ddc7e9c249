"""System prompts with a name, a language, a style or a fact; and short think parts."""

from __future__ import annotations

import random

from models.starter.data.arithmetic import arithmetic_exchange
from models.starter.data.copying import value
from models.starter.data.document import Dialogue, Document
from models.starter.data.smalltalk import plain_exchange
from models.starter.data.words import Words

THINK_SUFFIXES = (" (think)", " (think a bit)", " (think a lot)", " think", "", "", "")


def persona_document(rng: random.Random, chinese: bool) -> Document:
    words = Words(rng)
    return rng.choice((named, named, language, known_fact, short))(rng, words, chinese)


def named(rng: random.Random, words: Words, chinese: bool) -> Document:
    name = words.name(chinese)
    if chinese:
        dialogue = Dialogue(
            rng, rng.choice(("你叫{n}。", "你是{n}，一个有用的助手。", "你的名字是{n}。")).format(n=name)
        )
        question, answer = (
            rng.choice(("你是谁？", "你叫什么名字？", "你叫什么", "介绍一下你自己")),
            f"我是{name}。",
        )
    else:
        dialogue = Dialogue(
            rng,
            rng.choice(
                (
                    "You are {n}.",
                    "Your name is {n}.",
                    "You are {n}, a helpful assistant.",
                    "You are called {n}. Be friendly.",
                )
            ).format(n=name),
        )
        question, answer = (
            rng.choice(("Who are you?", "What is your name?", "What's your name?", "Introduce yourself")),
            f"I am {name}.",
        )
    if rng.random() < 0.4:
        dialogue.user((turn := plain_greeting(rng, chinese))[0]).assistant(turn[1])
    return dialogue.user(question).assistant(answer).document()


def plain_greeting(rng: random.Random, chinese: bool) -> tuple[str, str]:
    if chinese:
        return rng.choice(("你好", "您好", "嗨")), "你好！有什么可以帮你的吗？"
    return rng.choice(("Hello", "Hi", "Hey")), "Hello! How can I help you?"


def language(rng: random.Random, words: Words, chinese: bool) -> Document:
    """The answer is in the system prompt's language, whatever the question's."""
    if chinese:
        dialogue, pairs = (
            Dialogue(rng, rng.choice(("请用中文回答。", "Answer in Chinese.", "只用中文。"))),
            (
                (("Hello", "Hi"), "你好！有什么可以帮你的吗？"),
                (("How are you?",), "我很好，谢谢！你呢？"),
                (("Thank you", "Thanks"), "不客气！"),
                (("Goodbye", "Bye"), "再见，下次聊！"),
            ),
        )
    else:
        dialogue, pairs = (
            Dialogue(rng, rng.choice(("Answer in English.", "请用英文回答。", "Always answer in English."))),
            (
                (("你好", "您好"), "Hello! How can I help you?"),
                (("你好吗？",), "I am well, thank you! How are you?"),
                (("谢谢", "谢谢你"), "You are welcome!"),
                (("再见", "拜拜"), "Goodbye! See you soon."),
            ),
        )
    for questions, answer in rng.sample(pairs, rng.choice((1, 2))):
        dialogue.user(rng.choice(questions)).assistant(answer)
    return dialogue.document()


def known_fact(rng: random.Random, words: Words, chinese: bool) -> Document:
    thing, place = words.thing(chinese), value(words, chinese)
    if chinese:
        dialogue = Dialogue(rng, f"{thing}的代号是{place}。")
        return (
            dialogue.user(rng.choice((f"{thing}的代号是什么？", f"请问{thing}的代号")))
            .assistant(f"{thing}的代号是{place}。")
            .document()
        )
    dialogue = Dialogue(
        rng,
        rng.choice(("The code of the {t} is {p}.", "You know this: the code of the {t} is {p}.")).format(
            t=thing, p=place
        ),
    )
    return (
        dialogue.user(rng.choice((f"What is the code of the {thing}?", f"Tell me the code of the {thing}.")))
        .assistant(f"The code of the {thing} is {place}.")
        .document()
    )


def short(rng: random.Random, words: Words, chinese: bool) -> Document:
    dialogue = Dialogue(
        rng,
        rng.choice(
            (
                "Answer briefly.",
                "You are a helpful assistant.",
                "Be polite.",
                "请简短回答。",
                "你是一个有用的助手。",
                "You are Roost.",
            )
        ),
    )
    for _ in range(rng.choice((1, 2))):
        user, answer = plain_exchange(rng, chinese, False)
        dialogue.user(user).assistant(answer)
    return dialogue.document()


def think_document(rng: random.Random, chinese: bool) -> Document:
    """`<think>…</think>` answers: the prompt may already contain ` <think`, or the whole empty fast form."""
    dialogue = Dialogue(rng)
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5:
            user, answer, thought = arithmetic_exchange(rng, chinese)
        else:
            user, answer = plain_exchange(rng, chinese, False)
            thought = f"用户说：{user} 我简短回答。" if chinese else f"The user says: {user} I answer briefly."
        if rng.random() < 0.3:
            fast = rng.choice(("<think>\n</think", "<think></think"))
            dialogue.user(user).assistant(f"{fast}>\n{answer}", prefix=" " + fast)
            continue
        suffix = rng.choice(THINK_SUFFIXES)
        prefix = " <think" if not suffix or rng.random() < 0.6 else ""
        dialogue.user(user + suffix).assistant(f"<think>\n{thought}\n</think>\n{answer}", prefix=prefix)
    return dialogue.document()
