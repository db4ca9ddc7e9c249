"""The load test of api_load.py, small enough to run with the other tests."""

from __future__ import annotations

import pytest

from tests.acceptance.api_load import FAKE, run
from tests.acceptance.served_roost import STARTER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STARTER.exists(), reason="the bundled model models/roost-starter-v7.safetensors is missing"),
]


def test_streams_that_come_and_go_leave_nothing_behind(tmp_path):
    def is_enough(counts):
        return counts["whole"] > 10 and counts["left"] > 3 and counts["long prompts"] >= 1

    found = run(3, 16, 1000, FAKE, tmp_path, is_enough=is_enough)
    assert found["wrong"] == [] and not any(found["rest"].values()), found
    assert found["whole"] > 10 and found["left"] > 3 and found["long prompts"] >= 1, found
    assert not [name for name in found if str(name).startswith(("failed", "refused"))], found
