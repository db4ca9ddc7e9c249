"""States for programs: ``/v1/states``, ``state_id`` and ``return_state`` of the completions, and the endpoints of
rwkv_lightning (``/state/chat/completions``, ``/multi_state/chat/completions``, ``/state/status``, ``/state/delete``).

An id stands for the tokens that made a state (:mod:`webapp.storage.programs`). An answer that continues from it
prefills only the new part, for any number of clients at once, even after a restart. If the state is gone, or another
model is in use, the tokens are prefilled again.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from flask import Response, current_app, g, request
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from webapp.chat.messages import AnswerEvent, ContentDelta
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.chat.chat_file import pack_state, unpack_state
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import AnswerRequest, ChatPrompt, TextPrompt
from webapp.storage.programs import StateHandle, StateHandles
from webapp.web.api import answering as api
from webapp.web.api.operations import openai_error
from webapp.weights.inspection import require_model

MAX_COPIES = 256


def the_handles() -> StateHandles:
    """The states of the client."""
    return StateHandles(current_app.extensions["database"], api.the_settings().response_days, g.person.id)


class StateObject(Struct, kw_only=True):
    """``tokens``: those that the state was made from; ``parent_id``: the state that it continues or copies."""

    id: str
    object: Literal["state"] = "state"
    created_at: int
    model: str
    tokens: int
    parent_id: str | None = None
    session_id: str | None = None


class StateList(Struct):
    data: list[StateObject]
    has_more: bool = False
    object: Literal["list"] = "list"


class StateQuery(Struct, kw_only=True):
    """``after`` is the id of a state."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str = ""


class StateDeleted(Struct):
    id: str
    object: Literal["state"] = "state"
    deleted: bool = True


class ForkRequest(Struct, kw_only=True):
    n: Annotated[int, Meta(ge=1, le=MAX_COPIES)] = 1


class RollbackRequest(Struct, kw_only=True):
    """``tokens``: how many to keep; or ``turns``: how many answers to go back."""

    tokens: Annotated[int, Meta(ge=1)] | None = None
    turns: Annotated[int, Meta(ge=1)] | None = None


def shown(handle: StateHandle) -> StateObject:
    return StateObject(
        id=handle.id,
        created_at=int(handle.created_at),
        model=handle.model,
        tokens=len(handle.token_ids),
        parent_id=handle.parent_id,
        session_id=handle.session or None,
    )


# for the completions


def continuing_from(wanted: AnswerRequest, state_id: str) -> AnswerRequest:
    """The request, continuing from that state. Raises ``invalid_parameter`` if it also has another initial state, or
    several prompts."""
    if wanted.state is not None or wanted.prefix_id is not None or len(wanted.prompts) > 1:
        raise RoostError("invalid_parameter", param="state_id", reason=Text("reason.api.state_id_alone"))
    return after(wanted, the_handles().get(state_id, "state_id"))


def after(wanted: AnswerRequest, handle: StateHandle) -> AnswerRequest:
    """Raises ``invalid_parameter`` for another vocabulary, which has other tokens."""
    if handle.tokenizer != api.the_manager().tokenizer().name:
        raise RoostError("invalid_parameter", param="state_id", reason=Text("reason.api.state_of_another_vocabulary"))
    return replace(wanted, before=handle.token_ids, state=handle.state, origin=handle.origin, is_kept=True)


class Keeper(Struct):
    """Creates ids for states; created during the request, because a stream ends after it."""

    manager: ModelManager = field(default_factory=api.the_manager)
    handles: StateHandles = field(default_factory=the_handles)

    def keep(
        self, generation: Generation, wanted: AnswerRequest, parent_id: str | None = None, session: str = ""
    ) -> str:
        """The id of the state after an answer; for a conversation, the next message can follow directly."""
        made, unneeded = self.handles.add(
            handle_of(self.manager, generation, wanted, parent_id, session), snapshots_of(generation)
        )
        self.manager.forget_snapshots(unneeded)
        return made.id


def snapshots_of(generation: Generation) -> tuple[str, ...]:
    stats: Mapping[str, Any] = getattr(generation.end, "stats", {})
    return tuple(stats.get("snapshots", ()))


def handle_of(
    manager: ModelManager, generation: Generation, wanted: AnswerRequest, parent_id: str | None, session: str
) -> StateHandle:
    prompt, text = generation.prompt, generation.text
    token_ids, has_separator = text.kept_token_ids()
    is_chat = isinstance(wanted.prompts[0], ChatPrompt)
    rest = manager.tokenizer().encode(prompt.rendered.separator) if is_chat and not has_separator else ()
    status = manager.status()
    return StateHandle(
        id="",
        token_ids=(*prompt.token_ids, *token_ids, *rest),
        state=status.state if prompt.state is None else str(prompt.state),
        origin=wanted.origin,
        model=status.model,
        tokenizer=text.tokenizer_name,
        parent_id=parent_id,
        session=session,
    )


# /v1/states


def index() -> Response:
    asked = api.read_query(StateQuery)
    handles, has_more = the_handles().newest(asked.limit, asked.after)
    return api.answer(StateList([shown(handle) for handle in handles], has_more))


