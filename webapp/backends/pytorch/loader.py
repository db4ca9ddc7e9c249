"""Reads a model in torch from its file, tensor by tensor: :func:`load_model`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from webapp.backends.pytorch.linear import Matrix, make_matrix
from webapp.backends.pytorch.model import HALVING_LAYERS, Attention, Layer, TorchModel
from webapp.engine.backend import LoadProgress, ProgressCallback
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.adapter import AdapterChoice, open_model
from webapp.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from webapp.backends.pytorch.backend import Place

LOW_RANK_FORMAT = {"q8": "bf16", "q4": "bf16"}
"""Low-rank matrices are small; quantising them gains nothing."""
HEAD_FORMAT = {"q4": "q8"}
"""Most of the error of 4 bits comes from the head."""
HELD_BYTES = 64 * 2**20
"""Limit for the pages of the file in this process's memory while it is read."""


def load_model(
    path: str,
    config: ModelConfig,
    places: Sequence[Place],
    progress: ProgressCallback,
    adapter: AdapterChoice | None = None,
) -> TorchModel:
    """Raises WeightsError for a tensor that is missing, has another shape or is not finite; and exceptions of
    ``progress``. ``places``: for each layer and the head."""
    with open_model(path, adapter) as source:
        return _Loader(config, places, source, progress).read()


