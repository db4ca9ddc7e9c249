"""The document matches the server: every route is in it, and a fuzzer finds neither a 5xx nor another schema."""

from __future__ import annotations

import os

import pytest

from tests.web.api.api_server import ApiServer
from tests.web.chat.running_roost import fake_strategy
from tests.wording import text
from webapp.engine.sampling_params import PARAMETERS
from webapp.web.api.operations import DOCUMENTED, OPERATIONS

NOT_FUZZED = {"/switch-model", "/exit", "/api/delete"}
"""They would unload the model or end the server for the other tests."""
FUZZED = sorted({op.path for op in DOCUMENTED} - NOT_FUZZED)
EXAMPLES = int(os.environ.get("ROOST_FUZZ_EXAMPLES", "5"))


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


def numbers_in(schema, components):
    """Values for a field, with every integer, alone or in lists, beyond 64 bits."""
    schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if schema.get("type") == "integer":
        yield from (10**30, -(10**30))
    for part in (*schema.get("anyOf", ()), *schema.get("prefixItems", ())):
        yield from numbers_in(part, components)
    if isinstance(schema.get("items"), dict):
        yield from ([value] for value in numbers_in(schema["items"], components))


def test_a_number_beyond_64_bits_is_refused_or_passed_over(server):
    found = server.get("/openapi.json")[1]
    components, count = found["components"]["schemas"], 0
    for op in DOCUMENTED:
        if not op.body or op.path in NOT_FUZZED:
            continue
        [media] = found["paths"][op.path][op.method.lower()]["requestBody"]["content"].values()
        name = media["schema"]["$ref"].rpartition("/")[2]
        for field, schema in components[name]["properties"].items():
            for value in numbers_in(schema, components):
                path = op.path.replace("{name}", "none")
                status, told = server.post(path, {**(op.example or {}), "stream": False, field: value})
                assert status < 500, (op.path, field, told)
                count += 1
    assert count > 150


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """A queue for all answers that one request may request: a full one correctly gives 503."""
    limits = {"api_max_choices": 1024, "max_queue": 2048, "max_tokens_limit": 16}
    server = ApiServer(tmp_path_factory.mktemp("fuzz"), fake_strategy("Yes.", slots=16), **limits)
    yield server
    server.stop()


def name_for(server, path):
    """An existing id or name of an answer, a state or a model."""
    if path.startswith("/v1/models"):
        return server.get("/v1/models")[1]["data"][0]["id"]
    asked = {"input": "Hello", "return_state": True, "max_output_tokens": 4}
    found = server.post("/v1/responses", asked)[1]
    return found["id" if path.startswith("/v1/responses") else "state_id"]


@pytest.fixture(scope="module")
def own_values_only():
    """Hypothesis would also draw constants from the source of all our modules, which takes 4 s to read, and depends on
    what else ran in this process. That is worth it for many examples."""
    providers = pytest.importorskip("hypothesis.internal.conjecture.providers")
    with pytest.MonkeyPatch.context() as patch:
        if EXAMPLES <= 5:
            patch.setattr(providers, "is_local_module_file", lambda path: False, raising=False)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("path", FUZZED)
def test_a_fuzzer_finds_nothing(fuzzed, own_values_only, path):
    """Requests that follow the document, and others; half of the names exist."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (pip install -e '.[dev]')")
    import hypothesis
    from hypothesis import strategies
    from schemathesis import GenerationMode, checks

    schema = schemathesis.openapi.from_dict(fuzzed.get("/openapi.json")[1]).include(path=path)
    wanted = [
        checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]
    for operation in schema.get_all_operations():
        has_input = operation.ok().body or operation.ok().path_parameters or operation.ok().query
        for mode in GenerationMode if operation.ok().body else [GenerationMode.POSITIVE]:
            strategy = operation.ok().as_strategy(generation_mode=mode)

            @hypothesis.settings(
                max_examples=EXAMPLES if has_input else 2,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            @hypothesis.given(case=strategy, is_known=strategies.booleans())
            def check(case, is_known):
                if is_known and case.path_parameters:
                    case.path_parameters["name"] = name_for(fuzzed, path)
                case.call_and_validate(base_url=fuzzed.url, checks=wanted, timeout=120)

            check()
