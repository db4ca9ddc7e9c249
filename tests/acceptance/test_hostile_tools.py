"""Malicious input is refused or limited, soon and with a reason, and the server continues; see `hostile_tools.py`."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.hostile_site import Site
from tests.acceptance.hostile_tools import BOUND_S, CASES, Case


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    site = Site(tmp_path_factory.mktemp("hostile"))
    yield site
    site.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_it_is_refused_or_bounded_and_the_server_continues(site: Site, case: Case):
    began = time.monotonic()
    told = case.run(site)
    assert time.monotonic() - began < BOUND_S
    assert told.partition(":")[0] in ("refused", "bounded", "works") and len(told) > 20
    assert site.is_alive()
