"""The training loop: one object that holds a run and can be saved and resumed at any step."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from models.starter.batches import Encode, WindowStream, compact_vocabulary, count_tokens
from models.starter.checkpoint import RunConfig, load_checkpoint, save_checkpoint
from models.starter.data.mixture import Mixture
from models.starter.optimizer import adamw, learning_rate_at, set_learning_rate
from models.starter.progress import Progress
from models.starter.vocabulary import CompactVocabulary, grown
from models.starter.workers import Workers
from webapp.training.model import Rwkv7
from webapp.training.operations import operations_for

AVERAGE_RATE = 0.004  # rate of the running mean of the weights, which is evaluated and exported
HELD_OUT_SEED = 77_001


class Trainer:
    """A run in memory. `average` is an exponential mean of the weights by name."""

    def __init__(
        self,
        config: RunConfig,
        vocabulary: CompactVocabulary,
        mixture: Mixture,
        encode: Encode,
        device: torch.device,
        workers: Workers | None = None,
    ) -> None:
        self.workers = workers or Workers()
        torch.manual_seed(config.seed)
        self.config, self.vocabulary, self.device = config, vocabulary, device
        self.model = Rwkv7(config.n_layer, config.n_embd, vocabulary.n_rows).to(device)
        self.model.ops = operations_for(device)
        self.optimizer = adamw(self.model, config.learning_rate, config.weight_decay)
        self.stream = WindowStream(mixture, encode, vocabulary, config.context)
        held_out = WindowStream(Mixture(HELD_OUT_SEED), encode, vocabulary, config.context)
        self.held_out = held_out.batch(12)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.step = self.tokens = 0
        self.seconds = 0.0  # training time of all processes of this run
        self.decay: tuple[int, int] | None = None  # tokens at which the rate starts to fall, tokens it takes

    @classmethod
    def fresh(
        cls,
        config: RunConfig,
        mixture: Mixture,
        encode: Encode,
        device: torch.device,
        workers: Workers | None = None,
    ) -> Trainer:
        counts = count_tokens(mixture, encode, config.vocabulary_documents)
        return cls(config, compact_vocabulary(counts, config.at_least), mixture, encode, device, workers)

    @classmethod
    def resumed(
        cls,
        path: Path,
        mixture: Mixture,
        encode: Encode,
        device: torch.device,
        workers: Workers | None = None,
        grow_documents: int = 0,
    ) -> Trainer:
        """grow_documents: adds tokens to the vocabulary that occur often enough in this many documents of the
        mixture."""
        config, content = load_checkpoint(path)
        if grow_documents:
            counts = count_tokens(mixture, encode, grow_documents)
            content = grown(content, compact_vocabulary(counts, config.at_least).ids.tolist())
        trainer = cls(config, CompactVocabulary(content["vocabulary"].tolist()), mixture, encode, device, workers)
        trainer.restore(content)
        return trainer

    def content(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "vocabulary": self.vocabulary.ids,
            "stream": self.stream.state(),
            "random": torch.get_rng_state(),
            "counters": {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "decay": self.decay,
            },
        }

    def restore(self, content: dict[str, Any]) -> None:
        self.model.load_state_dict(content["model"])
        self.average = {name: value.to(self.device) for name, value in content["average"].items()}
        self.optimizer.load_state_dict(content["optimizer"])
        self.stream.restore(content["stream"])
        torch.set_rng_state(content["random"])
        for name, value in content["counters"].items():
            setattr(self, name, value)

    def save(self, folder: Path) -> Path:
        return save_checkpoint(folder, self.config, self.content())

    def learning_rate(self) -> float:
        progress = 0.0 if self.decay is None else (self.tokens - self.decay[0]) / self.decay[1]
        return learning_rate_at(self.config.learning_rate, self.step, self.config.warmup_steps, progress)

    def train_step(self, stop: bool = False) -> tuple[float, float, bool]:
        """One batch. Returns (loss in nats per weighted token, gradient norm, whether any process was asked to stop).

        Raises FloatingPointError if the loss is not a number.
        """
        started = time.monotonic()
        batch_rows, batch_weights = self.stream.batch(self.config.batch)
        rows, weights = (self.workers.share(t).to(self.device) for t in (batch_rows, batch_weights))
        set_learning_rate(self.optimizer, self.learning_rate())
        local, _ = self.model.loss(rows[:, :-1], rows[:, 1:], weights[:, 1:])
        local = local * (weights[:, 1:].sum() / batch_weights[:, 1:].sum().to(self.device))
        local.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss, stops = self.workers.sum_(gradients, [local.item(), float(stop)])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {self.step}: resume from the last checkpoint with a lower learning rate"
            )
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += self.config.batch * self.config.context
        rate = max(AVERAGE_RATE, 1 / (self.step + 1))
        names = list(self.average)
        parameters = dict(self.model.named_parameters())
        torch._foreach_lerp_([self.average[n] for n in names], [parameters[n].detach() for n in names], rate)
        self.seconds += time.monotonic() - started
        return loss, norm.item(), stops > 0

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Loss of the averaged weights on documents of another seed, with answers weighted as in training."""
        current = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.model.load_state_dict(self.average)
        total = torch.zeros(())
        rows, weights = self.held_out
        for part in range(0, len(rows), self.config.batch):
            r, w = (
                rows[part : part + self.config.batch].to(self.device),
                weights[part : part + self.config.batch].to(self.device),
            )
            total += self.model.loss(r[:, :-1], r[:, 1:], w[:, 1:])[0].cpu() * w[:, 1:].sum().cpu()
        self.model.load_state_dict(current)
        return (total / weights[:, 1:].sum()).item()

    def run(
        self,
        folder: Path,
        tokens: int,
        stop: Any,
        save_every_s: float = 300.0,
        log_steps: int = 20,
        held_out_steps: int = 200,
    ) -> None:
        """Trains until `tokens` in total or until stop() is true; saves every save_every_s seconds and at the end."""
        chief = self.workers.rank == 0
        progress, saved, stopping = Progress(folder, self.tokens, tokens), time.monotonic(), False
        while self.tokens < tokens and not stopping:
            loss, norm, stopping = self.train_step(stop())
            progress.see(loss)
            if chief and self.step % log_steps == 0:
                held_out = self.held_out_loss() if self.step % held_out_steps == 0 else None
                progress.show(
                    progress.line(self.step, self.tokens, lr=self.learning_rate(), grad=norm, held_out=held_out)
                )
            if chief and time.monotonic() - saved > save_every_s:
                self.save(folder)
                saved = time.monotonic()
        if chief:
            self.save(folder)