class _Loader:
    def __init__(
        self,
        config: ModelConfig,
        places: Sequence[Place],
        source: Checkpoint,
        progress: ProgressCallback,
    ) -> None:
        self._config, self._places, self._source, self._progress = config, places, source, progress
        self._sizes = {name: source.info(name).nbytes for name in source.names()}
        self._done: set[str] = set()
        self._done_bytes = self._held_bytes = 0

    def read(self) -> TorchModel:
        config, head = self._config, self._places[-1]
        embedding = self._tensor("emb.weight", (config.vocab_size, config.n_embd))
        dtype = torch.float16 if embedding.dtype == torch.float16 else torch.bfloat16
        if embedding.dtype in (torch.float32, torch.float64):
            dtype = torch.float32 if self._places[0].format == "f32" else torch.bfloat16
        model = TorchModel(
            config,
            embedding.to(dtype, copy=True).to(self._places[0].device),
            self._norm("blocks.0.ln0", 0),
            [self._layer(layer) for layer in range(config.n_layer)],
            self._norm("ln_out", config.n_layer),
            self._matrix("head.weight", config.n_layer, config.vocab_size, config.n_embd, HEAD_FORMAT.get(head.format)),
            self._initial_state(),
        )
        total = sum(self._sizes.values())
        self._progress(LoadProgress(total, total, len(self._sizes), len(self._sizes)))
        return model

    def _layer(self, layer: int) -> Layer:
        config, block = self._config, f"blocks.{layer}."
        width, hidden = config.n_embd, config.n_ffn
        ffn = f"{block}ffn."
        letters = {7: ["x_k"], 6: ["time_maa_k", "time_maa_r"]}.get(config.major, ["time_mix_k", "time_mix_r"])
        return Layer(
            self._places[layer].device,
            self._norm(f"{block}ln1", layer),
            self._norm(f"{block}ln2", layer),
            self._attention(layer, f"{block}att."),
            self._mix(ffn, letters, layer),
            self._matrix(f"{ffn}key.weight", layer, hidden, width),
            self._matrix(f"{ffn}value.weight", layer, width, hidden, factor=self._factor(layer)),
            None if config.major == 7 else self._matrix(f"{ffn}receptance.weight", layer, width, width),
        )

    def _attention(self, layer: int, att: str) -> Attention:
        config = self._config
        width, inner = config.n_embd, config.n_att
        made = Attention(
            self._matrix(f"{att}receptance.weight", layer, inner, width),
            self._matrix(f"{att}key.weight", layer, inner, width),
            self._matrix(f"{att}value.weight", layer, inner, width),
            self._matrix(f"{att}output.weight", layer, width, inner, factor=self._factor(layer)),
            self._mix(att, self._mix_names(), layer),
        )
        if config.architecture in ("5.1", "5.2", "6"):
            made.gate = self._matrix(f"{att}gate.weight", layer, inner, width)
        if config.major > 4:
            made.norm = self._norm(f"{att}ln_x", layer, inner)
        if config.major == 7:
            self._read_v7(made, layer, att)
            return made
        decay = self._vector(f"{att}time_decay", layer).double()
        bonus = self._vector(f"{att}{'time_first' if config.architecture in ('4', '5.0') else 'time_faaaa'}", layer)
        if config.major == 4:
            made.decay, made.bonus = -torch.exp(decay).float(), bonus
            return made
        bonus = torch.exp(bonus) if config.architecture == "5.0" else bonus
        made.bonus = self._by_channel(bonus, f"{att}time_faaaa").view(config.n_head, config.head_size)
        if config.major == 5:
            made.decay = self._by_channel(-torch.exp(decay).float(), f"{att}time_decay")
            return made
        made.decay = decay.float()
        self._read_low_rank(made, layer, att, {"decay": ("time_decay_w1", "time_decay_w2")})
        down, up = self._tensor(f"{att}time_maa_w1"), self._tensor(f"{att}time_maa_w2")
        rank = down.shape[-1] // 5
        if down.dim() != 2 or len(down) != width or up.shape != (5, rank, width) or down.shape[-1] != 5 * rank:
            self._misshapen(f"{att}time_maa_w2")
        assert made.down is not None and made.up is not None
        made.down["mix"] = self._made(down.t(), layer, low_rank=True)
        made.up |= {name: self._made(up[i].t(), layer, low_rank=True) for i, name in enumerate("wkvrg")}
        return made

    def _read_v7(self, made: Attention, layer: int, att: str) -> None:
        letters = "wavg" if layer else "wag"
        self._read_low_rank(made, layer, att, {letter: (f"{letter}1", f"{letter}2") for letter in letters})
        names = ("w0", "a0", "k_k", "k_a", "r_k", *(("v0",) if layer else ()))
        made.vectors = {name: self._vector(f"{att}{name}", layer, self._config.n_att) for name in names}

    def _read_low_rank(self, made: Attention, layer: int, att: str, pairs: dict[str, tuple[str, str]]) -> None:
        """Files store them as (inputs, rows)."""
        made.down, made.up = {}, {}
        for name, (first, second) in pairs.items():
            down, up = self._tensor(att + first), self._tensor(att + second)
            if down.dim() != 2 or up.dim() != 2 or down.shape[1] != len(up) or len(down) != self._config.n_embd:
                self._misshapen(att + second)
            if up.shape[1] != self._config.n_att:
                self._misshapen(att + second)
            made.down[name], made.up[name] = (self._made(part.t(), layer, low_rank=True) for part in (down, up))

    def _mix_names(self) -> list[str]:
        """In the order that the attention expects."""
        if self._config.major == 7:
            return [f"x_{letter}" for letter in "rwkvag"]
        if self._config.major == 6:
            return [f"time_maa_{letter}" for letter in "xwkvrg"]
        return [f"time_mix_{letter}" for letter in ("rkvg" if self._config.architecture in ("5.1", "5.2") else "rkv")]

    def _mix(self, prefix: str, names: list[str], layer: int) -> Tensor:
        """The factor of the previous token; RWKV-4 and 5 store that of the present one."""
        vectors = [self._vector(prefix + name, layer, self._config.n_embd) for name in names]
        mixes = torch.stack(vectors).unsqueeze(1)
        return mixes if self._config.major > 5 else 1 - mixes

    def _by_channel(self, vector: Tensor, name: str) -> Tensor:
        """RWKV-5 up to 5.1 has one value per head."""
        if vector.numel() == self._config.n_head:
            vector = vector.repeat_interleave(self._config.head_size)
        if vector.numel() != self._config.n_att:
            self._misshapen(name)
        return vector

    def _norm(self, name: str, layer: int, size: int = 0) -> tuple[Tensor, Tensor]:
        size = size or self._config.n_embd
        return self._vector(f"{name}.weight", layer, size), self._vector(f"{name}.bias", layer, size)

    def _vector(self, name: str, layer: int, size: int = 0) -> Tensor:
        vector = self._tensor(name).float().flatten()
        if size and vector.numel() != size:
            self._misshapen(name)
        return vector.to(self._places[layer].device, copy=True)

    def _matrix(
        self, name: str, layer: int, rows: int, inputs: int, format: str | None = None, factor: float = 1.0
    ) -> Matrix:
        return self._made(self._tensor(name, (rows, inputs)), layer, format, factor)

    def _made(
        self, weight: Tensor, layer: int, format: str | None = None, factor: float = 1.0, low_rank: bool = False
    ) -> Matrix:
        place = self._places[layer]
        chosen = format or place.format
        return make_matrix(weight, LOW_RANK_FORMAT.get(chosen, chosen) if low_rank else chosen, place.device, factor)

    def _factor(self, layer: int) -> float:
        return 2.0 ** (layer // HALVING_LAYERS) if self._places[layer].format == "f16" else 1.0

    def _initial_state(self) -> RecurrentState:
        config = self._config
        names = [f"blocks.{layer}.att.time_state" for layer in range(config.n_layer)]
        if config.major == 4 or not self._sizes.keys() >= set(names):
            return RecurrentState.zeros(config)
        return RecurrentState.from_time_state(
            config, torch.stack([self._tensor(name).float() for name in names]).numpy()
        )

    def _tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A view of the file. Counted; shape and values are checked."""
        if name in self._sizes and name not in self._done:
            self._progress(LoadProgress(self._done_bytes, sum(self._sizes.values()), len(self._done), len(self._sizes)))
            self._done.add(name)
            self._done_bytes += self._sizes[name]
        tensor = self._source.tensor(name)
        if shape is not None and tensor.shape != shape:
            self._misshapen(name)
        if not all(torch.isfinite(piece).all() for piece in tensor.split(4096)):
            self._refuse(Text("reason.backends.not_finite", name=name))
        self._held_bytes += tensor.nbytes
        if self._held_bytes >= HELD_BYTES:
            self._source.release()
            self._held_bytes = 0
        return tensor

    def _misshapen(self, name: str) -> NoReturn:
        self._refuse(Text("reason.backends.shape_does_not_fit", name=name))

    def _refuse(self, reason: Text) -> NoReturn:
        raise WeightsError(path=str(self._source.path), reason=reason)
