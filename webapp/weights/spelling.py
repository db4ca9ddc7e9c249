"""Converts the names, transpositions and squeezed shapes of each project's RWKV files to the official ones, from data.
Every backend gets official names and shapes, whatever the file has.

Sources: the checkpoints of BlinkDL (official); convert_rwkv_checkpoint_to_hf.py of Hugging Face (``hf``, RWKV-4 to 6)
and the RWKV-7 folders that keep the official names under ``model.`` or ``rwkv7.``; rwkv-rs' converter for
transformers (``rwkv-rs``: squeezed vectors); convert_from_rwkv7.py of flash-linear-attention (``fla``: low-rank
matrices transposed, vectors squeezed, no value residual in layer 0); convert_safetensors.py of RWKV-Runner
(``web-rwkv``: names of v5 and v6, low-rank matrices and states transposed, v5.1's decay and bonus repeated for each
channel).

There are three steps: removing prefixes of trainers and wrappers (:data:`WRAPPERS`), replacing the spelling's words
with the official ones (:data:`SPELLINGS`), and changing shapes to the official ones. All of them change only the table
of contents: a transposed tensor is the same bytes with other strides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from webapp.weights.tensor_info import ZEROS, FileContents, StoredTensor, TensorInfo, contiguous_strides

LAYOUT_KEY = "roost.layout"
"""In a safetensors header: ``web-rwkv`` if Roost wrote that layout; some models' tensors do not show it."""
ARCHITECTURE_KEY = "roost.architecture"
OFFICIAL, WEB_RWKV, HF = "official", "web-rwkv", "hf"

WRAPPERS = re.compile(r"^(?:(?:_forward_module|_orig_mod|module|base_model\.model|model|rwkv7?)\.)+")
HF_WRAPPER = re.compile(r"(?:model|rwkv7?)\.")


class Spelling(Struct, frozen=True):
    """``sign``: the beginning of a name that only this spelling has. ``words``: patterns and their official
    replacements, in order. ``is_turned``: low-rank matrices are transposed if their shape does not tell."""

    name: str
    sign: re.Pattern[str]
    words: tuple[tuple[re.Pattern[str], str], ...]
    is_turned: bool = False


def _words(*rows: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), official) for pattern, official in rows)


_LAYERS = (r"^layers\.", "blocks.")
_ENDS = ((r"^lm_head\.", "head."), (r"^norm\.", "ln_out."), (r"^(embeddings|embed_tokens)\.", "emb."))
_PROJECTIONS = (
    (r"\.att\.r_proj\b", ".att.receptance"),
    (r"\.att\.k_proj\b", ".att.key"),
    (r"\.att\.v_proj\b", ".att.value"),
    (r"\.att\.o_proj\b", ".att.output"),
    (r"\.att\.g_norm\b", ".att.ln_x"),
)
_LONG_MIXES = tuple(
    (rf"\.time_(mix|maa)_{word}$", rf".time_\1_{word[0]}") for word in ("key", "value", "receptance", "gate")
)
_ADAPTERS = ((r"\.lora_[Aa](\.default)?(\.weight)?$", ".lora_A"), (r"\.lora_[Bb](\.default)?(\.weight)?$", ".lora_B"))

SPELLINGS = (
    Spelling(
        "fla",
        re.compile(r"layers\.[0-9]+\.attn\."),
        _words(
            *_ENDS,
            _LAYERS,
            (r"^blocks\.0\.pre_norm\.", "blocks.0.ln0."),
            (r"\.attn_norm\.", ".ln1."),
            (r"\.ffn_norm\.", ".ln2."),
            (r"\.attn\.", ".att."),
            *_PROJECTIONS,
            (r"\.([wavg])_lora\.lora\.0\.weight$", r".\g<1>1"),
            (r"\.([wavg])_lora\.lora\.2\.weight$", r".\g<1>2"),
            (r"\.([wavg])_lora\.lora\.2\.bias$", r".\g<1>0"),
            *_ADAPTERS,
        ),
        is_turned=True,
    ),
    Spelling(
        "rwkv-rs",
        re.compile(r"layers\.[0-9]+\.linear_attn\."),
        _words(
            *_ENDS,
            _LAYERS,
            (r"^embedding_norm\.", "blocks.0.ln0."),
            (r"\.input_layernorm\.", ".ln1."),
            (r"\.post_attention_layernorm\.", ".ln2."),
            (r"\.linear_attn\.", ".att."),
            (r"\.mlp\.", ".ffn."),
            *_PROJECTIONS,
            *_ADAPTERS,
        ),
    ),
    Spelling(
        HF,
        re.compile(r"blocks\.[0-9]+\.(attention|feed_forward)\."),
        _words(
            *_ENDS,
            (r"^blocks\.0\.pre_ln\.", "blocks.0.ln0."),
            (r"\.attention\.", ".att."),
            (r"\.feed_forward\.", ".ffn."),
            *_LONG_MIXES,
            *_ADAPTERS,
        ),
    ),
    Spelling(
        OFFICIAL,
        re.compile(""),
        _words(*_ENDS[2:], *_ADAPTERS, (r"(?<!_lora)\.lora\.0$", ".lora_A"), (r"(?<!_lora)\.lora\.1$", ".lora_B")),
    ),
)

