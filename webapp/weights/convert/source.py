"""The model that a conversion reads, as blocks of rows under the official names, through one small buffer; and the
plans of the targets that keep its tensors: .pth, .st and the folder for transformers. :mod:`.ggml` has both for ggml.

The file is read, not mapped: mapped pages count as this process's memory, and a conversion reads all of them.

.pth is the published form: official names and orientation, every tensor in its precision. .st is for web-rwkv (and so
WebGPU): fp16, its names, small matrices transposed. An hf folder is as from rwkv-rs' converter for transformers:
official names and shapes under ``model.``, and the sizes in config.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.engine.state import ModelConfig
from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.adapter import BLOCK_BYTES, FLOATS, Adapter, AdapterChoice
from webapp.weights.architecture import WHOLE_MODEL, without_adapters
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.convert.plan import ConversionOptions, Plan, PlannedTensor
from webapp.weights.file_format import CHAT_TEMPLATE, CONFIG, GENERATION
from webapp.weights.inspection import inspect, require_model
from webapp.weights.spelling import ARCHITECTURE_KEY, LAYOUT_KEY, WEB_RWKV, WebSpelling, web_rwkv_spelling
from webapp.weights.tensor_info import ITEM_BYTES, ZEROS, TensorInfo

if TYPE_CHECKING:
    import torch


class Source:
    """A context manager. Raises errors of :func:`inspect`, ``not_a_model``, ``conversion_refused`` for a converted
    file, and errors of :class:`Adapter`.

    ``adapter``: the model reads as if the adapter had been trained into it; each tensor keeps its precision.
    ``without_adapter``: only the model, without the LoRA tensors in the same file."""

    _adapter: Adapter | None = None
    _has_effect = False

    def __init__(
        self, path: str | Path, target: str, without_adapter: bool = False, adapter: AdapterChoice | None = None
    ) -> None:
        self.path = Path(path)
        if adapter is not None and self.path.resolve() == Path(adapter.path).resolve():
            without_adapter = inspect(self.path).adapter == WHOLE_MODEL
        self.inspection = inspect(self.path, without_adapter=without_adapter)
        self.config: ModelConfig = require_model(self.inspection)
        self.is_changed = without_adapter or adapter is not None
        """True if the tensors are not all of the file's, or have other values."""
        _check_is_raw(self, target)
        self._files: list[FileIO] = []
        self._checkpoint = open_checkpoint(self.path)
        infos = {name: self._checkpoint.info(name) for name in self._checkpoint.names()}
        self.infos: dict[str, TensorInfo] = without_adapters(infos) if without_adapter else infos
        try:
            _check_floats(self, target)
            if adapter is not None:
                self._adapter = Adapter(adapter)
                self._adapter.check(self.infos)
            self._files.extend(path.open("rb", buffering=0) for path in self._checkpoint.paths)
        except BaseException:
            self.close()
            raise

    @property
    def architecture(self) -> str:
        return self.config.architecture

    def changed_names(self) -> set[str]:
        """Tensors that differ from those of the file."""
        return {*self._adapter.changed, *self._adapter.replaced} if self._adapter is not None else set()

    def check_effect(self) -> None:
        """Raises ``lora_mismatch`` if all was read and the adapter changed no value."""
        if self._adapter is not None:
            self._adapter.check_effect(self._has_effect)

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Consecutive rows (of the first dimension); a vector is one block. ConversionError for NaN and infinity."""
        for block in self._raw_blocks(name, BLOCK_BYTES):
            check_finite(block, name)
            yield block

    def whole(self, name: str) -> torch.Tensor:
        """For small tensors."""
        import torch

        blocks = list(self.blocks(name))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def close(self) -> None:
        if self._adapter is not None:
            self._adapter.close()
        for file in self._files:
            file.close()
        self._checkpoint.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raw_blocks(self, name: str, block_bytes: int) -> Iterator[torch.Tensor]:
        """Does not check the file's values for NaN."""
        adapter = self._adapter
        if adapter is None or not (name in adapter.changed or name in adapter.replaced):
            yield from self._file_blocks(name, block_bytes)
            return
        import torch

        start, info = 0, self.infos[name]
        own = torch.from_numpy(adapter.array(name).copy()) if name in adapter.replaced else None
        if own is None:
            block_bytes = adapter.block_rows(info) * (info.nbytes // max(info.shape[0], 1))
        for block in self._file_blocks(name, block_bytes):
            if own is not None:
                changed = own[start : start + len(block)] if own.dim() > 1 else own
            else:
                changed = torch.from_numpy(adapter.apply(name, start, block.float().numpy()))
            start += len(block)
            merged = changed.to(block.dtype)
            check_finite(merged, name)
            self._has_effect = self._has_effect or not torch.equal(block, merged)
            yield merged

    def _file_blocks(self, name: str, block_bytes: int) -> Iterator[torch.Tensor]:
        stored = self._checkpoint.stored(name)
        if stored.file == ZEROS or not stored.is_contiguous or not stored.info.numel:
            yield self._checkpoint.tensor(name).contiguous().clone()
            return
        import torch

        shape = stored.info.shape
        n_rows = shape[0] if len(shape) > 1 else 1
        row_bytes = stored.info.nbytes // max(n_rows, 1)
        step = max(1, block_bytes // max(row_bytes, 1))
        dtype = getattr(torch, stored.info.dtype)
        for start in range(0, n_rows, step):
            count = min(step, n_rows - start)
            data = self._read(self._files[stored.file], stored.offset + start * row_bytes, count * row_bytes)
            block_shape = (count, *shape[1:]) if len(shape) > 1 else shape
            yield torch.frombuffer(data, dtype=dtype).view(block_shape)

    def _read(self, file: FileIO, offset: int, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        file.seek(offset)
        done = 0
        while done < count:
            read = file.readinto(view[done:])
            if not read:
                reason = Text("reason.weights.changed_while_read", path=str(self.path))
                raise ConversionError(reason=reason)
            done += read
        return data


def check_finite(block: torch.Tensor, name: str, became: str = "") -> None:
    """Raises ConversionError if a value is NaN or infinite; ``became``: the precision that caused it."""
    import torch

    if bool(torch.isfinite(block).all()):
        return
    if became:
        reason = Text("reason.weights.values_out_of_range", name=name, type=became)
    else:
        reason = Text("reason.weights.values_not_finite", name=name)
    raise ConversionError(reason=reason)


def cast(block: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """Converts to another precision. Raises ConversionError if a value does not fit."""
    import torch

    wanted = getattr(torch, dtype)
    if block.dtype == wanted:
        return block
    out = block.to(wanted)
    if ITEM_BYTES[dtype] < 4:
        check_finite(out, name, dtype)
    return out


def _check_is_raw(source: Source, target: str) -> None:
    strategy = source.inspection.converted_strategy
    if strategy is not None:
        reason = Text("reason.weights.converted_already", strategy=strategy)
        raise ConversionError.refused(source.path.name, target, reason, Text("reason.weights.convert_original"))


def _check_floats(source: Source, target: str) -> None:
    for info in source.infos.values():
        if info.dtype not in FLOATS:
            reason = Text("reason.common.tensor_has_type", name=info.name, type=info.dtype)
            way_out = Text("reason.weights.convert_full_precision")
            raise ConversionError.refused(source.path.name, target, reason, way_out)


def plan_pth(source: Source, options: ConversionOptions) -> Plan:
    if source.inspection.format == "pth" and source.inspection.is_published_form and not source.is_changed:
        reason = Text("reason.weights.pth_already")
        raise ConversionError.refused(source.path.name, "pth", reason, Text("reason.weights.use_it_as_it_is"))
    return Plan("pth", [PlannedTensor(info, partial(source.blocks, name)) for name, info in source.infos.items()])


WEB_DTYPE = "float16"  # web-rwkv supports nothing else


def plan_st(source: Source, options: ConversionOptions) -> Plan:
    """``format: pt`` as from web-rwkv's own converters; Roost's marks make the reverse conversion exact."""
    if source.inspection.naming == WEB_RWKV and not source.is_changed:
        reason = Text("reason.weights.has_web_rwkv_names")
        raise ConversionError.refused(source.path.name, "st", reason, Text("reason.weights.use_it_as_it_is"))
    tensors = [_planned_st(source, name) for name in source.infos]
    marks = {"format": "pt", LAYOUT_KEY: WEB_RWKV, ARCHITECTURE_KEY: source.config.architecture}
    return Plan("safetensors", tensors, marks | kept_marks(source))


def kept_marks(source: Source) -> dict[str, str]:
    """Keeps the data that Roost's training wrote into the header (the tokens it saw)."""
    ours = {name: text for name, text in source.inspection.metadata.items() if name.startswith("roost.")}
    return {name: text for name, text in ours.items() if name not in (LAYOUT_KEY, ARCHITECTURE_KEY)}


def _planned_st(source: Source, name: str) -> PlannedTensor:
    spelling = web_rwkv_spelling(name, source.config.architecture)
    info = TensorInfo(spelling.stored_name, _shape_st(source, name, spelling), WEB_DTYPE)
    return PlannedTensor(info, lambda: _blocks_st(source, name, spelling))


def _shape_st(source: Source, name: str, spelling: WebSpelling) -> tuple[int, ...]:
    shape = source.infos[name].shape
    if spelling.is_turned:
        return (*shape[:-2], shape[-1], shape[-2])
    return (shape[0], _head_size(source)) if spelling.is_repeated else shape


def _head_size(source: Source) -> int:
    return source.config.n_att // source.config.n_head


def _blocks_st(source: Source, name: str, spelling: WebSpelling) -> Iterator[torch.Tensor]:
    if spelling.is_turned:
        yield cast(source.whole(name), WEB_DTYPE, name).transpose(-1, -2)
    elif spelling.is_repeated:
        yield cast(source.whole(name), WEB_DTYPE, name).unsqueeze(1).repeat(1, _head_size(source))
    else:
        for block in source.blocks(name):
            yield cast(block, WEB_DTYPE, name)


HF_PREFIX = "model."
HF_BARE = ("head.weight",)
RANKS = {"decay": "w", "a": "a", "v": "v", "gate": "g"}
SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", CHAT_TEMPLATE, GENERATION)


def plan_hf(source: Source, options: ConversionOptions) -> Plan:
    """The tensors of the official file; tokenizer, template and sampling of a source folder are copied."""
    tensors = []
    for name in source.infos:
        info = source.infos[name]
        stored = name if name in HF_BARE else HF_PREFIX + name
        tensors.append(PlannedTensor(TensorInfo(stored, info.shape, info.dtype), partial(source.blocks, name)))
    copies = [source.path / name for name in SIDE_FILES] if source.path.is_dir() else []
    marks = {"format": "pt"} | kept_marks(source)
    return Plan("folder", tensors, marks, {CONFIG: _hf_config(source)}, [path for path in copies if path.is_file()])


def _hf_config(source: Source) -> dict[str, Any]:
    sizes = source.config
    config: dict[str, Any] = {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "architecture_version": f"rwkv{sizes.architecture}",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.n_embd,
        "attention_hidden_size": sizes.n_att,
        "intermediate_size": sizes.n_ffn,
        "num_hidden_layers": sizes.n_layer,
        "head_size": sizes.head_size,
        "num_attention_heads": sizes.n_head,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": source.inspection.dtype,
    }
    for name, letter in RANKS.items():
        info = source.infos.get(f"blocks.{sizes.n_layer - 1}.att.{letter}1")
        if sizes.major == 7 and info is not None and len(info.shape) == 2:
            config[f"{name}_low_rank_dim"] = info.shape[1]
    trained = re.search(r"ctx([0-9]{3,7})", source.path.name)
    if trained:
        config["context_length"] = int(trained[1])
    return config
