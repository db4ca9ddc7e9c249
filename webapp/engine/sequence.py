"""One request on its way through the engine: what it has read and written so far."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass, field
from enum import Enum

from webapp.engine.outputs import GenerationRequest, SequenceStats, TokenLogprob
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.sequence_sampling import SequenceSampling
from webapp.engine.state import RecurrentState
from webapp.engine.stop_matcher import StopMatcher

TokenIds = collections.abc.Sequence[int]


class SequenceStatus(Enum):
    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    FINISHED = "finished"


@dataclass(eq=False)
class Sequence:
    """Everything that decides how it goes on is a value in here: the tokens the slot's state has consumed, the pending
    token and its sampling. With the state itself, that is what an exact replay needs.

    Times are the engine clock's seconds.
    """

    request: GenerationRequest
    initial_state: RecurrentState
    initial_state_digest: str
    seed: int
    sampling: SequenceSampling
    arrived_at: float
    snapshot_lengths: list[int] = field(default_factory=list)
    """Prompt prefix lengths, ascending, where prefill pauses for a snapshot."""
    status: SequenceStatus = SequenceStatus.WAITING
    slot: int | None = None
    position: int = 0
    """How many tokens the slot's state has consumed: prompt first, then sampled ones."""
    cached_tokens: int = 0
    completion_token_ids: list[int] = field(default_factory=list)
    """Every sampled token, stops too. While decoding, the last one is pending: not yet in the state."""
    logprobs: list[tuple[TokenLogprob, ...]] = field(default_factory=list)
    admitted_at: float | None = None
    first_token_at: float | None = None
    _sure: int = 0
    _taken: int = 0

    def __post_init__(self) -> None:
        self.stop_matcher = StopMatcher(self.params.stop_token_ids, self.params.stop_token_sequences)

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        return self.request.prompt_token_ids

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def pending_token_id(self) -> int:
        return self.completion_token_ids[-1]

    @property
    def consumed_token_ids(self) -> tuple[int, ...]:
        """Exactly the tokens that made the slot's state from the initial state."""
        sampled = self.completion_token_ids[: max(0, self.position - self.prompt_length)]
        return (*self.prompt_token_ids[: self.position], *sampled)

    def next_pause(self, position: int) -> int:
        """Where prefill from ``position`` has to end a chunk at the latest."""
        return next((length for length in self.snapshot_lengths if length > position), self.prompt_length)

    @property
    def releasable(self) -> int:
        """How many sampled tokens are sure to belong to the answer and have not gone out."""
        return self._sure - self._taken

    def accept(self, token_id: int) -> None:
        """Takes a sampled token. Penalties and the constraint do not hear of one that stops the sequence."""
        self.completion_token_ids.append(token_id)
        self.sampling.position += 1
        self._sure += self.stop_matcher.feed(token_id)
        if not self.stop_matcher.is_stopped:
            self.sampling.accept(token_id)

    def release_held_back(self) -> None:
        """At an end that no stop caused: what might have become a stop belongs to the answer after all."""
        if not self.stop_matcher.is_stopped:
            self._sure = len(self.completion_token_ids)

    def take(self) -> tuple[tuple[int, ...], tuple[tuple[TokenLogprob, ...], ...]]:
        """The releasable tokens, once, with their logprobs where these were asked for."""
        new = slice(self._taken, self._sure)
        self._taken = self._sure
        return tuple(self.completion_token_ids[new]), tuple(self.logprobs[new])

    def stats(self, now: float) -> SequenceStats:
        admitted_at = now if self.admitted_at is None else self.admitted_at
        first_token_at = now if self.first_token_at is None else self.first_token_at
        return SequenceStats(
            prompt_tokens=self.prompt_length,
            cached_tokens=self.cached_tokens,
            prefilled_tokens=max(0, min(self.position, self.prompt_length) - self.cached_tokens),
            decoded_tokens=len(self.completion_token_ids),
            queued_s=admitted_at - self.arrived_at,
            prefill_s=first_token_at - admitted_at,
            decode_s=now - first_token_at,
            initial_state_digest=self.initial_state_digest,
            seed=self.seed,
        )