def show(name: str) -> Response:
    return api.answer(shown(the_handles().get(name)))


def delete(name: str) -> Response:
    api.the_manager().forget_snapshots(the_handles().delete(name))
    return api.answer(StateDeleted(name))


def fork(name: str) -> Response:
    """Copies, which continue independently; their common part is prefilled and stored once."""
    asked, handles = api.read_body(ForkRequest), the_handles()
    found = handles.get(name)
    copies = []
    for _ in range(asked.n):
        made, unneeded = handles.add(replace(found, parent_id=found.id, session=""))
        api.the_manager().forget_snapshots(unneeded)
        copies.append(shown(made))
    return api.answer(StateList(copies))


def rollback(name: str) -> Response:
    """An earlier state of the same conversation, with its own id. Exact; the part after the nearest snapshot is
    prefilled again."""
    asked, handles = api.read_body(RollbackRequest), the_handles()
    found = handles.get(name)
    if (asked.tokens is None) == (asked.turns is None):
        raise RoostError("invalid_parameter", param="tokens", reason=Text("reason.api.tokens_or_turns"))
    if asked.turns is not None:
        earlier = found
        for _ in range(asked.turns):
            if earlier.parent_id is None:
                raise RoostError("invalid_parameter", param="turns", reason=Text("reason.api.no_earlier_state"))
            earlier = handles.get(earlier.parent_id, "turns")
        token_ids = earlier.token_ids
    else:
        token_ids = found.token_ids[: asked.tokens]
        if asked.tokens is not None and asked.tokens > len(found.token_ids):
            reason = Text("reason.engine.whole_number_between", least=1, most=len(found.token_ids))
            raise RoostError("invalid_parameter", param="tokens", reason=reason)
    made, unneeded = handles.add(replace(found, token_ids=token_ids, parent_id=found.id, session=""))
    api.the_manager().forget_snapshots(unneeded)
    return api.answer(shown(made))


def content(name: str) -> Response:
    """The state as a file: for another Roost, or for the States page of one."""
    handle, manager = the_handles().get(name), api.the_manager()
    found = manager.snapshot(handle.token_ids, handle.state, handle.origin)
    if found is None:
        raise RoostError("state_id_not_found", id=name[:80], param=None)
    about = {"model": manager.model_digest(), "tokenizer": handle.tokenizer, "name": handle.model}
    data = pack_state(about, handle.token_ids, *found)
    response = Response(data, mimetype="application/octet-stream")
    response.headers.set("Content-Disposition", "attachment", filename=f"{handle.id}.safetensors")
    return response


def upload() -> Response:
    """A file from :func:`content`, as the body or as a form's ``file``, for the model with which it was made."""
    if request.mimetype == "multipart/form-data":
        request.max_content_length = api.the_settings().api_max_body_bytes
        given = request.files.get("file")
        data = given.stream.read() if given is not None else b""
    else:
        data = api.read_data(api.the_settings().api_max_body_bytes)
    manager = api.the_manager()
    about, token_ids, arrays, length = unpack_state(data)
    if about.get("model") != manager.model_digest():
        raise RoostError("invalid_parameter", param="file", reason=Text("reason.api.state_of_another_model"))
    snapshot = arrays.snapshot(require_model(manager.model_info()))
    handle = StateHandle(
        id="",
        token_ids=token_ids,
        origin=f"upload {time.time_ns()} {next(_uploads)}",
        model=manager.status().model,
        tokenizer=manager.tokenizer().name,
    )
    name = manager.put_snapshot(token_ids[:length], snapshot, "", handle.origin)
    made, unneeded = the_handles().add(handle, (name,))
    manager.forget_snapshots(unneeded)
    return api.answer(shown(made))


_uploads = itertools.count()


# rwkv_lightning


class LightningRequest(Struct, kw_only=True):
    """``contents``: one prompt, used unchanged, which continues the session's state. ``password`` and ``chunk_size``
    are ignored: a token is sent in a header."""

    contents: Annotated[list[str], Meta(min_length=1, max_length=1)]
    session_id: Annotated[str, Meta(min_length=1, max_length=200)]
    dialogue_idx: Annotated[int, Meta(ge=0)] | None = None
    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=-1)] | None = None
    stop_tokens: Annotated[list[api.Whole], Meta(max_length=64)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=65_536)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    alpha_presence: Annotated[float, Meta(ge=-2, le=2)] | None = None
    alpha_frequency: Annotated[float, Meta(ge=-2, le=2)] | None = None
    alpha_decay: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: api.Whole | None = None
    stream: bool = False
    chunk_size: int | None = None
    password: str | None = None


SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "alpha_presence": "presence_penalty",
    "alpha_frequency": "frequency_penalty",
    "alpha_decay": "penalty_decay",
    "seed": "seed",
}


class LightningMessage(Struct):
    content: str
    role: Literal["assistant"] = "assistant"


class LightningChoice(Struct):
    index: int
    message: LightningMessage
    finish_reason: str


