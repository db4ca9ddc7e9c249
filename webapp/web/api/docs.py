"""How programs use this Roost's API: the page ``/docs``, and ``GET /openapi.json``, an OpenAPI 3.1 document.

Both are made from the table of operations and the types that check requests and write responses; these are imported
with the first visit, not at start. The quick start is in four programming languages; the text inside code is the same
in every human language.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from flask import Blueprint, Response, abort, current_app, request

from webapp import __version__
from webapp.web.api.operations import DOCUMENTED, GROUPS, SSE, Operation
from webapp.web.guard import current_role
from webapp.web.kit.page import PageContext, Translator, Values, current_locale, current_page, render_page, translator
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


def openapi() -> Response:
    model = current_app.extensions["model_manager"].status().model
    found = document(translator(current_locale()), request.url_root.rstrip("/"), model)
    return Response(msgspec.json.encode(found), mimetype="application/json")


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


# the OpenAPI document

REFERENCE = "#/components/schemas/{name}"
REFUSALS = {
    "400": "api.status.400",
    "401": "api.status.401",
    "403": "api.status.403",
    "404": "api.status.404",
    "413": "api.status.413",
    "415": "api.status.415",
    "429": "api.status.429",
    "503": "api.status.503",
    "default": "api.status.default",
}


def document(t: Translator, server: str, model: str) -> dict[str, Any]:
    rows = [(op.body_type, op.answer_type, op.chunk_type, op.error_type) for op in DOCUMENTED]
    unique = list(dict.fromkeys(kind for row in rows for kind in row if kind is not None))
    schemas, components = msgspec.json.schema_components(unique, ref_template=REFERENCE)
    references = dict(zip(unique, schemas, strict=True))
    for component in components.values():
        for name, schema in component.get("properties", {}).items():
            if text := field_text(t, name):
                schema.setdefault("description", text)
    paths: dict[str, Any] = {}
    for op in DOCUMENTED:
        paths.setdefault(op.path, {})[op.method.lower()] = described(op, references, t, model)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Roost", "version": __version__, "description": t("api.lead")},
        "servers": [{"url": server}],
        "tags": [{"name": group, "description": t(f"api.group.{group}")} for group in GROUPS],
        "security": [{}, {"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def field_text(t: Translator, name: str) -> str:
    """The description of a request field; "" if it has none."""
    for key in (f"api.field.{name}", f"sampling.{name}.short"):
        if (text := t(key)) != key:
            return text
    return ""


def described(op: Operation, references: dict[Any, Any], t: Translator, model: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": op.key,
        "tags": [op.group],
        "summary": t(f"api.op.{op.key}.title"),
        "description": t(f"api.op.{op.key}.text"),
        "responses": {"200": success(op, references, t), **refusals(references[op.error_type], t)},
    }
    if op.key == "switch_model":
        found["responses"]["304"] = {"description": t("api.status.304")}
    if parameters := [*names_in(op.path), *fields_of(op.query_type, t)]:
        found["parameters"] = parameters
    if op.upload:
        fields = {op.upload: {"type": "string", "format": "binary"}}
        form = {"type": "object", "properties": fields, "required": [op.upload]}
        found["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    if op.body:
        media: dict[str, Any] = {"schema": references[op.body_type]}
        if op.example:
            media["example"] = op.example_with(model)
        found["requestBody"] = {"required": True, "content": {"application/json": media}}
    return found


def names_in(path: str) -> list[dict[str, Any]]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return [name] if "{name}" in path else []


def fields_of(query: Any, t: Translator) -> list[dict[str, Any]]:
    """The query parameters of an endpoint."""
    if query is None:
        return []
    _, components = msgspec.json.schema_components([query], ref_template=REFERENCE)
    return [
        {"name": name, "in": "query", "description": field_text(t, name), "schema": schema}
        for name, schema in components[query.__name__]["properties"].items()
    ]


def success(op: Operation, references: dict[Any, Any], t: Translator) -> dict[str, Any]:
    plain: dict[str, dict[str, Any]] = {"": {"text/plain": {"schema": {"type": "string"}}}, "bytes": {op.media: {}}}
    if op.answer in plain:
        return {"description": t("api.status.200"), "content": plain[op.answer]}
    content: dict[str, Any] = {"application/json": {"schema": references[op.answer_type]}}
    if op.stream == SSE:
        event = {"event": {"type": "string"}, "data": {"type": "string"}}
        words = t("api.status.stream")
        content[op.stream] = {"schema": {"type": "object", "description": words, "properties": event}}
    elif op.stream:
        content[op.stream] = {"schema": {"type": "string", "description": t("api.status.stream")}}
    if op.chunk:
        content[op.stream]["x-each-piece"] = references[op.chunk_type]
    return {"description": t("api.status.200"), "content": content}


def refusals(reference: Any, t: Translator) -> dict[str, Any]:
    content = {"application/json": {"schema": reference}}
    return {status: {"description": t(key), "content": content} for status, key in REFUSALS.items()}
