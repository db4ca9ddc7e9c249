"""What the tensors of a file make: an RWKV model of which version and size, a state, a LoRA, or something else.

Versions are told apart as the ``rwkv`` package 0.8.32 does (model.py, ``RWKV.__init__``), and also in the naming of
web-rwkv's ``.st`` files (RWKV-Runner's convert_safetensors.py), which renames ``time_faaaa`` to ``time_first`` and
``time_maa`` to ``time_mix`` and transposes small matrices, none of which hold a size that is read here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from webapp.engine.state import ModelConfig
from webapp.i18n import Text
from webapp.weights.tensor_info import TensorInfo

STATE_NAME = re.compile(r"blocks\.([0-9]{1,6})\.att\.time_state")
LAYER_NAME = re.compile(r"blocks\.([0-9]{1,6})\.")
LORA_NAME = re.compile(r"lora[_.][AB01]\b")
INT8_SCALES = ("_mx", "_rx", "_my", "_ry")

# Vocabulary sizes of the released models (RWKV-Runner chooses the tokenizer by them, too); 256 is bytes, for tests.
TOKENIZERS = {65536: "world", 50277: "20b", 256: "byte", 128: "abc", 2176: "midi-piano", 20096: "midi"}
MUSIC = ("abc", "midi-piano", "midi")


@dataclass(frozen=True)
class Description:
    """``reason`` says why ``kind`` is ``unknown``; empty otherwise. ``config`` is None unless it is a model."""

    kind: str
    config: ModelConfig | None = None
    naming: str = "official"
    tokenizer: str | None = None
    reason: Text | str = ""


class _NotRwkv(Exception):
    """Says what is missing for an RWKV model."""


def describe(tensors: Mapping[str, TensorInfo], is_converted: bool = False) -> Description:
    """``is_converted``: written by the rwkv package for one strategy, with its large matrices transposed."""
    if not tensors:
        return Description("unknown", reason=Text("reason.weights.holds_no_tensors"))
    if all(STATE_NAME.fullmatch(name) for name in tensors):
        return Description("state")
    if any(LORA_NAME.search(name) for name in tensors):
        return Description("lora")
    try:
        config = _Shapes(tensors, is_converted).config()
    except _NotRwkv as exc:
        return Description("unknown", reason=exc.args[0])
    tokenizer = tokenizer_for(config.vocab_size)
    kind = "music" if tokenizer in MUSIC else "model"
    naming = "official" if is_converted else _naming(tensors, config)
    return Description(kind, config, naming, tokenizer)


def tokenizer_for(vocab_size: int) -> str:
    """One of the names of :data:`TOKENIZERS`, or ``custom``."""
    return TOKENIZERS.get(vocab_size, "custom")


def dominant_dtype(tensors: Iterable[TensorInfo]) -> str:
    """The dtype most elements have; empty without tensors."""
    counts: Counter[str] = Counter()
    for info in tensors:
        counts[info.dtype] += info.numel
    return counts.most_common(1)[0][0] if counts else ""


def parameter_count(tensors: Iterable[TensorInfo]) -> int:
    """Elements of all tensors, without the scales that int8 adds."""
    return sum(info.numel for info in tensors if not info.name.endswith(INT8_SCALES))


def _naming(tensors: Mapping[str, TensorInfo], config: ModelConfig) -> str:
    att = "blocks.0.att."
    renamed = f"{att}time_first" in tensors if config.architecture in ("5.2", "6") else False
    # v7 keeps its names; only the transpose tells. w1 is (n_embd, rank) in the official file.
    w1 = tensors.get(f"{att}w1")
    shape = w1.shape if config.architecture == "7" and w1 is not None else ()
    transposed = len(shape) > 1 and shape[-1] == config.n_embd != shape[0]
    return "web-rwkv" if renamed or transposed else "official"


class _Shapes:
    def __init__(self, tensors: Mapping[str, TensorInfo], is_converted: bool) -> None:
        self._tensors = tensors
        self._is_converted = is_converted

    def config(self) -> ModelConfig:
        vocab_size, n_embd = self._matrix("emb.weight")
        self._shape("head.weight")
        n_att = self._out_features("blocks.0.att.key.weight")
        architecture = self._architecture()
        n_head, head_size = self._heads(architecture, n_att)
        if architecture != "4" and n_head * head_size != n_att:
            told = {"heads": n_head, "size": head_size, "width": n_att}
            raise _NotRwkv(Text("reason.weights.heads_do_not_fit", **told))
        return ModelConfig(
            architecture=architecture,
            n_layer=self._n_layer(),
            n_embd=n_embd,
            n_att=n_att,
            n_ffn=self._out_features("blocks.0.ffn.key.weight"),
            n_head=n_head,
            head_size=head_size,
            vocab_size=vocab_size,
        )

    def _architecture(self) -> str:
        att = "blocks.0.att."
        if f"{att}r_k" in self._tensors:
            return "7"
        if f"{att}time_maa_x" in self._tensors or f"{att}time_mix_x" in self._tensors:
            return "6"
        decay = self._shape(f"{att}time_decay")
        if f"{att}ln_x.weight" not in self._tensors:
            return "4"
        if len(decay) > 1 and decay[1] > 1:
            return "5.2"
        return "5.1" if f"{att}gate.weight" in self._tensors else "5.0"

    def _heads(self, architecture: str, n_att: int) -> tuple[int, int]:
        """``(n_head, head_size)``; zeros for RWKV-4, which has none."""
        att = "blocks.0.att."
        if architecture == "4":
            return 0, 0
        if architecture == "7":
            return self._matrix(f"{att}r_k")
        if architecture == "6":
            first = f"{att}time_first" if f"{att}time_first" in self._tensors else f"{att}time_faaaa"
            return self._matrix(first)
        if architecture == "5.2":
            return self._matrix(f"{att}time_decay")
        n_head = self._shape(f"{att}time_decay")[0]
        return n_head, n_att // max(n_head, 1)

    def _n_layer(self) -> int:
        layers = {int(match[1]) for match in map(LAYER_NAME.match, self._tensors) if match}
        for layer in range(max(layers) + 1):
            self._shape(f"blocks.{layer}.att.key.weight")
            self._shape(f"blocks.{layer}.ffn.value.weight")
        return max(layers) + 1

    def _out_features(self, name: str) -> int:
        rows, columns = self._matrix(name)
        return columns if self._is_converted else rows

    def _matrix(self, name: str) -> tuple[int, int]:
        """First two sizes; a converted file keeps a third of 1."""
        shape = self._shape(name)
        if len(shape) < 2:
            raise _NotRwkv(Text("reason.common.is_not_a_matrix", name=name))
        return shape[0], shape[1]

    def _shape(self, name: str) -> tuple[int, ...]:
        info = self._tensors.get(name)
        if info is None:
            raise _NotRwkv(self._why_missing(name))
        if not info.shape:
            raise _NotRwkv(Text("reason.weights.is_a_single_number", name=name))
        return info.shape

    def _why_missing(self, name: str) -> Text:
        if any(other.startswith(("rwkv.", "model.")) for other in self._tensors):
            return Text("reason.weights.tensors_have_the_names_of_hugging")
        return Text("reason.weights.tensor_is_missing", name=name)
