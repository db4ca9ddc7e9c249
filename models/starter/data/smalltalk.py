"""Documents from the hand-written questions and answers; phrasings are split into training and held out.

Training draws most of its phrasings from the patterns of `paraphrases`; evaluation only from the hand-written ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from models.starter.data.document import Dialogue, Document
from models.starter.data.intents import INTENTS
from models.starter.data.paraphrases import UNKNOWN, closeness, paraphrase
from models.starter.data.roost_guide import GUIDE
from models.starter.data.words import is_held_out

MODEL_MILLIONS = 6  # trained parameters of the starter model, which its answers mention
HELD_OUT_PHRASINGS = 16  # percent
PARAPHRASED = 0.7  # of the questions in training come from patterns
NOT_KNOWN = {False: "I do not know that. I am only a small model.", True: "这个我不知道，我只是一个小模型。"}
NOT_KNOWN_SHARE = 0.03

# Phrasings that `personas` uses as well.
TRAINED_ELSEWHERE = {"hello", "hi", "hey", "thanks", "thank you", "goodbye", "bye", "how are you", "who are you"}
TRAINED_ELSEWHERE |= {"what is your name", "what's your name", "introduce yourself", "你好", "您好", "嗨", "你好吗"}
TRAINED_ELSEWHERE |= {"谢谢", "谢谢你", "再见", "拜拜", "你是谁", "你叫什么名字", "你叫什么", "介绍一下你自己"}


@dataclass(frozen=True)
class Intent:
    name: str
    keywords: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]

    def side(self, held_out: bool) -> tuple[str, ...]:
        """Its phrasings for training or for evaluation; the first one is always for training."""
        later = tuple(q for q in self.questions[1:] if is_held_out_phrasing(q) == held_out)
        return later if held_out else (self.questions[0], *later)


def is_held_out_phrasing(question: str) -> bool:
    bare = question.rstrip("?.!？。！").lower()
    return bare not in TRAINED_ELSEWHERE and is_held_out(question, HELD_OUT_PHRASINGS)


@lru_cache(maxsize=2)
def intents(chinese: bool) -> tuple[tuple[Intent, int], ...]:
    """All intents in one language with their weights; how to use Roost and identity have higher ones."""
    return tuple((i, 2) for i in parse(GUIDE, chinese)) + tuple(
        (i, 3 if "Roost" in i.keywords else 1) for i in parse(INTENTS, chinese)
    )


def parse(text: str, chinese: bool) -> list[Intent]:
    question_mark, answer_mark = ("问: ", "答: ") if chinese else ("u: ", "a: ")
    found: list[Intent] = []
    for block in text.replace("{million}", str(MODEL_MILLIONS)).split("\n# ")[1:]:
        lines = block.replace("\n ", "\r").split("\n")
        name, _, keywords = lines[0].partition(" | ")
        parts = {line[:3]: tuple(line[3:].replace("\r", "\n").split("|")) for line in lines[1:] if line}
        found.append(Intent(name, tuple(keywords.split()), parts[question_mark], parts[answer_mark]))
    return found


def vary(rng: random.Random, question: str, chinese: bool) -> str:
    """Changes case and punctuation as people type them."""
    draw = rng.random()
    if chinese:
        if draw < 0.25:
            return question.rstrip("？。！")
        return question + rng.choice("。！？") if draw < 0.35 and question[-1] not in "？。！" else question
    if draw < 0.15:
        return question.lower().rstrip("?.!")
    if draw < 0.3:
        return question.rstrip("?.!")
    if draw < 0.4 and question[-1].isalpha():
        return question + rng.choice(("!", "."))
    return question.lower() if draw < 0.45 else question


@lru_cache(maxsize=2)
def too_close_to_held_out(chinese: bool) -> Callable[[str], bool]:
    return closeness([q for intent, _ in intents(chinese) for q in intent.side(held_out=True)], chinese)


def plain_exchange(rng: random.Random, chinese: bool, held_out: bool) -> tuple[str, str]:
    """A question and its answer."""
    if not held_out:
        return trained_exchange(rng, chinese)
    known = intents(chinese)
    while True:
        intent = rng.choices([i for i, _ in known], [weight for _, weight in known])[0]
        if side := intent.side(held_out):
            return vary(rng, rng.choice(side), chinese), rng.choice(intent.answers)


def trained_exchange(rng: random.Random, chinese: bool) -> tuple[str, str]:
    """Hand-written training phrasings and patterns; sometimes a question that the model cannot answer."""
    too_close = too_close_to_held_out(chinese)
    if rng.random() < NOT_KNOWN_SHARE and (question := paraphrase(rng, UNKNOWN, chinese, too_close)):
        return vary(rng, question, chinese), NOT_KNOWN[chinese]
    known = intents(chinese)
    intent = rng.choices([i for i, _ in known], [weight for _, weight in known])[0]
    question = paraphrase(rng, intent.name, chinese, too_close) if rng.random() < PARAPHRASED else None
    return vary(rng, question or rng.choice(intent.side(False)), chinese), rng.choice(intent.answers)


def smalltalk_document(rng: random.Random, chinese: bool) -> Document:
    dialogue = Dialogue(
        rng,
        rng.choice(("You are a helpful assistant.", "You are Roost, a helpful assistant.", "你是一个有用的助手。"))
        if rng.random() < 0.12
        else None,
    )
    for _ in range(rng.choice((1, 1, 2, 3, 4, 5))):
        other = rng.random() < 0.04  # sometimes the language changes
        user, answer = plain_exchange(rng, chinese != other, False)
        dialogue.user(user).assistant(answer)
    return dialogue.document()
