"""Notebooks: plain texts that the model continues without a chat's format, with stop, undo, and alternatives for each
token.

A notebook stores the token ids of its text (:class:`webapp.storage.notebooks.Draft`). Only the parts that a person
changed are encoded again; the text before a change continues from its snapshot.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from webapp.chat.messages import AnswerEvent, ContentDelta, Finished
from webapp.errors import RoostError
from webapp.manager.manager import ModelManager
from webapp.services.chat.probes import MAX_ALTERNATIVES, AnswerToken
from webapp.services.generation.completions import Completion, Completions
from webapp.services.generation.request import AnswerRequest, TextPrompt
from webapp.services.presets.presets import Presets
from webapp.storage.notebooks import Draft, Notebook, NotebookStore
from webapp.storage.presets import Preset
from webapp.tokenizer import Tokenizer

POLL_S = 0.05
SAVE_EVERY_S = 1.0
"""During generation; a killed process loses no more than this."""


class Fork(Struct, frozen=True):
    """Replaces the token at ``place`` with ``token_id`` and continues; the tokens after it are removed."""

    place: int
    token_id: int


class Written(Struct, frozen=True):
    """The text added by one step of a continuation; ``tokens``: those that are complete."""

    text: str
    tokens: tuple[AnswerToken, ...] = ()


Step = Written | AnswerEvent | None


class Notebooks:
    """One per app. Only one continuation per notebook at a time: ``notebook_busy``."""

    def __init__(self, manager: ModelManager, presets: Presets, store: NotebookStore, completions: Completions) -> None:
        self.store = store
        self._manager = manager
        self._presets = presets
        self._completions = completions
        self._running: dict[str, Completion | None] = {}
        self._unwanted: set[str] = set()  # stopped before the generation started
        self._lock = threading.Lock()

    def preset(self, notebook: Notebook) -> Preset:
        """The notebook's own preset if it still exists, otherwise the active one."""
        return self._presets.chosen(notebook.settings.get("preset", ""))

    def is_running(self, notebook_id: str) -> bool:
        return notebook_id in self._running

    def stop(self, notebook_id: str) -> None:
        with self._lock:
            completion = self._running.get(notebook_id)
            if completion is None and notebook_id in self._running:
                self._unwanted.add(notebook_id)
        if completion is not None:
            completion.close()

    def delete(self, notebook_id: str) -> None:
        """Stops it and deletes its states at once."""
        self.stop(notebook_id)
        self._manager.forget_snapshots(self.store.delete(notebook_id))

    def draft_with(self, notebook: Notebook, text: str) -> Draft:
        """The notebook with a person's current text; the tokens before the first change stay known."""
        draft = notebook.draft
        if text == draft.text or not draft.token_ids:
            return replace(draft, text=text)
        tokenizer = self._tokenizer_of(draft)
        if tokenizer is None:
            return Draft(text)
        count, _ = known_tokens(draft.token_ids, text, tokenizer)
        return replace(draft, text=text, token_ids=draft.token_ids[:count], chances=draft.chances[:count])

    def continued(
        self, notebook_id: str, text: str, client: str = "", gap: int | None = None, fork: Fork | None = None
    ) -> Steps:
        """Queues a continuation of ``text``; returns its steps, with None at times while nothing happens. One undo
        removes the whole continuation. ``gap``: fills in text at this character, if the model supports it.

        Raises errors at once. If the caller stops reading, generation ends and its text so far is stored.
        """
        with self._lock:
            if notebook_id in self._running:
                raise RoostError("notebook_busy")
            self._running[notebook_id] = None
        completion = None
        try:
            notebook = self.store.get(notebook_id)
            before = self.draft_with(notebook, text)
            tokenizer = self._manager.tokenizer()
            begun = self._forked(notebook, before, fork) if fork is not None else before
            head = begun if gap is None else replace(begun, text=begun.text[:gap])
            head = self._read_as(head, tokenizer)
            tail = "" if gap is None else begun.text[gap:]
            completion = self._started(notebook, head, tail, gap is not None, client)
            self.store.write(notebook_id, before, is_step=True)
        except BaseException:
            if completion is not None:
                completion.close()
            self._ended(notebook_id)
            raise
        with self._lock:
            self._running[notebook_id] = completion
            is_unwanted = notebook_id in self._unwanted
        if is_unwanted:
            completion.close()
        return Steps(self, notebook_id, completion, head, tail, gap is not None)

    def _started(self, notebook: Notebook, head: Draft, tail: str, has_gap: bool, client: str) -> Completion:
        preset = self.preset(notebook)
        sampling = self._presets.sampling(preset, notebook.settings.get("sampling", {}), self._manager.model_info())
        prompt = TextPrompt(head.text, suffix=tail) if has_gap else TextPrompt(token_ids=head.token_ids)
        wanted = AnswerRequest(
            (prompt,),
            {**sampling.to_dict(), "logprobs": 0},
            preset.stop,
            state=self._presets.state_of(preset),
            client=client,
            is_kept=not has_gap,
        )
        return self._completions.start(wanted)

    def alternatives(self, notebook_id: str, place: int) -> tuple[AnswerToken, tuple[AnswerToken, ...]]:
        """The token at ``place`` and the most likely tokens there. The state before it is kept, so that a fork needs no
        prefill. Raises ``notebook_token_gone`` for an unknown position."""
        notebook = self.store.get(notebook_id)
        ids, info, tokenizer = notebook.draft.token_ids, self._manager.model_info(), self._manager.tokenizer()
        if notebook.draft.tokenizer != tokenizer.name or not 0 < place < len(ids):
            raise RoostError("notebook_token_gone")
        state = self._presets.state_of(self.preset(notebook))
        own, *best = self._manager.score_tokens(ids[: place + 1], MAX_ALTERNATIVES, state, place, info)[0]
        return AnswerToken.of(own, tokenizer), tuple(AnswerToken.of(one, tokenizer) for one in best)

    def pieces(self, draft: Draft, limit: int) -> tuple[list[tuple[int, str, float | None]], bool]:
        """The text as (position of its token, text, probability). Text that a person wrote is one piece with position
        -1 and None. Only the last ``limit`` tokens are separate pieces; also returns whether there are more."""
        tokenizer = self._tokenizer_of(draft)
        if tokenizer is None:
            return [(-1, draft.text, None)], False
        known, shown = known_tokens(draft.token_ids, draft.text, tokenizer)
        first = max(0, known - limit)
        found: list[tuple[int, str, float | None]] = []
        typed = b"".join(token_bytes(tokenizer, token_id) for token_id in draft.token_ids[:first])
        begun, least, data = -1, 1.0, b""  # tokens that form one character only together are one piece
        for place in range(first, known):
            chance = draft.chances[place]
            if chance is None:
                typed += token_bytes(tokenizer, draft.token_ids[place])
                continue
            if typed:
                found.append((-1, typed.decode("utf-8", "replace"), None))
                typed = b""
            begun, least = (begun, min(least, chance)) if data else (place, chance)
            data += token_bytes(tokenizer, draft.token_ids[place])
            if "\ufffd" not in (text := data.decode("utf-8", "replace")) or place + 1 == known:
                found.append((begun, text, least))
                data = b""
        rest = typed.decode("utf-8", "replace") + draft.text[len(shown) :]
        has_more = any(chance is not None for chance in draft.chances[:first])
        return [*found, *([(-1, rest, None)] if rest else [])], has_more

    def _tokenizer_of(self, draft: Draft) -> Tokenizer | None:
        """The chosen model's tokenizer, if the draft's tokens belong to its vocabulary."""
        try:
            tokenizer = self._manager.tokenizer()
        except RoostError:
            return None
        return tokenizer if tokenizer.name == draft.tokenizer else None

    def _read_as(self, draft: Draft, tokenizer: Tokenizer) -> Draft:
        """Encodes all of its text; known tokens stay."""
        ids, chances = (draft.token_ids, draft.chances) if draft.tokenizer == tokenizer.name else ((), ())
        count, shown = known_tokens(ids, draft.text, tokenizer)
        rest = tuple(tokenizer.encode(draft.text[len(shown) :]))
        return Draft(draft.text, (*ids[:count], *rest), (*chances[:count], *([None] * len(rest))), tokenizer.name)

    def _forked(self, notebook: Notebook, draft: Draft, fork: Fork) -> Draft:
        """The model has the state at this position from :meth:`alternatives`; it returns the token's probability."""
        tokenizer = self._tokenizer_of(draft)
        if tokenizer is None or not 0 < fork.place < len(draft.token_ids):
            raise RoostError("notebook_token_gone")
        ids = (*draft.token_ids[: fork.place], fork.token_id)
        try:
            text = b"".join(token_bytes(tokenizer, token_id) for token_id in ids).decode()
        except UnicodeDecodeError as exc:  # half a character cannot be continued
            raise RoostError("notebook_token_gone") from exc
        state, info = self._presets.state_of(self.preset(notebook)), self._manager.model_info()
        scores = self._manager.score_tokens(ids, 0, state, fork.place, info)
        chances = (*draft.chances[: fork.place], round(math.exp(scores[0][0].logprob), 4))
        return replace(draft, text=text, token_ids=ids, chances=chances)

    def _ended(self, notebook_id: str) -> None:
        with self._lock:
            self._running.pop(notebook_id, None)
            self._unwanted.discard(notebook_id)


