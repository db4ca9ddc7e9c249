"""One answer for a program: sampled tokens in, pieces of content and thinking out, stops never shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.chat.events import ContentDelta, ToolArgumentsDelta, ToolCallBegun, ToolCallReady
from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.chat.stream_router import Delta, StopFilter, StreamRouter
from webapp.chat.tool_parser import ToolCallParser
from webapp.engine.outputs import TokenLogprob
from webapp.services.chat.answer_text import new_call_id
from webapp.services.completion.events import AnswerToken, CallPiece, Piece
from webapp.tokenizer import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class _Pending:
    token: AnswerToken
    end: int


class ChoiceText:
    """Stages: characters, then template stops and thinking, then calls where tools are offered, then the request's own
    stops, on what content is left.

    Fed token by token, so the pieces join to the same text however the engine's outputs were cut. ``streams_calls``:
    arguments come as they are written, where a grammar holds the answer.
    """

    def __init__(
        self, rendered: RenderedPrompt, tokenizer: Tokenizer, stops: Iterable[str] = (), streams_calls: bool = False
    ) -> None:
        self.fed = 0
        """Tokens read, those of a stop too, those after it not."""
        self.thought = 0
        self._decoder = StreamDecoder(tokenizer)
        self._router = _router_of(rendered)
        self._stops = StopFilter(stops)
        self._calls = _parser_of(rendered, streams_calls)
        self._raw_length = 0
        self._pending: deque[_Pending] = deque()

    @property
    def is_stopped(self) -> bool:
        """Further tokens are not part of the answer."""
        return self.stopped_by is not None or self._router.stopped_by is not None

    @property
    def stopped_by(self) -> str | None:
        """The request's own stop that came; None for the template's."""
        return self._stops.stopped_by

    @property
    def has_called(self) -> bool:
        return self._calls is not None and self._calls.has_called

    def feed(self, token_id: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Piece:
        if self.is_stopped:
            return Piece()
        was_thinking = self._router.is_thinking
        text = self._decoder.feed((token_id,))
        self.fed += 1
        if logprobs:
            token = AnswerToken(token_id, logprobs, self._raw_length)
            self._pending.append(_Pending(token, self._raw_length + len(text)))
        self._raw_length += len(text)
        deltas = self._router.feed(text)
        self._count_thinking(deltas, was_thinking)
        return self._piece(deltas, is_end=False)

    def finish(self, is_cut: bool) -> Piece:
        """What is still held back and no stop. A ``cut`` answer does not show half a character."""
        rest = "" if is_cut or self.is_stopped else self._decoder.flush()
        self._raw_length += len(rest)
        return self._piece(self._router.feed(rest) + self._router.finish(), is_end=True)

    def _count_thinking(self, deltas: list[Delta], was_thinking: bool) -> None:
        is_content = any(isinstance(delta, ContentDelta) for delta in deltas)
        if self._router.is_thinking or (was_thinking and not is_content):
            self.thought += 1
            self._pending.clear()

    def _piece(self, deltas: list[Delta], is_end: bool) -> Piece:
        content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
        reasoning = "".join(delta.text for delta in deltas if not isinstance(delta, ContentDelta))
        content, calls = self._parsed(content, is_end)
        shown = self._stops.feed(content) + (self._stops.flush() if is_end else "")
        return Piece(shown, reasoning, self._released(is_end), calls)

    def _parsed(self, content: str, is_end: bool) -> tuple[str, tuple[CallPiece, ...]]:
        """What of the content is text, and the calls in it. A stop of the request's takes later calls away too."""
        if self._calls is None:
            return content, ()
        pieces = self._calls.feed(content) + (self._calls.finish() if is_end else [])
        text = "".join(piece.text for piece in pieces if isinstance(piece, ContentDelta))
        calls = tuple(_call_piece(piece) for piece in pieces if not isinstance(piece, ContentDelta))
        return text, () if self.stopped_by is not None else calls

    def _released(self, is_end: bool) -> tuple[AnswerToken, ...]:
        """Tokens of which something is sure to be shown; at the end, all that no stop has taken away."""
        held = self._router.held_chars + self._stops.held_chars
        sure = self._raw_length - (0 if is_end and not self.is_stopped else held)
        released = []
        while self._pending and (self._pending[0].token.offset < sure or self._pending[0].end <= sure):
            released.append(self._pending.popleft().token)
        return tuple(released)


def _parser_of(rendered: RenderedPrompt, streams_calls: bool) -> ToolCallParser | None:
    tools = rendered.tools
    if tools is None:
        return None
    return ToolCallParser(tools.dialect.syntax, tools.names, new_call_id, is_held=streams_calls and tools.is_held)


def _call_piece(piece: ToolCallReady | ToolCallBegun | ToolArgumentsDelta) -> CallPiece:
    if isinstance(piece, ToolCallReady):
        return CallPiece(piece.call.id, piece.call.name, piece.call.arguments)
    if isinstance(piece, ToolCallBegun):
        return CallPiece(piece.call_id, piece.name)
    return CallPiece(piece.call_id, arguments=piece.text)


def _router_of(rendered: RenderedPrompt) -> StreamRouter:
    """For an answer begun in the prompt: what follows is content as it is, or more of the thought left open there."""
    if rendered.continued is None:
        return rendered.router()
    is_open_thought = "<think>" in rendered.continued.text and "</think>" not in rendered.continued.text
    if is_open_thought:
        return StreamRouter(rendered.stop_strings, starts_in_reasoning=True)
    return StreamRouter(rendered.stop_strings, is_raw=True)