# Official shapes: vectors with one number per channel are (1, 1, n_embd); low-rank matrices are (n_embd, rank) and
# back.
WIDE_VECTOR = re.compile(r"\.(x_[rwkvag]|[wav]0|k_k|k_a|time_(mix|maa)_[xwkvrg])$")
LOW_RANK = re.compile(r"\.att\.[wavg]([12])$")
HEADS_AND_SIZE = re.compile(r"\.att\.r_k$")
HEAD_SIZE = 64  # of every released RWKV-7; used if r_k was flattened
STATE = re.compile(r"blocks\.[0-9]{1,6}\.att\.time_state")
FIRST_VALUES = ("v0", "v1", "v2")

# web-rwkv's names, and the tensors that it transposes. It names v6's shifts like v5's, and the bonus of v5.1 and later
# like v5.0's.
WEB_TURNED = re.compile(r"\.(time_mix_w[12]|time_decay_w[12]|[wagv][12]|time_state)$")
WEB_LORA_A = re.compile(r"(?<!_lora)\.lora\.0$")
PER_HEAD = re.compile(r"\.att\.(time_decay|time_faaaa)$")


class WebSpelling(Struct, frozen=True):
    """How web-rwkv stores a tensor. ``is_turned``: with the last two dimensions exchanged; ``is_repeated``: v5.1's (H,)
    as (H, N)."""

    stored_name: str
    is_turned: bool = False
    is_repeated: bool = False


def web_rwkv_spelling(name: str, architecture: str) -> WebSpelling:
    """For the tensor with this official name."""
    stored = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix").lower()
    is_repeated = architecture == "5.1" and PER_HEAD.search(name) is not None
    return WebSpelling(stored, WEB_TURNED.search(stored) is not None, is_repeated)


def in_official_spelling(contents: FileContents) -> FileContents:
    """The same tensors with official names and shapes. A file converted by the rwkv package for one strategy, and a
    format without readable tensors, are not changed."""
    if "_strategy" in contents.metadata or not contents.tensors:
        return contents
    spelling, names = _official_names(contents)
    tensors = {new: _renamed(contents.tensors[old], new) for old, new in names.items()}
    tensors |= {new: _turned(tensors[new]) for old, new in names.items() if WEB_LORA_A.search(old)}
    found = spelling.name
    if found == OFFICIAL and _is_web_rwkv(tensors, contents.metadata):
        found, tensors = WEB_RWKV, _from_web_rwkv(tensors, contents.metadata)
    else:
        if found == OFFICIAL and any(map(HF_WRAPPER.match, names)):
            found = HF
        if found != OFFICIAL:
            tensors = {name: _reshaped(name, stored, tensors, spelling) for name, stored in tensors.items()}
            tensors |= _missing_first_values(tensors)
    tensors = {name: _without_batch(name, stored) for name, stored in tensors.items()}
    tensors |= _tied_head(tensors)
    is_published = contents.is_published_form and found == OFFICIAL and tensors == dict(contents.tensors)
    return replace(contents, tensors=tensors, spelling=found, is_published_form=is_published)


def _official_names(contents: FileContents) -> tuple[Spelling, dict[str, str]]:
    """Stored name to official name. Two tensors that would get the same name keep theirs, because it is unknown which
    one is right."""
    bare = {name: WRAPPERS.sub("", name, count=1) for name in contents.tensors}
    spelling = next(one for one in SPELLINGS if any(map(one.sign.match, bare.values())))
    names = {}
    for stored, name in bare.items():
        for pattern, official in spelling.words:
            name = pattern.sub(official, name)
        names[stored] = name
    counts = Counter(names.values())
    return spelling, {stored: name if counts[name] == 1 else stored for stored, name in names.items()}


