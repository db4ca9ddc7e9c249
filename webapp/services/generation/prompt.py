"""From a prompt as text to what the engine is asked: token ids, stops and sampling for one model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from webapp.chat.prompt_rendering import PromptPiece, RenderedPrompt
from webapp.chat.prompt_templates import PromptTemplate, all_templates, default_template
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.model_manager import ModelManager
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, require_model


@dataclass(frozen=True)
class PromptModel:
    """The model a prompt is made for: its vocabulary and its template."""

    info: Inspection
    tokenizer: Tokenizer

    @classmethod
    def chosen(cls, manager: ModelManager) -> PromptModel:
        info = manager.model_info()  # first: submit refuses what was made for a model chosen before
        return cls(info, manager.tokenizer())


@dataclass(frozen=True)
class EncodedPrompt:
    """``boundaries`` are prefix lengths at which a message ends, ascending. ``beginning`` are the last ids, those of
    the answer that is being continued; empty for a new one."""

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    beginning: tuple[int, ...] = ()


@dataclass(frozen=True)
class PreparedPrompt:
    """All the engine needs for an answer. ``params`` end at the template's stops too; ``constraint`` is as in
    ``GenerationRequest``, ``state`` as in :meth:`ModelManager.submit`."""

    model: PromptModel
    rendered: RenderedPrompt
    encoded: EncodedPrompt
    params: SamplingParams
    constraint: dict[str, Any] | None = None
    state: str | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.encoded.token_ids


def prepare(
    model: PromptModel,
    rendered: RenderedPrompt,
    params: SamplingParams,
    constraint: dict[str, Any] | None = None,
    state: str | None = None,
) -> PreparedPrompt:
    stops = stop_sequences(rendered.stop_strings, model.tokenizer)
    params = replace(params, stop_token_sequences=(*params.stop_token_sequences, *stops))
    return PreparedPrompt(model, rendered, encode_prompt(rendered, model.tokenizer), params, constraint, state)


def raw_prompt(text: str, token_ids: tuple[int, ...] = ()) -> RenderedPrompt:
    """Text, or token ids, as they are: no template, no cleaning, no stops, no tags."""
    return RenderedPrompt((PromptPiece(text, token_ids),), is_raw=True)


def template_of(info: Inspection, *names: str) -> PromptTemplate:
    """The first of these templates that exists, else the one that fits the model."""
    known = {template.name: template for template in all_templates()}
    for name in names:
        if name in known:
            return known[name]
    config = require_model(info)
    return default_template(config.architecture, config.vocab_size, Path(info.path).name)


def encode_prompt(rendered: RenderedPrompt, tokenizer: Tokenizer) -> EncodedPrompt:
    """Piece by piece: no token spans two, so a conversation that grows keeps the ids it had."""
    token_ids: list[int] = []
    boundaries: list[int] = []
    beginning: tuple[int, ...] = ()
    for piece in rendered.pieces:
        piece_ids = piece.token_ids or tuple(tokenizer.encode(piece.text))
        token_ids += piece_ids
        if piece is rendered.continued:
            beginning = piece_ids
        if piece.is_boundary and piece_ids:
            boundaries.append(len(token_ids))
    return EncodedPrompt(tuple(token_ids), tuple(boundaries), beginning)


def stop_sequences(stop_strings: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The usual spelling of each stop, so that the engine ends there by itself.

    A model may spell one otherwise (World has "。\\n" as one token); the text router sees those.
    """
    spelled = (tuple(tokenizer.encode(stop)) for stop in stop_strings)
    return tuple(sequence for sequence in spelled if sequence)
