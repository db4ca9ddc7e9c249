"""The page /docs: in both languages, complete, and without anything from other hosts."""

from __future__ import annotations

import html
import json
import re

import pytest

from tests.web.api.api_server import MODEL
from webapp.web.api.operations import DOCUMENTED


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_every_operation_is_shown_in_the_readers_language(server, locale):
    status, page = server.get("/docs", Accept_Language=locale)
    assert status == 200
    for op in DOCUMENTED:
        assert f'id="op-{op.key}"' in page and op.path in page
    assert not re.findall(r">\s*api\.[a-z_.]+", page)
    assert server.url + "/v1" in page and MODEL in page
    assert not re.findall(r'(?:src|href)="https?://', page)


def test_an_example_names_the_model_that_is_served(server):
    """An example must work as it is, and users need the model's name to request its description."""
    page = html.unescape(server.get("/docs")[1])
    bodies = [json.loads(text) for text in re.findall(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)]
    assert {body.get("model") for body in bodies} == {None, MODEL, "models/RWKV-x070-World-0.1B.pth"}
    paths = server.get("/openapi.json")[1]["paths"]
    example = paths["/api/show"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert server.post("/api/show", example)[0] == 200


def test_the_token_itself_is_not_on_the_page(serve):
    server = serve(token="a-token-for-tests")
    page = server.get("/docs", Authorization="Bearer a-token-for-tests")[1]
    assert "YOUR_TOKEN" in page and "a-token-for-tests" not in page


def test_every_field_a_person_may_send_has_its_words(server):
    """A new field without a text would have an empty cell."""
    for locale in ("en", "zh"):
        for op in DOCUMENTED:
            if not (op.body or op.query):
                assert server.get(f"/docs/fields/{op.key}")[0] == 404
                continue
            fields = server.get(f"/docs/fields/{op.key}", Accept_Language=locale, HX_Request="true")[1]
            rows = len(re.findall(r"<tr><th", fields)) - 1
            assert rows > (25 if op.key == "chat" else 0) and "<td></td>" not in fields and "<html" not in fields
        assert "<html" in server.get("/docs/fields/chat", Accept_Language=locale)[1]
