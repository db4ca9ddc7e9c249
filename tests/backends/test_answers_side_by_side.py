"""Several answers to one message, requested over the API, with every backend that generates them together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.web.api.api_server import MODEL, ApiServer
from webapp.engine.registry import backend_for

STRATEGIES = [
    "native f16",
    "torch cpu f32",
    "rwkv.cpp f16",
    pytest.param("webgpu fp16 slots=4", marks=pytest.mark.graphics),
    pytest.param("webgpu_python fp16", marks=pytest.mark.graphics),
]
ASKED = {"messages": [{"role": "user", "content": "Name a bird."}], "max_tokens": 12}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_four_answers_at_once_are_each_the_one_that_is_written_alone(strategy: str, tmp_path: Path) -> None:
    found = backend_for(strategy).load_class().availability()
    if not found.is_available:
        pytest.skip(f"{strategy}: {found.reason}; {found.way_out}")
    server = ApiServer(tmp_path, strategy)
    try:
        server.manager.load()
        server.manager.wait_ready(600)
        answers = server.openai().with_options(timeout=600).chat.completions
        exact, free = {**ASKED, "temperature": 0}, {**ASKED, "temperature": 1.0, "top_p": 0.95, "seed": 7}
        alone, four, drawn = (
            answers.create(model=MODEL, n=count, **asked) for asked, count in ((exact, 1), (exact, 4), (free, 4))
        )
        assert server.manager.status().strategy == strategy
    finally:
        server.stop()
    assert [choice.index for choice in four.choices] == [0, 1, 2, 3]
    for choice in four.choices:
        assert choice.message.content == alone.choices[0].message.content
        assert choice.finish_reason == alone.choices[0].finish_reason
    assert four.usage.completion_tokens == 4 * alone.usage.completion_tokens
    assert len({choice.message.content for choice in drawn.choices}) > 1
