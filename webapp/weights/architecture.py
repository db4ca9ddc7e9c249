"""Identifies the tensors of a file: an RWKV model with its version and size, a state, an adapter, or something else.

Names and shapes are already the official ones (:mod:`.spelling`). Versions are distinguished as in the ``rwkv`` package
0.8.32 (model.py, ``RWKV.__init__``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct

from webapp.engine.state import ModelConfig
from webapp.i18n import Text
from webapp.weights.spelling import STATE
from webapp.weights.tensor_info import TensorInfo

STATE_NAME = STATE
LAYER_NAME = re.compile(r"blocks\.([0-9]{1,6})\.")
ADAPTERS = {
    "lora": re.compile(r"\.lora_[AB]$"),
    "pissa-init": re.compile(r"\.init_lora_[AB]$"),
    "bone": re.compile(r"\.(bone|disha)$"),
}
"""Tensors that a fine-tuning adds to a matrix, by the suffixes of their names."""
WHOLE_MODEL = "model"
ADAPTER_NAMES = {
    "lora": "reason.weights.lora",
    "pissa-init": "reason.weights.adapter_pissa_init",
    "bone": "reason.weights.adapter_bone",
    WHOLE_MODEL: "reason.weights.model_and_adapter",
}
FULL_STATE_NAME = re.compile(r"blocks\.[0-9]{1,6}\.(att|ffn)\.x_prev")
"""The last token's activations for the next shift: with ``time_state`` in a state saved by the rwkv package."""
INT8_SCALES = ("_mx", "_rx", "_my", "_ry")

# Models that no engine here can run, by a tensor that only such a model has.
UNSUPPORTED = (
    (re.compile(r"blocks\.[0-9]+\.qkv\."), "reason.weights.is_rwkv_7b"),
    (re.compile(r"blocks\.[0-9]+\.ffn\.s_emb\.weight"), "reason.weights.is_rwkv_7a"),
    (re.compile(r"blocks\.[0-9]+\.ffn\.enn\.weight"), "reason.weights.is_rwkv_8"),
    # flash-linear-attention's RWKV-6 (fla/layers/rwkv6.py) is more than a renaming; no file of it is known.
    (re.compile(r"blocks\.[0-9]+\.att\.(x_bias|bonus)$"), "reason.weights.is_rwkv_6_of_fla"),
)

# Vocabulary sizes of the released models (RWKV-Runner chooses the tokenizer by them, too); 256 is bytes, for tests.
# World has 65,529 tokens and no padding in some conversions.
TOKENIZERS = {65536: "world", 65530: "world", 65529: "world", 50277: "20b", 256: "byte", 128: "abc"}
TOKENIZERS |= {2176: "midi-piano", 20096: "midi"}
MUSIC = ("abc", "midi-piano", "midi")


class Description(Struct, frozen=True):
    """``reason`` says why ``kind`` is ``unknown``, or what is unusual about an adapter; otherwise empty. ``config`` is
    None unless it is a model. ``adapter``: the key in :data:`ADAPTERS` for its kind, or :data:`WHOLE_MODEL` if the
    matrices that it changes are in the file too."""

    kind: str
    config: ModelConfig | None = None
    adapter: str = ""
    tokenizer: str | None = None
    reason: Text | str = ""


class _NotRwkv(Exception):
    """Says what is missing for an RWKV model."""


