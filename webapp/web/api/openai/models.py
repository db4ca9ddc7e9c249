"""``GET /v1/models`` and ``/v1/models/{id}``."""

from __future__ import annotations

from contextlib import suppress

from flask import Response

from webapp.errors import ModelNotFound
from webapp.web.api.answering import answer
from webapp.web.api.openai.answers import Model, ModelList
from webapp.web.api.served_model import ServedEntry, is_name_of, served_models


def index() -> Response:
    return answer(ModelList("list", [model_of(entry) for entry in served_models()]))


def show(name: str) -> Response:
    for served in served_models():
        if is_name_of(name, served.name):
            return answer(model_of(served))
    raise ModelNotFound(name=name, param="model")


def model_of(served: ServedEntry) -> Model:
    found = served.entry.inspection if served.entry else None
    created = 0
    if served.entry is not None:
        with suppress(OSError):
            created = int(served.entry.path.stat().st_mtime)
    return Model(
        id=served.name,
        object="model",
        created=created,
        owned_by="roost",
        loaded=served.is_loaded,
        architecture=f"rwkv-{found.config.architecture}" if found and found.config else None,
        parameters=found.parameters if found else None,
    )