class LightningAnswer(Struct, kw_only=True, omit_defaults=True):
    id: str
    object: str
    model: str
    choices: list[LightningChoice]
    session_id: str
    state_id: str
    dialogue_idx: int | None = None


def say() -> Response:
    """A session continues from the end of its last answer."""
    asked = api.read_body(LightningRequest)
    return _say(asked, the_handles().of_session(asked.session_id), lambda: (asked.session_id, None))


def branch() -> Response:
    """Continues from any earlier answer of the session, by its ``dialogue_idx``; each answer gets one. 0 starts."""
    asked, handles = api.read_body(LightningRequest), the_handles()
    if asked.dialogue_idx is None:
        raise RoostError("invalid_parameter", param="dialogue_idx", reason=Text("reason.common.is_missing"))
    found = handles.of_session(f"{asked.session_id}:{asked.dialogue_idx}")
    if found is None and asked.dialogue_idx != 0:
        name = f"{asked.session_id}:{asked.dialogue_idx}"
        raise RoostError("state_id_not_found", id=name, param="dialogue_idx")

    def new_place() -> tuple[str, int | None]:
        names = (name.rpartition(":")[2] for name, _ in handles.sessions(f"{asked.session_id}:"))
        number = 1 + max((int(name) for name in names if name.isdecimal()), default=0)
        return f"{asked.session_id}:{number}", number

    return _say(asked, found, new_place)


def _say(asked: LightningRequest, before: StateHandle | None, place: Any) -> Response:
    given = {ours: getattr(asked, theirs) for theirs, ours in SAMPLING.items()}
    given["max_tokens"] = api.most_tokens(asked.max_tokens)
    sampling = {name: value for name, value in given.items() if value is not None}
    if asked.stop_tokens is not None:
        sampling["stop_token_ids"] = tuple({0, *asked.stop_tokens})
    model = api.served_model(asked.model)
    wanted = AnswerRequest((TextPrompt(asked.contents[0]),), sampling, stop=(), is_kept=True)
    if before is not None:
        wanted = after(wanted, before)
    answering, keeper = api.begin(wanted), Keeper()

    def keep() -> tuple[str, str, int | None]:
        session, number = place()
        parent = before.id if before else None
        return keeper.keep(answering.completion.answers[0], wanted, parent, session), session, number

    if asked.stream:
        return api.stream(answering, LightningChunks(keep))
    [(text, end)] = api.whole_answers(answering)
    state_id, session, number = keep()
    choice = LightningChoice(0, LightningMessage(text.content), end.finish_reason)
    kind = "rwkv7-multi-state" if number is not None else "rwkv7-batch"
    return api.answer(
        LightningAnswer(
            id=kind,
            object="chat.completion",
            model=model,
            choices=[choice],
            session_id=session,
            state_id=state_id,
            dialogue_idx=number,
        )
    )


class LightningChunks(api.StreamWriter):
    """Pieces of text; before the end, the index of the new state."""

    keep: Any
    sent: int = field(default=0)

    def write(self, number: int, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, ContentDelta) and event.text:
            choice = {"index": number, "delta": {"content": event.text}}
            yield api.data_event({"object": "chat.completion.chunk", "choices": [choice]})

    def end(self) -> Iterator[bytes]:
        state_id, session, place = self.keep()
        fields = {"session_id": session, "state_id": state_id}
        if place is not None:
            fields = {"object": "multi_state.dialogue_idx", "dialogue_idx": place, **fields}
        yield api.data_event({"object": "state.session", **fields})
        yield api.DONE


class SessionRequest(Struct, kw_only=True):
    session_id: str | None = None
    delete_prefix: bool = False
    password: str | None = None


class SessionKept(Struct):
    session_id: str
    last_updated: str
    timestamp: float
    cache_level: str = "Database (Disk)"


class SessionList(Struct, kw_only=True):
    status: str = "success"
    total_sessions: int
    l1_cache_count: int = 0
    l2_cache_count: int = 0
    database_count: int
    sessions: list[SessionKept]


class SessionDeleted(Struct, kw_only=True):
    status: str = "success"
    message: str


def status() -> Response:
    """The stored states, listed as in rwkv_lightning."""
    found = [
        SessionKept(name, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)), at)
        for name, at in the_handles().sessions()
    ]
    return api.answer(SessionList(total_sessions=len(found), database_count=len(found), sessions=found))


def drop() -> Response:
    asked = api.read_body(SessionRequest)
    if not asked.session_id:
        raise RoostError("invalid_parameter", param="session_id", reason=Text("reason.common.is_missing"))
    count, unneeded = the_handles().delete_session(asked.session_id, asked.delete_prefix)
    api.the_manager().forget_snapshots(unneeded)
    if not count and not asked.delete_prefix:
        message = f"Session {json.dumps(asked.session_id)} is not known"
        error = openai_error(RoostError("state_id_not_found", id=asked.session_id, param="session_id"), message, 404)
        return api.answer({"status": "not_found", "message": message, "error": error}, 404)
    return api.answer(SessionDeleted(message=f"Session {json.dumps(asked.session_id)} deleted"))
