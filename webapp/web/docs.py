"""The page ``/docs``: how programs use this Roost's API, made from the same table as the OpenAPI document.

The quick start is in four programming languages; the text inside code is the same in every human language. The types of
the dialects are imported with the first visit, not at start.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, abort, current_app, request

from webapp.web.api.operations import DOCUMENTED, GROUPS, Operation
from webapp.web.guard import current_role
from webapp.web.kit.page import PageContext, Translator, Values, current_page, render_page
from webapp.web.roles import Role

blueprint = Blueprint("docs", __name__)
HIDDEN_FIELDS = frozenset(
    {"functions", "function_call", "audio", "web_search_options", "modalities", "best_of", "suffix"}
)
"""Fields that exist only to be refused with a reason."""
RISKY = ("switch_model", "update_config", "exit")
QUESTION = "Why do birds sit on wires?"
OPEN_KEY = "none"
YOUR_TOKEN = "YOUR_TOKEN"


@blueprint.get("/docs")
def index() -> Response:
    return render_page("docs/page.html", docs_page(current_page(), request.url_root.rstrip("/")))


@blueprint.get("/docs/fields/<key>")
def fields(key: str) -> Response:
    """The fields of one operation's body or query; the page requests them when its section is opened."""
    page = current_page()
    row = next((row for row in DOCUMENTED if row.key == key and (row.body or row.query)), None)
    if row is None:
        abort(404)
    shown = {**operation(page.t, row, page.status.model), "fields": field_rows(page.t, row.body_type or row.query_type)}
    values = {"page_title": shown["title"], "operation": shown}
    return render_page("docs/fields.html", values, "docs/_fields.html")


def docs_page(page: PageContext, address: str) -> Values:
    t, settings, model = page.t, page.settings, page.status.model
    has_token = bool(page.guard.token)
    words = "model_strict" if settings.api_strict_models else "model_text"
    return {
        "page_title": t("api.title"),
        "address": address,
        "model": model,
        "model_text": t("api.address.model_switch" if settings.api_switch_models else f"api.address.{words}"),
        "has_tokens_page": current_role() is Role.OWNER and "people" in current_app.blueprints,
        "key_text": t("api.address.key_needed" if has_token else "api.address.key_open"),
        "examples": examples(address, model or "rwkv", has_token),
        "groups": [
            {
                "key": key,
                "title": t(f"api.group.{key}"),
                "text": t(f"api.group_text.{key}"),
                "operations": [operation(t, row, model) for row in DOCUMENTED if row.group == key],
            }
            for key in GROUPS
        ],
    }


def examples(address: str, model: str, has_token: bool) -> list[Values]:
    key = YOUR_TOKEN if has_token else OPEN_KEY
    header = f"  -H 'Authorization: Bearer {key}' \\\n" if has_token else ""
    words = {"address": address, "model": model, "key": key, "header": header, "question": QUESTION}
    return [{"key": name, "title": title, "code": code.format(**words)} for name, title, code in EXAMPLES]


def operation(t: Translator, row: Operation, model: str) -> Values:
    """``body``: the example in the editor; "" for an endpoint without a body."""
    example = row.example_with(model)
    return {
        "key": row.key,
        "method": row.method,
        "path": row.path,
        "title": t(f"api.op.{row.key}.title"),
        "text": t(f"api.op.{row.key}.text"),
        "has_fields": bool(row.body or row.query),
        "body": json.dumps(example, ensure_ascii=False, indent=2) if example else "",
        "is_risky": row.key in RISKY,
        "can_try": "{" not in row.path,
    }


def field_rows(t: Translator, kind: type) -> list[Values]:
    """Required ones first, then in the type's order."""
    import msgspec

    from webapp.web.api.openapi import field_text

    _, components = msgspec.json.schema_components([kind], ref_template="{name}")
    schema = components[kind.__name__]
    required = schema.get("required", [])
    rows = [
        {"name": name, "kind": kind_words(t, found), "text": field_text(t, name), "is_required": name in required}
        for name, found in schema["properties"].items()
        if name not in HIDDEN_FIELDS
    ]
    return sorted(rows, key=lambda row: not row["is_required"])


def kind_words(t: Translator, schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words: "number, 0 to 2", "text or list"."""
    if "anyOf" in schema:
        parts = [kind_words(t, part) for part in schema["anyOf"] if part.get("type") != "null"]
        return t("api.kind.or").join(dict.fromkeys(part for part in parts if part)) or t("api.kind.any")
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "$ref" in schema:
        return t("api.kind.object")
    kind = schema.get("type")
    if kind is None:
        return t("api.kind.any")
    words = t(f"api.kind.{kind}")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or high is None or abs(low) > 2**53:
        return words
    return f"{words} ({t('api.kind.range', low=low, high=high)})"


CURL = """curl {address}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
{header}  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}], "stream": true}}'"""

PYTHON = """# pip install openai
from openai import OpenAI

client = OpenAI(base_url="{address}/v1", api_key="{key}")
stream = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "{question}"}}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)"""

JAVASCRIPT = """// npm install openai
import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{address}/v1", apiKey: "{key}" }});
const stream = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "{question}" }}],
  stream: true,
}});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");"""

ANTHROPIC = """# pip install anthropic
from anthropic import Anthropic

client = Anthropic(base_url="{address}", api_key="{key}")
message = client.messages.create(
    model="{model}",
    max_tokens=300,
    messages=[{{"role": "user", "content": "{question}"}}],
)
print(message.content[-1].text)"""


EXAMPLES = (
    ("curl", "curl", CURL),
    ("python", "Python", PYTHON),
    ("javascript", "JavaScript", JAVASCRIPT),
    ("anthropic", "Anthropic", ANTHROPIC),
)
