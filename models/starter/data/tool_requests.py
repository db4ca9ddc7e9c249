"""What a user says so that a tool is called, and the expected call; tool outputs and the sentence that reports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.starter.data.tool_schemas import KINDS, Parameter, Tool, random_value
from models.starter.data.words import Words


@dataclass(frozen=True)
class Request:
    """text requests `name(arguments)`; missing is the name of a required parameter that the text does not give."""

    text: str
    tool: Tool
    arguments: dict[str, Any]
    missing: Parameter | None = None


def spoken_value(value: Any, chinese: bool) -> str:
    if isinstance(value, list):
        return "、".join(value) if chinese else ", ".join(value[:-1]) + " and " + value[-1]
    return str(value)


def spoken_parameter(parameter: Parameter, value: Any, words: Words, chinese: bool) -> str:
    """A phrase that states one argument."""
    rng, readable = words.rng, parameter.name.replace("_", " ")
    if parameter.kind == "flag":
        if chinese:
            return f"{parameter.name}设为{'是' if value else '否'}"
        return rng.choice(
            (
                f"{readable} {'on' if value else 'off'}",
                f"with {readable} set to {'true' if value else 'false'}",
            )
        )
    if parameter.kind == "nested":
        return (
            f"{readable} {value['city']} {value['zip']}"
            if not chinese
            else f"{parameter.name}是{value['city']}，邮编{value['zip']}"
        )
    kind, spoken = KINDS[parameter.kind], spoken_value(value, chinese)
    phrases = kind.phrases_zh if chinese else kind.phrases
    if parameter.kind == "choice" or not phrases or rng.random() < 0.35:
        generic = (
            ("{n}为{v}", "{n}是{v}", "{n}用{v}") if chinese else ("{n} {v}", "with {n} {v}", "{n}: {v}", "{n} = {v}")
        )
        label = (
            (parameter.name if parameter.kind == "choice" or rng.random() < 0.4 else kind.label_zh)
            if chinese
            else readable
        )
        return rng.choice(generic).format(n=label, v=spoken)
    return rng.choice(phrases).format(v=spoken)


def request_text(tool: Tool, phrases: list[str], words: Words, chinese: bool) -> str:
    rng = words.rng
    if chinese:
        opening = rng.choice(
            (
                "请{v}{n}",
                "帮我{v}{n}",
                "请帮我{v}一下{n}",
                "我想{v}{n}",
                "{v}{n}",
                "能不能{v}{n}",
                "麻烦{v}{n}",
            )
        ).format(v=tool.verb[1], n=tool.noun[1])
        return "，".join([opening, *phrases]) + rng.choice(("。", "", "。"))
    article = (
        rng.choice(("the", "a", "my", "the")) if tool.noun[0][0] not in "aeiou" else rng.choice(("the", "an", "my"))
    )
    opening = rng.choice(
        (
            "Please {v} {a} {n}",
            "Can you {v} {a} {n}",
            "I want to {v} {a} {n}",
            "{V} {a} {n}",
            "I need to {v} {a} {n}",
            "Could you {v} {a} {n}",
            "Help me {v} {a} {n}",
        )
    )
    text = opening.format(v=tool.verb[0], V=tool.verb[0].capitalize(), a=article, n=tool.noun[0])
    joined = text + "".join(rng.choice((" ", " ", ", ")) + phrase for phrase in phrases)
    end = "?" if opening.startswith(("Can", "Could")) else rng.choice((".", ".", ""))
    return joined if rng.random() < 0.15 else joined + end


def random_request(tool: Tool, words: Words, chinese: bool, leave_out: bool = False) -> Request:
    """leave_out: one required parameter with a free value is missing."""
    rng, arguments, phrases = words.rng, {}, []
    candidates = [
        p for p in tool.parameters if p.required and p.kind not in ("flag", "nested", "choice", "text", "items")
    ]
    missing = rng.choice(candidates) if leave_out and candidates else None
    for parameter in tool.parameters:
        if parameter is missing or (not parameter.required and rng.random() < 0.5):
            continue
        arguments[parameter.name] = random_value(parameter, words, chinese)
        phrases.append(spoken_parameter(parameter, arguments[parameter.name], words, chinese))
    if rng.random() < 0.3:
        rng.shuffle(phrases)
    return Request(request_text(tool, phrases, words, chinese), tool, arguments, missing)


def ask_back(request: Request, words: Words, chinese: bool) -> str:
    """The question for the missing parameter."""
    assert request.missing is not None
    label = KINDS[request.missing.kind].label_zh if chinese else KINDS[request.missing.kind].label
    if chinese:
        return words.rng.choice(("请告诉我{label}。", "请问{label}是什么？", "请提供{label}。")).format(label=label)
    return words.rng.choice(
        ("What is the {label}?", "Please tell me the {label}.", "Which {label} should I use?")
    ).format(label=label)


def random_output(request: Request, words: Words, chinese: bool) -> tuple[dict[str, Any], str]:
    """A tool result, and one sentence that reports its values."""
    rng, noun = words.rng, request.tool.noun[1 if chinese else 0]
    verb = request.tool.verb[1 if chinese else 0]
    form = rng.randrange(6)
    if form == 0:
        number = words.identifier()
        said = f"已完成，{noun}编号是{number}。" if chinese else f"Done. The {noun} id is {number}."
        return {"status": "ok", "id": number}, said
    if form == 1:
        status = rng.choice(("ready", "active", "pending", "closed", "full", "empty"))
        level = rng.randrange(1, 101)
        said = (
            f"{noun}的状态是{status}，数值为{level}。"
            if chinese
            else f"The {noun} is {status} and its level is {level}."
        )
        return {"status": status, "level": level}, said
    if form == 2:
        reason = rng.choice(("not found", "access denied", "timeout", "no connection", "already exists"))
        said = f"无法{verb}{noun}：{reason}。" if chinese else f"I could not {verb} the {noun}: {reason}."
        return {"error": reason}, said
    if form == 3:
        things = [words.thing(chinese) for _ in range(rng.choice((2, 3)))]
        said = (
            f"找到{len(things)}项：{'、'.join(things)}。"
            if chinese
            else f"I found {len(things)} results: {', '.join(things[:-1])} and {things[-1]}."
        )
        return {"count": len(things), "results": things}, said
    if form == 4:
        when, where = words.date(), words.city(chinese)
        said = f"{noun}定在{when}，地点是{where}。" if chinese else f"The {noun} is set for {when} in {where}."
        return {"date": when, "place": where}, said
    price, name = rng.randrange(1, 2000), words.name(chinese)
    said = f"{noun}的价格是{price}，负责人是{name}。" if chinese else f"The {noun} costs {price} and belongs to {name}."
    return {"price": price, "owner": name}, said
