"""From a request to a sequence: what is checked before it may wait, and what it carries with it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.engine.model_config import ModelConfig
from webapp.engine.outputs import GenerationRequest
from webapp.engine.sequence import Sequence
from webapp.engine.sequence_sampling import Adjustments, Constraint, ConstraintFactory, SequenceSampling
from webapp.engine.state import RecurrentState
from webapp.errors import PromptEmpty, RequestError, TokenOutOfRange


@dataclass(frozen=True)
class Start:
    """What a sequence begins with, and the digest that snapshots grown from it are kept under. Never written to."""

    state: RecurrentState
    digest: str

    @classmethod
    def of(cls, state: RecurrentState, digest: str = "") -> Start:
        return cls(state, digest or state.digest())


class SequenceFactory:
    """``max_snapshots`` bounds the snapshots one prompt takes: more than the cache holds would push each other out."""

    def __init__(
        self,
        config: ModelConfig,
        penalty_exempt_token_ids: Iterable[int],
        constraint_factory: ConstraintFactory | None,
        max_snapshots: int,
    ) -> None:
        self._config = config
        self._penalty_exempt = frozenset(penalty_exempt_token_ids)
        self._constraint_factory = constraint_factory
        self._max_snapshots = max_snapshots

    def make(self, request: GenerationRequest, start: Start, arrived_at: float) -> Sequence:
        """``start`` is used unless the request brings a state of its own.

        Raises a RequestError for an empty prompt, a token outside the vocabulary or a constraint that cannot be used,
        and StateMismatch for an initial state of another model.
        """
        self.check_token_ids(request.prompt_token_ids)
        for token_id in request.params.logit_bias:
            self._check_token_id(token_id)
        if request.initial_state is not None:
            request.initial_state.check(self._config)
            start = Start.of(request.initial_state.copy())
        seed = secrets.randbits(32) if request.params.seed is None else request.params.seed
        return Sequence(
            request=request,
            initial_state=start.state,
            initial_state_digest=start.digest,
            seed=seed,
            sampling=self._sampling(request, seed),
            arrived_at=arrived_at,
            snapshot_lengths=self._snapshot_lengths(request),
        )

    def check_token_ids(self, token_ids: Iterable[int]) -> None:
        """PromptEmpty or TokenOutOfRange."""
        if not token_ids:
            raise PromptEmpty()
        for token_id in token_ids:
            self._check_token_id(token_id)

    def _check_token_id(self, token_id: int) -> None:
        if not 0 <= token_id < self._config.vocab_size:
            raise TokenOutOfRange(found=token_id, vocab_size=self._config.vocab_size)

    def _sampling(self, request: GenerationRequest, seed: int) -> SequenceSampling:
        adjustments = Adjustments(request.params, self._penalty_exempt, request.prompt_token_ids)
        constraint = None if request.constraint is None else self._constraint(request.constraint)
        return SequenceSampling(request.params, seed, adjustments, constraint)

    def _constraint(self, description: dict[str, object]) -> Constraint:
        if self._constraint_factory is None:
            raise RequestError(reason="this engine has no constrained decoding")
        return self._constraint_factory(description)

    def _snapshot_lengths(self, request: GenerationRequest) -> list[int]:
        """The boundaries inside the prompt; of too many the last, which are asked for most."""
        inside = sorted({b for b in request.boundaries if 0 < b <= len(request.prompt_token_ids)})
        return inside[max(0, len(inside) - self._max_snapshots) :]
