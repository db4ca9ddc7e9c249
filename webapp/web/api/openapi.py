"""``GET /openapi.json``: the OpenAPI 3.1 document, made from the types that check requests and write responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from flask import Response, request

from webapp import __version__
from webapp.web.api.answering import answer, the_manager
from webapp.web.api.operations import DOCUMENTED, GROUPS, SSE, Operation
from webapp.web.kit.page import current_locale, translator

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


def show() -> Response:
    model = the_manager().status().model
    return answer(document(translator(current_locale()), request.url_root.rstrip("/"), model))


def document(t: Callable[..., str], server: str, model: str) -> dict[str, Any]:
    types = [kind for op in DOCUMENTED for kind in types_of(op) if kind is not None]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=REFERENCE)
    references = dict(zip(unique, schemas, strict=True))
    for component in components.values():
        for name, schema in component.get("properties", {}).items():
            if text := field_text(t, name):
                schema.setdefault("description", text)
    paths: dict[str, Any] = {}
    for op in DOCUMENTED:
        paths.setdefault(op.path, {})[op.method.lower()] = operation(op, references, t, model)
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


def types_of(op: Operation) -> tuple[Any, ...]:
    return op.body_type, op.answer_type, op.chunk_type, op.error_type


def field_text(t: Callable[..., str], name: str) -> str:
    """The description of a request field; "" if it has none."""
    for key in (f"api.field.{name}", f"sampling.{name}.short"):
        if (text := t(key)) != key:
            return text
    return ""


def operation(op: Operation, references: dict[Any, Any], t: Callable[..., str], model: str) -> dict[str, Any]:
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


def fields_of(query: Any, t: Callable[..., str]) -> list[dict[str, Any]]:
    """The query parameters of an endpoint."""
    if query is None:
        return []
    _, components = msgspec.json.schema_components([query], ref_template=REFERENCE)
    return [
        {"name": name, "in": "query", "description": field_text(t, name), "schema": schema}
        for name, schema in components[query.__name__]["properties"].items()
    ]


def success(op: Operation, references: dict[Any, Any], t: Callable[..., str]) -> dict[str, Any]:
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


def refusals(reference: Any, t: Callable[..., str]) -> dict[str, Any]:
    content = {"application/json": {"schema": reference}}
    return {status: {"description": t(key), "content": content} for status, key in REFUSALS.items()}