def _renamed(stored: StoredTensor, name: str) -> StoredTensor:
    return stored if stored.info.name == name else stored.viewed(name, stored.info.shape, stored.strides)


def _reshaped(name: str, stored: StoredTensor, tensors: Mapping[str, StoredTensor], spelling: Spelling) -> StoredTensor:
    shape, strides = stored.info.shape, stored.strides
    if len(shape) == 1 and HEADS_AND_SIZE.search(name) and shape[0] % HEAD_SIZE == 0 and stored.is_contiguous:
        shape = (shape[0] // HEAD_SIZE, HEAD_SIZE)
        return stored.viewed(name, shape, contiguous_strides(shape))
    is_wide = WIDE_VECTOR.search(name) or (name.endswith(".time_decay") and "blocks.0.att.time_maa_x" in tensors)
    if is_wide and shape and stored.info.numel == shape[-1]:
        step = strides[-1]
        return stored.viewed(name, (1, 1, shape[-1]), (shape[-1] * step, shape[-1] * step, step))
    low_rank = LOW_RANK.search(name)
    if low_rank and len(shape) == 2 and "emb.weight" in tensors:
        width = tensors["emb.weight"].info.shape[-1]
        where, other = (0, 1) if low_rank[1] == "1" else (1, 0)
        is_turned = spelling.is_turned if shape[0] == shape[1] else shape[where] != width == shape[other]
        return _turned(stored) if is_turned else stored
    return stored


def _turned(stored: StoredTensor) -> StoredTensor:
    """Transposes the last two dimensions. A tensor with fewer is unchanged; its shape is refused later."""
    shape, strides = stored.info.shape, stored.strides
    if len(shape) < 2:
        return stored
    shape, strides = ((*order[:-2], order[-1], order[-2]) for order in (shape, strides))
    return stored.viewed(stored.info.name, shape, strides, turned=True)


def _without_batch(name: str, stored: StoredTensor) -> StoredTensor:
    """Removes the batch dimension of a state that was saved as a batch of one."""
    shape = stored.info.shape
    if len(shape) == 4 and shape[0] == 1 and STATE.fullmatch(name):
        return stored.viewed(name, shape[1:], stored.strides[1:])
    return stored


def _missing_first_values(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """RWKV-7's value residual of layer 0, which is never used and sometimes left out: zeros, of the size of layer
    1's."""
    found = {}
    for part in FIRST_VALUES:
        name, model = f"blocks.0.att.{part}", tensors.get(f"blocks.1.att.{part}")
        if model is not None and name not in tensors:
            shape = model.info.shape
            info = TensorInfo(name, shape, model.info.dtype)
            found[name] = StoredTensor(info, 0, contiguous_strides(shape), info.nbytes, ZEROS)
    return found


def _tied_head(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Programs that store shared tensors once leave out the head: it is the embedding."""
    if "head.weight" in tensors or "ln_out.weight" not in tensors or "emb.weight" not in tensors:
        return {}
    return {"head.weight": _renamed(tensors["emb.weight"], "head.weight")}


def _is_web_rwkv(tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> bool:
    if metadata.get(LAYOUT_KEY) == WEB_RWKV:
        return True
    att = "blocks.0.att."
    if f"{att}r_k" in tensors:  # v7 keeps its names; only the transposition shows it
        down, embedding = tensors.get(f"{att}w1"), tensors.get("emb.weight")
        shape = down.info.shape if down else ()
        return embedding is not None and len(shape) == 2 and shape[1] == embedding.info.shape[-1] != shape[0]
    return f"{att}time_first" in tensors and (f"{att}time_mix_x" in tensors or f"{att}gate.weight" in tensors)


def _from_web_rwkv(tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> dict[str, StoredTensor]:
    marked = metadata.get(ARCHITECTURE_KEY, "")
    is_v6 = marked == "6" or "blocks.0.att.time_mix_x" in tensors
    has_own_bonus = is_v6 or marked in ("5.1", "5.2") or "blocks.0.att.gate.weight" in tensors
    found = {}
    for stored_name, stored in tensors.items():
        name = stored_name.replace("time_mix_", "time_maa_") if is_v6 else stored_name
        name = name.replace("time_first", "time_faaaa") if has_own_bonus else name
        if WEB_TURNED.search(stored_name):
            stored = _turned(stored)
        if marked == "5.1" and PER_HEAD.search(name) and len(stored.info.shape) == 2:
            stored = stored.viewed(name, stored.info.shape[:1], stored.strides[:1], turned=True)
        found[name] = _renamed(stored, name)
    return found
