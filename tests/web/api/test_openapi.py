"""The document says what the server does: every route is in it, and a fuzzer finds neither a 5xx nor another shape."""

from __future__ import annotations

import os

import pytest

from tests.web.api.api_server import ApiServer
from tests.web.chat.running_roost import fake_strategy
from tests.wording import text
from webapp.engine.sampling_params import PARAMETERS
from webapp.web.api.operations import OPERATIONS

FUZZED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/pull",
    "/api/tags",
    "/api/ps",
    "/api/show",
    "/api/version",
    "/completion",
    "/infill",
    "/apply-template",
    "/props",
    "/slots",
    "/update-config",
    "/status",
    "/health",
    "/metrics",
)
"""All but /switch-model, which would leave no model for the others, /exit, and what takes the body of another."""
EXAMPLES = int(os.environ.get("ROOST_FUZZ_EXAMPLES", "10"))


def test_every_route_is_in_the_document(server):
    found = server.get("/openapi.json")[1]
    documented = {(method.upper(), path) for path, item in found["paths"].items() for method in item}
    hidden = {("GET", "/openapi.json"), ("POST", "/api/create"), ("GET", "/dashboard/billing/credit_grants")}
    assert documented == {(op.method, op.path) for op in OPERATIONS} - hidden


def test_every_sampling_parameter_is_described_where_an_api_takes_it(server):
    found = server.get("/openapi.json")[1]["components"]["schemas"]
    bodies = {"openai": "ChatRequest", "ollama": "Options", "anthropic": "MessageRequest", "runner": "RunnerConfig"}
    for api, name in bodies.items():
        for row in PARAMETERS:
            assert (row.names.get(api) in found[name]["properties"]) == (api in row.names), (api, row.name)
            if api in row.names and row.names[api] == row.name:
                assert found[name]["properties"][row.name]["description"], (api, row.name)


def test_its_words_are_the_readers(server):
    words = [server.get("/openapi.json", Accept_Language=locale)[1]["info"]["description"] for locale in ("en", "zh")]
    assert words == [text("api.lead", locale) for locale in ("en", "zh")] and words[0] != words[1]
    assert "api." not in str(server.get("/openapi.json")[1]["paths"])


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """A queue that holds all the answers one request may ask for: a full one is a 503, and rightly."""
    limits = {"api_max_choices": 1024, "max_queue": 2048}
    server = ApiServer(tmp_path_factory.mktemp("fuzz"), fake_strategy("Yes.", slots=16), **limits)
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("path", FUZZED)
def test_a_fuzzer_finds_nothing(fuzzed, path):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (pip install -e '.[dev]')")
    import hypothesis
    from schemathesis import checks

    schema = schemathesis.openapi.from_dict(fuzzed.get("/openapi.json")[1]).include(path=path)
    wanted = [
        checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]
    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=strategy)
        def check(case):
            case.call_and_validate(base_url=fuzzed.url, checks=wanted, timeout=30)

        check()
