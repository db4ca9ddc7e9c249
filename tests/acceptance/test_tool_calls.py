"""Every constrained call of the bundled model is valid, streamed or not; ``python -m tests.acceptance.tool_calls``
tests many more."""

from __future__ import annotations

import pytest

from tests.acceptance.served_roost import STARTER
from tests.lazy_import import Lazily

Lazily("openai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STARTER.exists(), reason="the bundled model models/roost-starter-v7.safetensors is missing"),
]
CASES = 8


def test_constrained_calls_are_valid_and_stream_the_same(tmp_path):
    from tests.acceptance.tool_calls import bundled_server, measure

    server = bundled_server(tmp_path)
    try:
        found = measure(server, CASES, free_count=1)  # free decoding is not checked
    finally:
        server.stop()
    print(found)
    assert found["streamed_differs"] == []
    for way in ("constrained", "streamed"):
        figures = found[way]
        assert figures["problems"] == [] and figures["valid_share"] == 1.0, figures
        assert figures["demanded_and_called"] == figures["demanded"] == CASES // 2
