"""A model's own chat template: its output, and the result of malicious ones."""

import pytest

from tests.errors import raises_code
from webapp.chat.formats import own_template
from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.chat.prompts import OPENING, PromptPiece, render
from webapp.chat.tool_dialects import FUNCTION_CALLING, OfferedTools

CHAT = (
    "{% for message in messages %}{{ message.role|capitalize }}: {{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% if enable_thinking %} <think{% endif %}{% endif %}"
)
ASKED = [Message(Role.USER, "你好"), Message(Role.ASSISTANT, "Hello!"), Message(Role.USER, "Who are you?")]


def test_it_writes_the_prompt_and_tells_what_stops_the_answer():
    rendered = render(own_template(CHAT), ASKED, system="Be brief.", think_mode=ThinkMode.THINK)
    assert rendered.text == (
        "System: Be brief.\n\nUser: 你好\n\nAssistant: Hello!\n\nUser: Who are you?\n\nAssistant: <think"
    )
    assert rendered.starts_in_reasoning and rendered.awaits_tag_end
    assert rendered.stop_strings[0] == "\n\nUser:"


def test_a_prefix_is_a_separate_piece_if_the_prompt_begins_with_it():
    template = own_template(CHAT)
    alone = render(template, [], prefix="Notes.").pieces[0]
    assert alone == PromptPiece("System: Notes.\n\n", is_boundary=True)
    rendered = render(template, ASKED, prefix="Notes.")
    assert rendered.pieces[0] == alone and rendered.text.endswith("Who are you?\n\nAssistant:")
    both = render(template, ASKED, system="Be brief.", prefix="Notes.")  # templates support only one
    assert both.text.startswith("System: Notes.\nBe brief.") and len(both.pieces) == 1
    refuses = own_template("{% if messages|length < 2 %}{{ raise_exception('alone') }}{% endif %}" + CHAT)
    assert len(render(refuses, ASKED, prefix="Notes.").pieces) == 1
    tools = OfferedTools(FUNCTION_CALLING, ({"name": "weather"},))
    offering = own_template("{% for tool in tools %}{{ tool.function.name }}{% endfor %}" + CHAT)
    assert render(offering, ASKED, tools=tools, prefix="Notes.").text.startswith("weatherSystem: Notes.")


STRICT = (
    "{% for m in messages if m.role != 'system' %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHAT
)


def test_a_greeting_is_answered_to_where_a_template_wants_a_question_first():
    greeted = [Message(Role.ASSISTANT, "Ahoy!"), Message(Role.USER, "Who are you?")]
    told = "Assistant: Ahoy!\n\nUser: Who are you?\n\nAssistant:"
    assert render(own_template(CHAT), greeted).text == told
    assert render(own_template(STRICT), greeted).text == f"User: {OPENING}\n\n{told}"
    with_system = [Message(Role.SYSTEM, "Be brief."), *greeted]
    assert render(own_template(STRICT), with_system).text == f"System: Be brief.\n\nUser: {OPENING}\n\n{told}"
    assert render(own_template(STRICT), greeted, system="Be brief.").text.startswith("System: Be brief.\n\nUser: Let")
    later = [*greeted, Message(Role.ASSISTANT, "Anna"), Message(Role.USER, "More")]
    begun = render(own_template(STRICT), greeted).text.removesuffix("Assistant:")
    assert render(own_template(STRICT), later).text.startswith(begun), "a turn reads only what is new"
    with raises_code("chat_template_failed"):
        render(own_template(STRICT), [Message(Role.USER, "a"), Message(Role.USER, "b")])
    never = own_template("{{ raise_exception('no') }}")
    with raises_code("chat_template_failed"):
        render(never, greeted)


def test_tools_and_their_results_reach_it():
    source = (
        "{% for tool in tools %}{{ tool.function.name }}{{ tool|tojson }}{% endfor %}{% for m in messages %}"
        "{% for call in m.tool_calls or [] %}{{ call.function.arguments.city }};{% endfor %}"
        "{% if m.role == 'tool' %}{{ m.rwkv_json_content.t }}{% endif %}{% endfor %}"
    )
    call = ToolCall("1", "weather", '{"city": "北京"}')
    messages = [Message(Role.ASSISTANT, "", tool_calls=(call,)), Message(Role.TOOL, '{"t": 21}', tool_call_id="1")]
    rendered = render(own_template(source), messages, tools=OfferedTools(FUNCTION_CALLING, ({"name": "weather"},)))
    assert rendered.text == 'weather{"type": "function", "function": {"name": "weather"}}北京;21'


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% set x = namespace(s='x' * 9999999) %}{% for i in range(9) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 10 ** 12 }}",
        "{% for message in messages %}{{ messages.append(message) }}{% endfor %}",
        "{{ raise_exception('only even turns') }}",
        "{% include '/etc/passwd' %}",
        "{{ unclosed",
        "x" * 300_000,
    ],
    ids=[
        "inside",
        "import",
        "endless",
        "doubling",
        "long",
        "huge",
        "changing",
        "refusing",
        "include",
        "broken",
        "large",
    ],
)
def test_a_hostile_template_is_a_typed_error_and_nothing_else(source):
    with raises_code("chat_template_failed"):
        render(own_template(source), ASKED)
