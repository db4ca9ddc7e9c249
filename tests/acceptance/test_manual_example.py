"""The function-calling program in RWKV-Runner's manual, unchanged except for the port, and its streaming version."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.acceptance.served_roost import ROOT, STARTER, ServedRoost
from tests.lazy_import import Lazily

Lazily("openai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STARTER.exists(), reason="the bundled model models/roost-starter-v7.safetensors is missing"),
]
PORT = "127.0.0.1:8000"
TIMES = 5
END = "-- end --"
AGAIN = f"""
import runpy, sys
for _ in range(int(sys.argv[2])):
    runpy.run_path(sys.argv[1], run_name="__main__")
    print("{END}")
"""
PAGES = sorted((ROOT.parent / "shared" / "reference").glob("000_*.txt"))
MANUAL = '''
# https://platform.openai.com/docs/guides/function-calling
from openai import OpenAI
import json

client = OpenAI(
    base_url="http://127.0.0.1:8000",  # 根据 RWKV Runner 的配置修改端口号
    api_key="test",
)


# 这是硬编码的虚拟函数示例，返回天气情况
# 在生产环境中，需要改成你的后台 API 或外部 API
def get_current_weather(location, unit="fahrenheit"):
    """Get the current weather in a given location"""
    if "tokyo" in location.lower():
        return json.dumps({"location": "Tokyo", "temperature": "10", "unit": unit})
    elif "san francisco" in location.lower():
        return json.dumps(
            {"location": "San Francisco", "temperature": "72", "unit": unit}
        )
    elif "paris" in location.lower():
        return json.dumps({"location": "Paris", "temperature": "22", "unit": unit})
    else:
        return json.dumps({"location": location, "temperature": "unknown"})


def run_conversation():
    # 第 1 步：将对话和可用函数发送给模型
    messages = [
        {
            "role": "user",
            "content": "What's the weather like in Paris?",
        }
    ]
    tools = [
        {
            "type": "function",
            "function": {
                "name": "get_current_weather",
                "description": "Get the current weather in a given location",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "location": {
                            "type": "string",
                            "description": "The city and state, e.g. San Francisco, CA",
                        },
                        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    },
                    "required": ["location"],
                },
            },
        }
    ]
    response = client.chat.completions.create(
        model="gpt-4o",
        messages=messages,
        tools=tools,
        tool_choice="auto",  # 不存在任何工具时，默认值 none。如果存在工具，则 auto 是默认值
    )
    response_message = response.choices[0].message
    tool_calls = response_message.tool_calls
    # 第 2 步：检查模型是否想要调用函数
    if tool_calls:
        # 第 3 步：调用函数
        # 注意：JSON 响应不一定生效；请务必处理错误情况
        available_functions = {
            "get_current_weather": get_current_weather,
        }  # 本示例中只有一个函数，实际可以有多个
        messages.append(response_message)  # 用 assistant 的回答扩展对话
        # 第 4 步：向模型发送每个函数调用和函数响应的信息
        for tool_call in tool_calls:
            function_name = tool_call.function.name
            function_to_call = available_functions[function_name]
            function_args = json.loads(tool_call.function.arguments)
            function_response = function_to_call(
                location=function_args.get("location"),
                unit=function_args.get("unit"),
            )
            messages.append(
                {
                    "tool_call_id": tool_call.id,
                    "role": "tool",
                    "name": function_name,
                    "content": function_response,
                }
            )  # 通过函数响应扩展模型的对话内容
        second_response = client.chat.completions.create(
            model="gpt-4o",
            messages=messages,
        )  # 从模型中获取新的响应，在模型中可以看到函数响应
        return second_response.choices[0].message.content


print(run_conversation())
'''
FIRST_CALL = """
    response_message = response.choices[0].message
    tool_calls = response_message.tool_calls
"""
STREAMED_CALL = """
    calls = {}
    for chunk in response:
        delta = chunk.choices[0].delta
        for piece in delta.tool_calls or []:
            blank = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            call = calls.setdefault(piece.index, blank)
            call["id"] += piece.id or ""
            call["function"]["name"] += piece.function.name or ""
            call["function"]["arguments"] += piece.function.arguments or ""
    from openai.types.chat import ChatCompletionMessage
    response_message = ChatCompletionMessage(role="assistant", content=None, tool_calls=list(calls.values()))
    tool_calls = response_message.tool_calls
"""
LAST = "        return second_response.choices[0].message.content"
STREAMED_LAST = '        return "".join(chunk.choices[0].delta.content or "" for chunk in second_response)'


def streamed(program: str) -> str:
    """As in RWKV-Runner's function_call_stream.py: both answers are read in pieces."""
    for before, after in (
        (FIRST_CALL, STREAMED_CALL),
        (LAST, STREAMED_LAST),
        ('model="gpt-4o",', 'model="gpt-4o", stream=True,'),
    ):
        assert before in program
        program = program.replace(before, after)
    return program


def letters(text: str) -> str:
    """All characters except whitespace, part of which is missing in the reference, and with normalised punctuation: it
    is a page's text."""
    return "".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.skipif(not PAGES, reason="../shared/reference with the text of the manual is missing")
def test_the_program_is_the_manuals():
    page = PAGES[0].read_text(encoding="utf-8")
    begin, end = page.index(MANUAL.split()[1]) - 2, page.index("print(run_conversation())")
    assert letters(page[begin:end] + "print(run_conversation())") == letters(MANUAL)


@pytest.fixture(scope="module")
def roost(tmp_path_factory: pytest.TempPathFactory):
    with ServedRoost(tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.mark.parametrize("program", [MANUAL, streamed(MANUAL)], ids=["whole", "streamed"])
def test_the_manuals_program_prints_the_tools_temperature(roost: ServedRoost, tmp_path: Path, program: str):
    """With the API's own sampling, several times, so that success is not a coincidence."""
    assert program.count(PORT) == 1
    path = tmp_path / "function_call.py"
    path.write_text(program.replace(PORT, roost.host), encoding="utf-8")
    command = [sys.executable, "-X", "utf8", "-c", AGAIN, str(path), str(TIMES)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split(END)[:-1]
    assert len(answers) == TIMES and all("22" in answer for answer in answers)