def describe(tensors: Mapping[str, TensorInfo], is_converted: bool = False) -> Description:
    """``is_converted``: written by the rwkv package for one strategy, with its large matrices transposed."""
    if not tensors:
        return Description("unknown", reason=Text("reason.weights.holds_no_tensors"))
    if any(map(STATE_NAME.fullmatch, tensors)) and all(
        STATE_NAME.fullmatch(name) or FULL_STATE_NAME.fullmatch(name) for name in tensors
    ):
        return Description("state")
    adapter = next((kind for kind, ends in ADAPTERS.items() if any(map(ends.search, tensors))), "")
    if adapter:
        rest = without_adapters(tensors)
        is_whole = describe(rest, is_converted).config is not None if rest else False
        found = WHOLE_MODEL if is_whole else adapter
        return Description("lora", adapter=found, reason=Text(ADAPTER_NAMES[found]))
    if "emb.weight" not in tensors and any(map(STATE_NAME.fullmatch, tensors)):
        stray = next(name for name in tensors if not STATE_NAME.fullmatch(name))
        return Description("unknown", reason=Text("reason.weights.state_and_stray", name=stray))
    try:
        config = _Shapes(tensors, is_converted).config()
    except _NotRwkv as exc:
        return Description("unknown", reason=exc.args[0])
    tokenizer = tokenizer_for(config.vocab_size)
    kind = "music" if tokenizer in MUSIC else "model"
    return Description(kind, config, tokenizer=tokenizer)


def without_adapters(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of the model, or those that an adapter's training stored as a whole."""
    return {name: info for name, info in tensors.items() if not any(ends.search(name) for ends in ADAPTERS.values())}


def tokenizer_for(vocab_size: int) -> str:
    """A name in :data:`TOKENIZERS`, or ``custom``."""
    return TOKENIZERS.get(vocab_size, "custom")


def dominant_dtype(tensors: Iterable[TensorInfo]) -> str:
    """The dtype of most elements; empty without tensors."""
    counts: Counter[str] = Counter()
    for info in tensors:
        counts[info.dtype] += info.numel
    return counts.most_common(1)[0][0] if counts else ""


def parameter_count(tensors: Iterable[TensorInfo]) -> int:
    """Elements of all tensors, without the scales that int8 adds."""
    return sum(info.numel for info in tensors if not info.name.endswith(INT8_SCALES))


class _Shapes:
    def __init__(self, tensors: Mapping[str, TensorInfo], is_converted: bool) -> None:
        self._tensors = tensors
        self._is_converted = is_converted

    def config(self) -> ModelConfig:
        for sign, key in UNSUPPORTED:
            if any(map(sign.match, self._tensors)):
                raise _NotRwkv(Text(key))
        vocab_size, n_embd = self._matrix("emb.weight")
        if (
            not self._is_converted
            and "blocks.0.ln0.weight" not in self._tensors
            and "blocks.0.ln1.weight" in self._tensors
        ):
            raise _NotRwkv(Text("reason.weights.folded_norm"))
        self._shape("head.weight")
        n_att = self._out_features("blocks.0.att.key.weight")
        architecture = self._architecture()
        n_head, head_size = self._heads(architecture, n_att)
        if architecture != "4" and n_head * head_size != n_att:
            params = {"heads": n_head, "size": head_size, "width": n_att}
            raise _NotRwkv(Text("reason.weights.heads_do_not_fit", **params))
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
        if f"{att}time_maa_x" in self._tensors:
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
            # The rwkv package's converted files use its name from v5.0.
            return self._matrix(f"{att}time_first" if f"{att}time_first" in self._tensors else f"{att}time_faaaa")
        if architecture == "5.2":
            return self._matrix(f"{att}time_decay")
        n_head = self._shape(f"{att}time_decay")[0]
        return n_head, n_att // max(n_head, 1)

    def _n_layer(self) -> int:
        layers = {int(match[1]) for match in map(LAYER_NAME.match, self._tensors) if match}
        for layer in range(max(layers) + 1):
            needed = (f"blocks.{layer}.att.key.weight", f"blocks.{layer}.ffn.value.weight")
            stray = next((name for name in self._tensors if name.startswith(f"blocks.{layer}.")), None)
            if stray is not None and not any(name in self._tensors for name in needed):
                raise _NotRwkv(Text("reason.weights.layer_is_nearly_empty", layer=layer, name=stray))
            for name in needed:
                self._shape(name)
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
        if name == "emb.weight" and any(map(FOREIGN.search, self._tensors)):
            return Text("reason.weights.hugging_face_names")
        return Text("reason.weights.tensor_is_missing", name=name)


FOREIGN = re.compile(r"^(model|transformer|encoder|decoder)\.|layers\.[0-9]+\.|self_attn")
"""Names in Hugging Face files of other models."""