class Steps:
    """An iterator that stores its text when it is closed, by anyone; it may be closed twice. The generated text is
    between the texts ``head`` and ``tail``."""

    def __init__(
        self, owner: Notebooks, notebook_id: str, completion: Completion, head: Draft, tail: str, has_gap: bool
    ) -> None:
        self._owner, self._id, self._completion = owner, notebook_id, completion
        self.head, self.tail = head.text, tail
        self._head, self._has_gap = head, has_gap
        self._texts: list[str] = []
        self._tokens: list[AnswerToken] = []
        self._steps = self._read()
        self._is_open = True

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        try:
            return next(self._steps)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._completion.close()
        try:
            self._save()
        except RoostError as exc:
            if exc.code != "notebook_not_found":  # deleted meanwhile
                raise
        finally:
            self._owner._ended(self._id)

    def _read(self) -> Iterator[Step]:
        tokenizer, saved = self._completion.tokenizer, time.monotonic()
        for numbered in self._completion.events(POLL_S):
            event = numbered[1] if numbered is not None else None
            if isinstance(event, ContentDelta):
                whole = tuple(AnswerToken.of(token.logprobs[0], tokenizer) for token in event.tokens)
                self._tokens += whole
                self._texts.append(event.text)
                yield Written(event.text, whole)
            else:
                if isinstance(event, Finished):
                    unneeded = self._owner.store.note_snapshots(self._id, event.stats.get("snapshots", ()))
                    self._owner._manager.forget_snapshots(unneeded)
                yield event
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save()
                saved = time.monotonic()

    def _save(self) -> None:
        """Stores the tokens as far as they match the text. The text of a filled gap was not generated as a continuation
        of the text before it, so its tokens are not stored."""
        head, text = self._head, "".join(self._texts)
        ids = head.token_ids if self._has_gap else (*head.token_ids, *(token.token_id for token in self._tokens))
        chances = (*head.chances, *(round(token.probability, 4) for token in self._tokens))[: len(ids)]
        whole = head.text + text + self.tail
        count, _ = known_tokens(ids, whole, self._completion.tokenizer)
        self._owner.store.write(self._id, Draft(whole, ids[:count], chances[:count], head.tokenizer))


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    return tokenizer.token_bytes(token_id) or tokenizer.decode([token_id]).encode()


def known_tokens(token_ids: Sequence[int], text: str, tokenizer: Tokenizer) -> tuple[int, str]:
    """How many tokens match the beginning of ``text``, and that beginning, which ends with a complete character."""
    data, size, count, whole = text.encode("utf-8", "replace"), 0, 0, 0
    for number, token_id in enumerate(token_ids, 1):
        piece = token_bytes(tokenizer, token_id)
        if not piece or not data.startswith(piece, size):
            break
        size += len(piece)
        if size == len(data) or data[size] & 0xC0 != 0x80:
            count, whole = number, size
    return count, data[:whole].decode()


def settings_of(preset_id: str, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook's settings: ``preset_id`` "" uses the active preset, ``sampling`` overrides it."""
    return {"preset": preset_id, "sampling": dict(sampling)}
