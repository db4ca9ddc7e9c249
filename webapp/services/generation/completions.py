"""Answers for programs: nothing is stored, every choice is a :class:`.generation.Generation`.

:class:`Completion` produces the same events for streaming and for complete responses, so both give the same text.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from webapp.chat.formats import ALIASES, FLOWER, PromptTemplate, fill_prompt, fills_gaps, format_names
from webapp.chat.messages import AnswerEvent, Failed, Finished, Message, Role, ThinkMode, repeats_noted
from webapp.chat.prompts import RenderedPrompt, render
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import RecurrentState
from webapp.errors import FileMissing, ModelError, RoostError, error_from_dict
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.generation.generation import AnswerText, Generation
from webapp.services.generation.request import (
    NEW_STATE_ENDING,
    AnswerRequest,
    ChatPrompt,
    Prefix,
    PreparedPrompt,
    Prompt,
    PromptModel,
    Structure,
    TextPrompt,
    find_prefix,
    format_of,
    prepare,
    raw_prompt,
    rendered_prefix,
    starting_from,
    template_of,
)
from webapp.services.generation.structure import constraint_of, form_sentence, offered_by
from webapp.services.presets.presets import PLAIN, Presets, mode_of
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, model_name

END_OF_TEXT = 0
EMBEDDED = "ffn_x_prev"
GATHER_S = 0.02
"""Tokens that come faster than this are sent together; the first and the last are sent at once."""


class StateReader(Protocol):
    def read_states(self, texts: Iterable[Sequence[int]], names: tuple[str, ...] = ()) -> Iterator[RecurrentState]: ...


def embeddings(manager: StateReader, texts: Iterable[Sequence[int]]) -> Iterator[list[float]]:
    """Each text as a vector: ``n_embd`` numbers of length 1. Raises errors of the prefill: ``prompt_too_long``,
    ``token_out_of_range``, a failed load.

    It is ``ffn_x_prev`` of the last layer in the state after the text and the end-of-text token: the normalised
    activation that enters the last channel-mixing layer, in all architectures from 4 to 7. The mean of the vector's own
    entries is subtracted, then it is scaled to length 1, so that a dot product is a cosine. The models were not trained
    for embeddings: near vectors only mean similar wording and topic.
    """
    for state in manager.read_states(([*text, END_OF_TEXT] for text in texts), (EMBEDDED,)):
        yield normalised(state.arrays[EMBEDDED][-1])


def normalised(row: Any) -> list[float]:
    values = [float(value) for value in row]
    mean = math.fsum(values) / len(values)
    centred = [value - mean for value in values]
    length = math.sqrt(math.fsum(value * value for value in centred))
    return [value / length for value in centred] if length else centred


NO_STRUCTURE = Structure()


class Completions:
    """The active preset fills what a request leaves open, except its system prompt: programs write their own messages.

    ``overrides`` were set by Runner's ``/update-config`` since the start; they take priority over the preset.
    """

    def __init__(self, manager: ModelManager, presets: Presets) -> None:
        self.overrides: dict[str, Any] = {}
        self._manager = manager
        self._presets = presets

    def start(self, request: AnswerRequest) -> Completion:
        """Queues the first choice of every prompt. Raises errors in the request, and errors of submit."""
        model = PromptModel.chosen(self._manager)
        stops = self._presets.active().stop if request.stop is None else request.stop
        choices: list[list[Generation]] = []
        request = replace(request, state=self._state_of(request))
        prefix = None if request.before else find_prefix(self._manager, request.state)
        for asked in request.prompts:
            rendered = self._rendered(asked, request.structure, model, prefix)
            if prefix is None:  # a prefix in the prompt is already in the state, and not counted
                self._manager.check_length(rendered.text)
            mode = mode_of(self._think_mode(asked), rendered.tools is not None)
            params = self._sampling(request.sampling, model.info, mode)
            is_free = request.structure == Structure() and rendered.tools is None
            constraint = None if is_free else constraint_of(request.structure, rendered)
            prepared = prepare(model, rendered, params, constraint, request.state)
            prepared = _after(request.before, prepared) if request.before else prepared
            prompt = _sharing(starting_from(prepared, prefix, self._manager))
            choices.append(
                [
                    Generation(
                        self._manager,
                        _numbered(prompt, number),
                        request.client,
                        AnswerText(
                            rendered, model.tokenizer, stops, request.streams_calls, rendered.router_of_rest(), params
                        ),
                        request.is_kept,
                        origin=request.origin,
                    )
                    for number in range(request.choices)
                ]
            )
        return Completion(choices)

    def _state_of(self, request: AnswerRequest) -> str | None:
        """Raises ``state_not_found`` for an unknown prefix; its name may be given without extension."""
        if request.prefix_id is None:
            return request.state
        if request.state is not None:
            raise RoostError("invalid_parameter", param="prefix_id", reason=Text("reason.api.state_or_prefix"))
        names = (request.prefix_id, request.prefix_id + NEW_STATE_ENDING)
        found = next((name for name in names if find_prefix(self._manager, name) is not None), None)
        if found is None:
            raise FileMissing("state_not_found", path=request.prefix_id)
        return found

    def prompt_token_ids(self, prompt: Prompt, structure: Structure = NO_STRUCTURE) -> tuple[int, ...]:
        """The tokens that an answer to this prompt would start from."""
        model = PromptModel.chosen(self._manager)
        return prepare(model, self._rendered(prompt, structure, model), SamplingParams()).token_ids

    def default_sampling(self) -> SamplingParams:
        """The sampling of a plain text for which the request sets nothing."""
        return self._sampling({}, self._manager.model_info(), PLAIN)

    def template(self, info: Inspection) -> PromptTemplate:
        """The template of conversations that do not name one."""
        return template_of(info, self._presets.active().template)

    def _sampling(self, asked: Mapping[str, Any], info: Inspection, mode: str) -> SamplingParams:
        """Raises ``sampling_invalid`` for an invalid value. The manager refuses an answer longer than the server allows
        if the request asks for it; a limit set for all requests is reduced to the allowed one."""
        given = {**self.overrides, **asked}
        if "max_tokens" in asked:
            del given["max_tokens"]
        params = self._presets.sampling(self._presets.active(), given, info, mode)
        if "max_tokens" not in asked:
            return params
        return SamplingParams.from_dict(params.to_dict() | {"max_tokens": asked["max_tokens"]})

    def _rendered(
        self, prompt: Prompt, structure: Structure, model: PromptModel, prefix: Prefix | None = None
    ) -> RenderedPrompt:
        """Raises ``invalid_parameter`` for an unknown template or a conversation that cannot be continued, and
        ``model_writes_music`` for a conversation with a music model."""
        preset = self._presets.active()
        if not isinstance(prompt, ChatPrompt):
            raw = raw_prompt(_with_gap(prompt, model.info), prompt.token_ids, model.info)
            if prompt.suffix and FLOWER not in raw.stop_strings:  # the separator of the gap also ends the filling
                raw = replace(raw, stop_strings=(*raw.stop_strings, FLOWER))
            before = rendered_prefix(prefix.source, model, preset.template).pieces if prefix else ()
            return replace(raw, pieces=(*before, *raw.pieces))
        model.check_answers()
        if prompt.continue_last and prompt.messages[-1].role is not Role.ASSISTANT:
            raise RoostError("invalid_parameter", param="messages", reason=Text("reason.services.not_the_last_answer"))
        names = format_names()
        if prompt.template and prompt.template not in (*names, *ALIASES):
            raise RoostError(
                "invalid_parameter",
                param="template",
                reason=Text("reason.api.is_not_one_of", name=repr(prompt.template), names=", ".join(names)),
            )
        messages, is_repeating = prompt.messages, False
        if any(message.tool_calls for message in messages):
            note, has_form = str(Text("reason.services.same_result_again")), structure.response_format is not None
            messages, is_repeating = repeats_noted(messages, note, has_form)
        if is_repeating and structure.tool_choice in (None, "auto"):
            structure = replace(structure, tool_choice="none")
        sentence = ""
        if structure == Structure():  # no constraint
            tools = OfferedTools(G1X_JSON)
        else:
            tools = offered_by(structure)
            sentence = form_sentence(messages, structure, bool(tools.definitions))
        system, spoken = "", ""
        if prefix is not None:
            tools, spoken = prefix.offered(tools, structure), prefix.source.spoken
            system, rest = prefix.rest("", messages)
            messages = tuple(rest)
        if sentence:
            messages = _with_system(messages, sentence)
        template, tools = format_of(
            model.info,
            (prompt.template, preset.template),
            tools,
            structure.dialect or preset.tool_dialect,
            has_calls=any(message.tool_calls for message in prompt.messages),
        )
        template = _named(template, prompt.names)
        return render(template, messages, system, self._think_mode(prompt), prompt.continue_last, tools, spoken)

    def _think_mode(self, prompt: Prompt) -> ThinkMode:
        """The requested mode, before the format is considered; none for plain text."""
        if not isinstance(prompt, ChatPrompt):
            return ThinkMode.NONE
        if prompt.think_mode is not None:
            return prompt.think_mode
        return ThinkMode(self._presets.active().think_mode or "none")


class Completion:
    """One thread reads :meth:`events`; :meth:`close` may be called from any thread, at any time, twice.

    Answers to one prompt start when the first of them is decoding: then they can use its prefill.
    """

    def __init__(self, choices: list[list[Generation]]) -> None:
        self.answers = [answer for of_prompt in choices for answer in of_prompt]
        """Grouped by prompt; events number them in this order."""
        self.prompts = [of_prompt[0].prompt for of_prompt in choices]
        self.has_more = False
        """Another event follows the last one immediately."""
        self._later = {id(first): later for first, *later in choices if later}
        self._wake, self._has_ended = threading.Event(), threading.Event()
        self._is_closed = False
        self._start(first for first, *_ in choices)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.prompts[0].model.tokenizer

    @property
    def prompt_tokens(self) -> int:
        return sum(prompt.prompt_tokens for prompt in self.prompts)

    def events(self, poll_s: float) -> Iterator[tuple[int, AnswerEvent] | None]:
        """(number of the answer, event) until every answer is finished; None after ``poll_s`` without an event. Raises
        the error of an answer, and then ends the others."""
        sent_at = -math.inf
        try:
            while any(answer.end is None for answer in self.answers):
                self._wake.clear()
                self._has_ended.clear()
                news = [(number, event) for number, answer in enumerate(self.answers) for event in self._read(answer)]
                for place, (number, event) in enumerate(news, 1):
                    self.has_more = place < len(news)
                    if self._is_reported(event):
                        yield number, event
                if news:
                    sent_at = time.monotonic()
                elif not self._wake.wait(poll_s):
                    yield None
                elif (rest_s := sent_at + GATHER_S - time.monotonic()) > 0:
                    self._has_ended.wait(rest_s)
        finally:
            self.close()

    def _read(self, answer: Generation) -> Iterator[AnswerEvent]:
        """All events that are available now."""
        while (events := answer.read(0)) is not None:
            if answer.text.token_ids or answer.end is not None:
                self._start(self._later.pop(id(answer), ()))
            yield from events

    def close(self) -> None:
        """Ends running answers; their slots are free at once."""
        self._is_closed = True
        for answer in self.answers:
            answer.stop()

    def _start(self, answers: Iterable[Generation]) -> None:
        try:
            for answer in answers:
                answer.start(partial(self._hear, answer))
        except BaseException:
            self.close()
            raise

    def _hear(self, answer: Generation) -> None:
        """Called for every event of the answer, in the engine's thread."""
        if answer.is_written:
            self._has_ended.set()
        self._wake.set()

    def _is_reported(self, event: AnswerEvent) -> bool:
        """Raises the error of an answer. The end of a closed answer is not reported."""
        if isinstance(event, Failed):
            raise error_from_dict(event.error)
        if isinstance(event, Finished) and event.finish_reason == "abort":
            if not self._is_closed:
                raise ModelError("model_unloaded")
            return False
        return True


