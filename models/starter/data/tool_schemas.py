"""Random tools: a verb, a noun and parameters of known kinds, as OpenAI function definitions in two languages."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from models.starter.data import words as w
from models.starter.data.words import Words, is_held_out, word_list

VERBS = word_list("""
create:创建 find:查找 send:发送 delete:删除 update:更新 book:预订 cancel:取消 list:列出
check:检查 start:启动 stop:停止 get:获取 add:添加 remove:移除 open:打开 close:关闭 print:打印
share:分享 rename:重命名 move:移动 schedule:安排 track:跟踪 order:订购 play:播放 search:搜索
reserve:预约 save:保存 load:加载 export:导出 copy:复制 measure:测量 lock:锁定 count:统计
register:登记 assign:分配 publish:发布 archive:归档 inspect:查看 repair:维修 rent:租用
""")
NOUNS = word_list("""
ticket:工单 invoice:发票 order:订单 room:房间 alarm:闹钟 timer:计时器 note:笔记 task:任务
song:歌曲 playlist:歌单 photo:照片 file:文件 folder:文件夹 email:邮件 message:消息
meeting:会议 flight:航班 train:列车 hotel:酒店 taxi:出租车 package:包裹 recipe:菜谱
book:图书 user:用户 account:账户 report:报告 lamp:台灯 door:门 camera:摄像头 sensor:传感器
robot:机器人 printer:打印机 server:服务器 backup:备份 event:活动 contact:联系人 product:商品
payment:付款 coupon:优惠券 course:课程 lesson:课 movie:电影 game:游戏 map:地图 route:路线
parcel:邮包 garden:花园 pump:水泵 battery:电池 channel:频道 job:作业 survey:问卷
poster:海报 badge:徽章 locker:储物柜 vehicle:车辆 drone:无人机 shift:班次 budget:预算
loan:贷款 seat:座位 menu:菜单 label:标签
""")


def pairs(entries: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(a, b) for a, _, b in (entry.partition(":") for entry in entries)]


@dataclass(frozen=True)
class Kind:
    """A kind of parameter: possible names, English and Chinese labels, phrases around a value `{v}` in a request."""

    names: tuple[str, ...]
    label: str
    label_zh: str
    phrases: tuple[str, ...] = ()
    phrases_zh: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "city": Kind(
        ("city", "location", "place", "town", "destination"),
        "city",
        "城市",
        ("in {v}", "for {v}"),
        ("在{v}", "地点是{v}"),
    ),
    "person": Kind(
        ("person", "name", "recipient", "customer", "owner", "user_name"),
        "name",
        "姓名",
        ("for {v}", "under the name {v}"),
        ("给{v}", "姓名是{v}"),
    ),
    "id": Kind(
        ("id", "item_id", "code", "reference", "serial", "number_id"),
        "id",
        "编号",
        ("number {v}", "with id {v}", "{v}"),
        ("编号{v}", "编号为{v}"),
    ),
    "count": Kind(
        ("count", "quantity", "amount", "limit", "size"),
        "quantity",
        "数量",
        ("quantity {v}", "{v} of them", "for {v} pieces"),
        ("数量{v}", "一共{v}个"),
    ),
    "minutes": Kind(
        ("minutes", "duration", "delay_minutes"),
        "number of minutes",
        "分钟数",
        ("for {v} minutes", "in {v} minutes"),
        ("{v}分钟", "时长{v}分钟"),
    ),
    "price": Kind(
        ("price", "max_price", "budget", "cost"),
        "price",
        "价格",
        ("for {v} dollars", "at the price {v}"),
        ("价格{v}元", "预算{v}"),
    ),
    "date": Kind(
        ("date", "day", "start_date", "due_date"), "date", "日期", ("on {v}", "for {v}"), ("日期{v}", "在{v}")
    ),
    "time": Kind(("time", "start_time", "at"), "time", "时间", ("at {v}", "starting at {v}"), ("时间{v}", "在{v}")),
    "text": Kind(
        ("title", "text", "query", "topic", "subject", "note"),
        "title",
        "标题",
        ('titled "{v}"', 'about "{v}"', "about {v}"),
        ("标题是“{v}”", "内容是{v}"),
    ),
    "item": Kind(
        ("item", "product", "object", "thing"),
        "item",
        "物品",
        ("with the item {v}", "for the {v}", "item {v}"),
        ("物品是{v}", "物品{v}"),
    ),
    "color": Kind(("color", "colour"), "color", "颜色", ("in {v}", "color {v}"), ("颜色{v}", "用{v}")),
    "choice": Kind(("mode", "level", "kind", "priority", "format", "size_class"), "mode", "模式"),
    "flag": Kind(("urgent", "public", "repeat", "notify", "enabled"), "", ""),
    "items": Kind(
        ("items", "tags", "names", "members", "list"),
        "items",
        "项目",
        ("with {v}", "containing {v}"),
        ("包括{v}", "含有{v}"),
    ),
    "nested": Kind(("address", "options", "contact", "details"), "", ""),
}
# names in everyday_tools, or that read the same with verb and noun exchanged
ALWAYS_TRAINED = {("create", "note"), ("send", "message"), ("order", "book"), ("book", "order")}
CHOICES = (
    ("low", "medium", "high"), ("fast", "slow"), ("small", "large"), ("json", "csv", "text"), ("draft", "final"),
    ("daily", "weekly", "monthly"), ("eco", "normal", "boost"), ("public", "private"), ("celsius", "fahrenheit"),
    ("left", "right", "center"),
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    required: bool
    choices: tuple[str, ...] = ()

    def schema(self, described: bool, chinese: bool) -> dict[str, Any]:
        if self.kind == "choice":
            return {"type": "string", "enum": list(self.choices)}
        if self.kind == "flag":
            return {"type": "boolean"}
        if self.kind == "items":
            return {"type": "array", "items": {"type": "string"}}
        if self.kind == "nested":
            properties = {"city": {"type": "string"}, "zip": {"type": "string"}}
            return {"type": "object", "properties": properties, "required": ["city", "zip"]}
        types = {"count": "integer", "minutes": "integer", "price": "number"}
        schema: dict[str, Any] = {"type": types.get(self.kind, "string")}
        if described:
            kind = KINDS[self.kind]
            schema["description"] = kind.label_zh if chinese else f"The {kind.label}"
        return schema


@dataclass(frozen=True)
class Tool:
    name: str
    verb: tuple[str, str]
    noun: tuple[str, str]
    parameters: tuple[Parameter, ...]
    description: str
    described: bool
    chinese: bool

    def definition(self) -> dict[str, Any]:
        """As the `function` object of an OpenAI tool."""
        properties = {p.name: p.schema(self.described, self.chinese) for p in self.parameters}
        required = [p.name for p in self.parameters if p.required]
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        return {"name": self.name, "description": self.description, "parameters": schema}


def tool_name(rng: random.Random, verb: str, noun: str) -> str:
    form = rng.random()
    if form < 0.7:
        return f"{verb}_{noun}"
    if form < 0.8:
        return verb + noun.capitalize()
    if form < 0.9:
        return f"{noun}_{verb}"
    return f"{verb}_{rng.choice(('my', 'new', 'one', 'the', 'smart'))}_{noun}"


def random_parameters(words: Words) -> tuple[Parameter, ...]:
    rng = words.rng
    count = rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4))
    weights = {"flag": 0.4, "nested": 0.2, "items": 0.5}
    population = list(KINDS)
    kinds: list[str] = []
    while len(kinds) < count:
        kind = rng.choices(population, [weights.get(k, 1.0) for k in population])[0]
        if kind not in kinds:
            kinds.append(kind)
    parameters = []
    for position, kind in enumerate(kinds):
        choices = rng.choice(CHOICES) if kind == "choice" else ()
        required = position == 0 or rng.random() < 0.55
        parameters.append(Parameter(rng.choice(KINDS[kind].names), kind, required, choices))
    return tuple({p.name: p for p in parameters}.values())


def is_held_out_tool(verb: str, noun: str) -> bool:
    """Whether tools with this verb and noun are held out for evaluation."""
    return (verb, noun) not in ALWAYS_TRAINED and is_held_out(f"tool:{verb} {noun}")


def random_tool(words: Words, chinese: bool, taken: set[str]) -> Tool:
    """A tool on the side of the split that `words` uses, with a name and noun not in `taken`."""
    rng = words.rng
    while True:
        verb, noun = rng.choice(pairs(VERBS)), rng.choice(pairs(NOUNS))
        pair = f"{verb[0]} {noun[0]}"
        if is_held_out_tool(verb[0], noun[0]) != words.held_out or verb[0] == noun[0] or pair in taken:
            continue
        taken.add(pair)
        article = "an" if noun[0][0] in "aeiou" else "a"
        description = (
            f"{verb[1]}{noun[1]}"
            if chinese
            else rng.choice(
                (
                    f"{verb[0].capitalize()} {article} {noun[0]}",
                    f"{verb[0].capitalize()} {article} {noun[0]}.",
                    f"Use this to {verb[0]} {article} {noun[0]}",
                )
            )
        )
        return Tool(
            tool_name(rng, verb[0], noun[0]),
            verb,
            noun,
            random_parameters(words),
            description,
            rng.random() < 0.4,
            chinese,
        )


def random_value(parameter: Parameter, words: Words, chinese: bool) -> Any:
    """A value that fits the schema."""
    rng, kind = words.rng, parameter.kind
    if kind == "city":
        return words.city(chinese)
    if kind == "person":
        return words.name(chinese)
    if kind == "id":
        return words.identifier()
    if kind == "count":
        return words.number() % 1000 + 1
    if kind == "minutes":
        return rng.randrange(1, 121)
    if kind == "price":
        return rng.choice((rng.randrange(1, 1000), round(rng.uniform(1, 200), 2)))
    if kind == "date":
        return words.date()
    if kind == "time":
        return words.time()
    if kind == "text":
        return words.phrase(chinese) if rng.random() < 0.8 else words.made_up()
    if kind == "item":
        return words.thing(chinese) if rng.random() < 0.8 else words.made_up()
    if kind == "color":
        return rng.choice(w.COLORS_ZH if chinese else w.COLORS)
    if kind == "choice":
        return rng.choice(parameter.choices)
    if kind == "flag":
        return rng.random() < 0.75
    if kind == "items":
        return [words.thing(chinese) for _ in range(rng.choice((2, 2, 3)))]
    return {"city": words.city(chinese), "zip": str(rng.randrange(10000, 100000))}
