"""A library of typed agents, unchanged except for address and key: each of its API modes with Roost, through a whole
turn with a tool. The model's next text is set when the tool is called, so it answers like a good model."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.lazy_import import Lazily
from tests.waiting import wait_until
from tests.web.api.test_tools import PARIS, spoken

Lazily("openai")
Lazily("pydantic_ai")
SAYS = '{"degrees":21,"is_sunny":true}'


@pytest.fixture(scope="module")
def library():
    import pydantic
    import pydantic_ai as ai
    from pydantic_ai.models.ollama import OllamaModel
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.ollama import OllamaProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    class Weather(pydantic.BaseModel):
        degrees: int
        is_sunny: bool

    ways = {
        "chat": (OpenAIChatModel, OpenAIProvider),
        "responses": (OpenAIResponsesModel, OpenAIProvider),
        "ollama": (OllamaModel, OllamaProvider),
    }

    def agent(server, way, **options):
        model, provider = ways[way]
        return ai.Agent(model("any", provider=provider(base_url=f"{server.url}/v1", api_key="none")), **options)

    return SimpleNamespace(agent=agent, Weather=Weather, NativeOutput=ai.NativeOutput, ai=ai)


WAYS = pytest.mark.parametrize("way", ["chat", "responses", "ollama"])


@WAYS
@pytest.mark.parametrize("has_form", [False, True])
def test_a_turn_with_a_tool_ends_in_text_or_in_the_form(serve, library, way, has_form):
    server, asked = serve(strategy=spoken(PARIS)), []
    agent = library.agent(server, way, output_type=library.NativeOutput(library.Weather) if has_form else str)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        server.manager.load(strategy=spoken(SAYS))
        server.manager.wait_ready()
        return "21 degrees, sun"

    found = agent.run_sync("What is the weather in Paris?")
    assert asked == ["Paris"] and found.usage.requests == 2
    assert found.output == (library.Weather(degrees=21, is_sunny=True) if has_form else SAYS)


@WAYS
def test_a_form_asked_for_as_a_call(serve, library, way):
    """The library's default: the answer is a required call of a tool."""
    found = library.agent(serve(strategy="fake slots=8"), way, output_type=library.Weather, retries=0).run_sync("Hello")
    assert isinstance(found.output, library.Weather)


@WAYS
def test_an_answer_streams_and_an_error_is_the_librarys_own(server, library, way):
    async def streamed():
        async with library.agent(server, way).run_stream("Hello") as answer:
            return [text async for text in answer.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(streamed())
    assert len(pieces) > 5 and "".join(pieces).startswith("Birds")
    with pytest.raises(library.ai.ModelHTTPError) as error:
        library.agent(server, way, model_settings={"temperature": 9.0}).run_sync("Hello")
    assert error.value.status_code == 400 and "temperature" in str(error.value.body)


@WAYS
def test_an_agent_that_is_cancelled_leaves_nothing_running(serve, library, way):
    server = serve("word ", options={"repeat": 0, "delay_ms": 5})

    async def left():
        async with library.agent(server, way, model_settings={"max_tokens": 4000}).run_stream("Hello") as answer:
            async for _ in answer.stream_text(delta=True, debounce_by=None):
                return

    asyncio.run(left())
    wait_until(lambda: "roost_api_disconnects_total 1.0" in server.get("/metrics")[1], "the server to notice")
    wait_until(lambda: not server.manager.status().running, "the answer to end")
