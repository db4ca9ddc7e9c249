"""Tools that people try first (weather, time, dice, …) with natural requests, in addition to the random ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.starter.data.words import Words


@dataclass(frozen=True)
class EverydayCall:
    """One request with its tool definition, call, output and report."""

    definition: dict[str, Any]
    text: str
    arguments: dict[str, Any]
    output: dict[str, Any]
    report: str


def definition(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"name": name, "description": description, "parameters": schema}


STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
LANGUAGES = (
    ("French", "法语"),
    ("German", "德语"),
    ("Spanish", "西班牙语"),
    ("Japanese", "日语"),
    ("English", "英语"),
    ("Chinese", "中文"),
    ("Italian", "意大利语"),
)
CURRENCIES = ("USD", "EUR", "CNY", "JPY", "GBP", "CAD")
ROOMS = (
    ("kitchen", "厨房"),
    ("bedroom", "卧室"),
    ("office", "办公室"),
    ("bathroom", "浴室"),
    ("garage", "车库"),
    ("hall", "大厅"),
)
WEATHERS = (
    ("sunny", "晴"),
    ("cloudy", "多云"),
    ("rainy", "下雨"),
    ("windy", "有风"),
    ("snowy", "下雪"),
    ("foggy", "有雾"),
)


def everyday_call(words: Words, chinese: bool) -> EverydayCall:
    """A random call of one of them."""
    return words.rng.choice(MAKERS)(words, chinese)


def weather(words: Words, zh: bool) -> EverydayCall:
    rng, city, degrees = words.rng, words.city(zh), words.rng.randrange(-15, 40)
    sky = rng.choice(WEATHERS)
    key = rng.choice(("city", "location"))
    properties: dict[str, Any] = {key: STRING}
    arguments: dict[str, Any] = {key: city}
    suffix = suffix_zh = ""
    if rng.random() < 0.5:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        if rng.random() < 0.4:
            arguments["unit"] = rng.choice(("celsius", "fahrenheit"))
            suffix, suffix_zh = (
                f" in {arguments['unit']}",
                "，用" + {"celsius": "摄氏度", "fahrenheit": "华氏度"}[arguments["unit"]],
            )
    name = rng.choice(("get_weather", "get_current_weather", "weather"))
    if zh:
        text = (
            rng.choice(
                ("{c}天气怎么样", "{c}今天天气如何", "查一下{c}的天气", "请问{c}的天气", "{c}现在多少度")
            ).format(c=city)
            + suffix_zh
            + rng.choice(("？", "", "？"))
        )
        report = f"{city}现在{sky[1]}，气温{degrees}度。"
    else:
        text = rng.choice(
            (
                "What is the weather in {c}{s}?",
                "What's the weather like in {c}{s}?",
                "How is the weather in {c}{s}?",
                "Tell me the weather in {c}{s}",
                "weather in {c}{s}",
                "Is it cold in {c}{s}?",
            )
        ).format(c=city, s=suffix)
        report = f"It is {sky[0]} in {city} with {degrees} degrees."
    output = {key: city, "temperature": degrees, "condition": sky[1 if zh else 0]}
    return EverydayCall(
        definition(name, "查询天气" if zh else "Get the current weather in a city", properties, [key]),
        text,
        arguments,
        output,
        report,
    )


def clock(words: Words, zh: bool) -> EverydayCall:
    rng, time = words.rng, words.time()
    name = rng.choice(("get_current_time", "get_time", "current_time", "now"))
    if rng.random() < 0.5:
        text = (
            rng.choice(("现在几点", "现在几点了？", "现在是什么时间？", "告诉我现在的时间"))
            if zh
            else rng.choice(
                (
                    "What time is it?",
                    "What time is it now?",
                    "Tell me the time",
                    "Can you tell me the current time?",
                )
            )
        )
        report = f"现在是{time}。" if zh else f"It is {time}."
        return EverydayCall(
            definition(name, "获取当前时间" if zh else "Get the current time", {}, []),
            text,
            {},
            {"time": time},
            report,
        )
    city = words.city(zh)
    text = (
        rng.choice(("{c}现在几点？", "请问{c}几点了", "{c}的时间是多少"))
        if zh
        else rng.choice(("What time is it in {c}?", "Tell me the time in {c}", "current time in {c}"))
    )
    report = f"{city}现在是{time}。" if zh else f"It is {time} in {city}."
    return EverydayCall(
        definition(name, "获取城市时间" if zh else "Get the time in a city", {"city": STRING}, ["city"]),
        text.format(c=city),
        {"city": city},
        {"time": time},
        report,
    )


def calculator(words: Words, zh: bool) -> EverydayCall:
    rng = words.rng
    a, b, sign = words.number(), words.number() + 1, rng.choice("+-*/")
    expression = f"{a} {sign} {b}" if rng.random() < 0.6 else f"{a}{sign}{b}"
    result = {"+": a + b, "-": a - b, "*": a * b, "/": round(a / b, 2)}[sign]
    text = (
        rng.choice(("计算{e}", "{e}等于多少？", "算一下{e}", "{e}=?"))
        if zh
        else rng.choice(("What is {e}?", "Calculate {e}", "Compute {e}.", "How much is {e}?", "{e} = ?"))
    )
    report = f"结果是{result}。" if zh else f"The result is {result}."
    name = rng.choice(("calculate", "calculator", "evaluate"))
    return EverydayCall(
        definition(
            name,
            "计算算式" if zh else "Evaluate an arithmetic expression",
            {"expression": STRING},
            ["expression"],
        ),
        text.format(e=expression),
        {"expression": expression},
        {"result": result},
        report,
    )


def timer(words: Words, zh: bool) -> EverydayCall:
    rng, minutes = words.rng, words.rng.randrange(1, 121)
    text = (
        rng.choice(("设一个{m}分钟的计时器", "{m}分钟后提醒我", "帮我计时{m}分钟"))
        if zh
        else rng.choice(
            (
                "Set a timer for {m} minutes",
                "Remind me in {m} minutes.",
                "Start a {m} minute timer",
                "Please set a timer for {m} minutes.",
            )
        )
    )
    report = f"计时器已设为{minutes}分钟。" if zh else f"The timer is set for {minutes} minutes."
    return EverydayCall(
        definition("set_timer", "设置计时器" if zh else "Set a timer", {"minutes": INTEGER}, ["minutes"]),
        text.format(m=minutes),
        {"minutes": minutes},
        {"status": "ok", "minutes": minutes},
        report,
    )


def dice(words: Words, zh: bool) -> EverydayCall:
    rng, sides = words.rng, words.rng.choice((4, 6, 8, 10, 12, 20, 100))
    value = rng.randrange(1, sides + 1)
    text = (
        rng.choice(("掷一个{s}面的骰子", "帮我掷{s}面骰子"))
        if zh
        else rng.choice(("Roll a {s} sided die", "Roll a die with {s} sides.", "Throw a {s}-sided dice please"))
    )
    report = f"掷出了{value}。" if zh else f"You rolled a {value}."
    return EverydayCall(
        definition("roll_dice", "掷骰子" if zh else "Roll a die", {"sides": INTEGER}, ["sides"]),
        text.format(s=sides),
        {"sides": sides},
        {"value": value},
        report,
    )


def search(words: Words, zh: bool) -> EverydayCall:
    rng, query = words.rng, words.phrase(zh)
    first = words.phrase(zh)
    text = (
        rng.choice(("搜索{q}", "查找{q}", "在网上搜一下{q}", "帮我搜{q}"))
        if zh
        else rng.choice(
            ("Search for {q}", "Search the web for {q}.", "Look up {q} please", "Find information about {q}")
        )
    )
    report = f"第一条结果是“{first}”。" if zh else f'The first result is "{first}".'
    return EverydayCall(
        definition(
            rng.choice(("search", "web_search", "search_web")),
            "搜索网页" if zh else "Search the web",
            {"query": STRING},
            ["query"],
        ),
        text.format(q=query),
        {"query": query},
        {"results": [first]},
        report,
    )


def message(words: Words, zh: bool) -> EverydayCall:
    rng, who, body = words.rng, words.name(zh), words.phrase(zh)
    text = (
        rng.choice(("给{w}发消息：{b}", "告诉{w}：{b}", "发一条消息给{w}，内容是“{b}”"))
        if zh
        else rng.choice(
            (
                'Send {w} the message "{b}"',
                'Tell {w} "{b}"',
                "Send a message to {w}: {b}",
                'Write to {w}: "{b}"',
            )
        )
    )
    report = f"消息已发给{who}。" if zh else f"The message was sent to {who}."
    properties = {"to": STRING, "text": STRING}
    return EverydayCall(
        definition("send_message", "发送消息" if zh else "Send a message", properties, ["to", "text"]),
        text.format(w=who, b=body),
        {"to": who, "text": body},
        {"sent": True},
        report,
    )


def translate(words: Words, zh: bool) -> EverydayCall:
    rng, body, language = words.rng, words.phrase(zh), words.rng.choice(LANGUAGES)[1 if zh else 0]
    foreign = words.made_up() + " " + words.made_up()
    text = (
        rng.choice(("把“{b}”翻译成{l}", "“{b}”用{l}怎么说？", "请将“{b}”译为{l}"))
        if zh
        else rng.choice(('Translate "{b}" to {l}', 'Translate "{b}" into {l}.', 'How do you say "{b}" in {l}?'))
    )
    report = f"译文是“{foreign}”。" if zh else f'The translation is "{foreign}".'
    properties = {"text": STRING, "target_language": STRING}
    return EverydayCall(
        definition("translate", "翻译文本" if zh else "Translate text", properties, ["text", "target_language"]),
        text.format(b=body, l=language),
        {"text": body, "target_language": language},
        {"translation": foreign},
        report,
    )


def convert(words: Words, zh: bool) -> EverydayCall:
    rng, amount = words.rng, words.number() + 1
    source, target = rng.sample(CURRENCIES, 2)
    result = round(amount * rng.uniform(0.2, 8), 2)
    text = (
        rng.choice(("{a} {s}等于多少{t}？", "把{a} {s}换成{t}"))
        if zh
        else rng.choice(("Convert {a} {s} to {t}", "How much is {a} {s} in {t}?", "Exchange {a} {s} into {t}."))
    )
    report = f"{amount} {source}等于{result} {target}。" if zh else f"{amount} {source} is {result} {target}."
    properties = {"amount": NUMBER, "from": STRING, "to": STRING}
    return EverydayCall(
        definition(
            "convert_currency",
            "货币换算" if zh else "Convert an amount between currencies",
            properties,
            ["amount", "from", "to"],
        ),
        text.format(a=amount, s=source, t=target),
        {"amount": amount, "from": source, "to": target},
        {"result": result},
        report,
    )


def light(words: Words, zh: bool) -> EverydayCall:
    rng, room, on = words.rng, words.rng.choice(ROOMS), words.rng.random() < 0.5
    room_name = room[1 if zh else 0]
    if zh:
        text = rng.choice(("{o}{r}的灯", "把{r}的灯{o}")).format(o="打开" if on else "关掉", r=room_name)
        report = f"{room_name}的灯已{'打开' if on else '关掉'}。"
    else:
        state = "on" if on else "off"
        text = rng.choice(
            ("Turn {o} the light in the {r}", "Turn the {r} light {o}.", "Switch {o} the {r} light please")
        ).format(o=state, r=room_name)
        report = f"The {room_name} light is {state}."
    properties = {"room": STRING, "on": {"type": "boolean"}}
    return EverydayCall(
        definition("set_light", "开关灯" if zh else "Turn a light on or off", properties, ["room", "on"]),
        text,
        {"room": room_name, "on": on},
        {"status": "ok"},
        report,
    )


def note(words: Words, zh: bool) -> EverydayCall:
    rng, body, number = words.rng, words.phrase(zh), words.identifier()
    text = (
        rng.choice(("记一条笔记：{b}", "帮我记下“{b}”"))
        if zh
        else rng.choice(("Write a note: {b}", 'Note down "{b}"', "Remember this note: {b}", "Make a note about {b}"))
    )
    report = f"笔记已保存，编号{number}。" if zh else f"The note is saved with id {number}."
    return EverydayCall(
        definition("create_note", "写笔记" if zh else "Save a note", {"text": STRING}, ["text"]),
        text.format(b=body),
        {"text": body},
        {"id": number},
        report,
    )


def stock(words: Words, zh: bool) -> EverydayCall:
    rng = words.rng
    symbol = "".join(rng.choice("ABCDEFGHIKLMNOPRST") for _ in range(rng.choice((3, 4))))
    price = round(rng.uniform(1, 900), 2)
    text = (
        rng.choice(("{s}的股价是多少？", "查一下{s}股票"))
        if zh
        else rng.choice(
            ("What is the stock price of {s}?", "Get the price of {s} stock", "How much is {s} trading for?")
        )
    )
    report = f"{symbol}的价格是{price}。" if zh else f"{symbol} is at {price}."
    return EverydayCall(
        definition(
            "get_stock_price",
            "查询股价" if zh else "Get the price of a stock",
            {"symbol": STRING},
            ["symbol"],
        ),
        text.format(s=symbol),
        {"symbol": symbol},
        {"price": price},
        report,
    )


MAKERS = (
    weather,
    weather,
    clock,
    calculator,
    calculator,
    timer,
    dice,
    search,
    message,
    translate,
    convert,
    light,
    note,
    stock,
)
