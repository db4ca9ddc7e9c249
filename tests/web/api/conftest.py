from __future__ import annotations

import functools

import pytest

from tests.lazy_import import Lazily
from tests.web.api.api_server import ANSWER, ApiServer
from tests.web.chat.running_roost import fake_strategy

Lazily("openai")


@pytest.fixture(scope="package", autouse=True)
def authorities_are_read_once():
    """Each client would load all certificate authorities, 20 ms, although no address here uses TLS."""
    default = pytest.importorskip("httpx._transports.default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "create_ssl_context", functools.cache(default.create_ssl_context))
        yield


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    """One server for all tests that need no other answer and change nothing."""
    server = ApiServer(tmp_path_factory.mktemp("api"), fake_strategy(ANSWER, slots=16))
    yield server
    server.stop()


@pytest.fixture
def serve(tmp_path):
    """serve(answer, **settings) -> a separate ApiServer; ``options``: of the fake backend."""
    started = []

    def serve(answer=ANSWER, options=None, strategy=None, **changes):
        folder = tmp_path / f"data{len(started)}"
        given = strategy or fake_strategy(answer, **{"slots": 16, **(options or {})})
        started.append(ApiServer(folder, given, **changes))
        return started[-1]

    yield serve
    for server in started:
        server.stop()


@pytest.fixture
def client(server):
    return server.openai()
