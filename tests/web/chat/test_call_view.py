"""A failed call shows its reason in the user's language, from the data stored with its message."""

import json

import pytest

from webapp.chat.messages import Message, Role, ToolCall
from webapp.i18n.translation import translate
from webapp.services.chat.tool_loop import CALLS, _recorded, _state
from webapp.tools.definition import Behaviour, HttpCall, ToolDefinition
from webapp.tools.runner import run_call
from webapp.web.chat.views import call_card

TOOL = ToolDefinition(
    "forecast",
    "Weather",
    {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
    behaviour=Behaviour.HTTP,
    http=HttpCall("https://weather.invalid/{days}"),
)


def card_of(arguments, locale):
    call = ToolCall("1", "forecast", arguments)
    kept = json.loads(json.dumps(_recorded(run_call(call, TOOL), "tool")))
    message = Message(Role.ASSISTANT, "", tool_calls=(call,), metadata={CALLS: {"1": kept}})
    return call_card(_state(call, {}, message), lambda key: translate(key, locale), locale)


@pytest.mark.parametrize(
    ("arguments", "locale", "reason"),
    [
        ('{"days": 2}', "en", "weather.invalid is not among the allowed hosts (setting tool_hosts)"),
        ('{"days": 2}', "zh", "weather.invalid 不在允许访问的主机之中（设置项 tool_hosts）"),
        ('{"days": "two"}', "zh", "参数不符合要求：days：'two' 不是 'integer' 类型"),
        ("{}", "zh", "参数不符合要求：缺少 'days'"),
    ],
)
def test_a_failed_call_says_why(arguments, locale, reason):
    card = card_of(arguments, locale)
    assert card["is_error"] and card["reason"] == reason


def test_the_model_reads_english():
    result = run_call(ToolCall("1", "forecast", '{"days": "two"}'), TOOL)
    assert json.loads(result.text) == {"error": "the arguments do not fit: days: 'two' is not of type 'integer'"}
