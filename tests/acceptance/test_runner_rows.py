"""Outputs that RWKV-Runner loses or breaks, in every dialect, whole and streamed, over the API."""

from __future__ import annotations

import pytest

from tests.acceptance.runner_rows import ROWS, ForcedServer, Row, is_right, outcome
from webapp.chat.tool_dialects import all_dialects


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    server = ForcedServer(tmp_path_factory.mktemp("rows"))
    yield server
    server.stop()


@pytest.mark.parametrize("is_free", [True, False], ids=["free", "constrained"])
@pytest.mark.parametrize("dialect", [found.name for found in all_dialects()])
@pytest.mark.parametrize("row", ROWS, ids=lambda found: found.title)
def test_a_row_is_right(server: ForcedServer, row: Row, dialect: str, is_free: bool):
    made = outcome(server, row, dialect, is_free)
    assert is_right(row, dialect, is_free, made), made


def test_there_are_fourteen_rows_and_all_but_one_go_wrong_in_runner():
    assert len(ROWS) == 14 and sum(row.runner != ("OK", "OK") for row in ROWS) == 13