def _with_gap(prompt: TextPrompt, info: Inspection) -> str:
    """Raises ``unsupported_parameter`` if a gap is to be filled and the model was not trained for that."""
    if not prompt.suffix:
        return prompt.text
    if not fills_gaps(model_name(info)) or prompt.token_ids:
        raise RoostError("unsupported_parameter", param="suffix", reason=Text("reason.web.cannot_fill_a_gap"))
    return fill_prompt(prompt.text, prompt.suffix)


def _with_system(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Appends this text to the leading system message, or adds it as one."""
    if not messages or messages[0].role is not Role.SYSTEM:
        return (Message(Role.SYSTEM, text), *messages)
    return (replace(messages[0], content=f"{messages[0].content}\n{text}"), *messages[1:])


def _after(before: tuple[int, ...], prompt: PreparedPrompt) -> PreparedPrompt:
    """The prompt after tokens that were processed before."""
    encoded = prompt.encoded
    boundaries = (len(before), *(len(before) + boundary for boundary in encoded.boundaries))
    return replace(prompt, encoded=replace(encoded, token_ids=(*before, *encoded.token_ids), boundaries=boundaries))


def _sharing(prompt: PreparedPrompt) -> PreparedPrompt:
    """Marks the end as a boundary, from which n answers to one prompt, or later ones to the same prompt, start."""
    boundaries = tuple(sorted({*prompt.encoded.boundaries, len(prompt.token_ids)}))
    return replace(prompt, encoded=replace(prompt.encoded, boundaries=boundaries))


def _numbered(prompt: PreparedPrompt, number: int) -> PreparedPrompt:
    """The prompt for the ``number``-th answer; with a seed, each answer has its own."""
    seed = prompt.params.seed
    return prompt if seed is None else replace(prompt, params=replace(prompt.params, seed=seed + number))


def _named(template: PromptTemplate, names: Iterable[str]) -> PromptTemplate:
    """Uses other names for user, assistant and system, also in stops, if the format has such names."""
    user, assistant, system = names
    if not (user or assistant or system) or not template.user_prefix.endswith(": ") or template.jinja:
        return template
    user_word = user or template.user_prefix.strip().rstrip(":")
    assistant_word = assistant or template.assistant_prefix.strip().rstrip(":")
    words = [user_word, assistant_word, system or template.system_prefix.strip().rstrip(":")]
    return replace(
        template,
        user_prefix=f"{user_word}: ",
        assistant_prefix=f"{assistant_word}:",
        system_prefix=f"{words[2]}: " if words[2] else "",
        stop_strings=(*(f"\n\n{word}:" for word in words if word), *(s for s in template.stop_strings if s == FLOWER)),
    )
