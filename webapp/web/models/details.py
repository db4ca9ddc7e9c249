"""The page of one file: its facts, whether it fits, and all its tensors, block by block."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flask import url_for

from webapp.i18n import say, size_text
from webapp.manager.library import ModelEntry
from webapp.services.strategy.choice import recommend, validate
from webapp.web.kit.page import Choice, PageContext, Toast, Values, moment_text
from webapp.web.models.views import dtype_text, fit_line, is_loadable, model_row
from webapp.weights.architecture import WHOLE_MODEL
from webapp.weights.inspection import USED_TOKENS_KEY, Inspection
from webapp.weights.tensor_info import ITEM_BYTES, TensorInfo

BLOCK = re.compile(r"(?:.*\.)?(?:blocks|layers|blk|h)\.(\d+)\.")
MOST_ROWS = 2000
VALUE_CHARS = 500
MOST_LOOKED_INTO = 100


def details_page(
    page: PageContext, entry: ModelEntry, toasts: tuple[Toast, ...] = (), rename_error: str = ""
) -> Values:
    found, row = entry.inspection, model_row(page, entry)
    strategy = recommend(page.hardware, found, page.engine_bytes).strategy if found and row["can_load"] else ""
    return {
        "page_title": entry.name,
        "commands_url": url_for("models.do"),
        "toasts": toasts,
        "row": row,
        "can_rename": row["can_delete"],
        "file_name": entry.path.name,
        "facts": _facts(page, entry),
        "fit": fit_line(page, found, entry.name, strategy) if found is not None and is_loadable(found) else None,
        "strategy": strategy,
        "remarks": [say(one, page.locale) for one in validate(strategy).remarks] if strategy else [],
        "groups": _groups(page, entry.name, found.tensors) if found else [],
        "tensor_count": page.t("models.details.tensor_count", count=len(found.tensors)) if found else "",
        "metadata": _metadata(found) if found else [],
        "rename_error": rename_error,
        "adapter": _adapter_form(page, entry) if found is not None else None,
    }


def _adapter_form(page: PageContext, entry: ModelEntry) -> Values | None:
    """To load a model with an adapter: on the page of either. None where there is no other half to choose among the
    first :data:`MOST_LOOKED_INTO` files. Presets choose among all."""
    found = entry.inspection
    assert found is not None
    is_adapter = found.kind == "lora"
    is_model = is_loadable(found) and found.format in ("pth", "safetensors")
    if not (is_adapter or is_model) or found.adapter in ("pissa-init", WHOLE_MODEL):
        return None
    library = page.manager.library
    others = [(file.name, library.look_into(file).inspection) for file in library.files()[:MOST_LOOKED_INTO]]
    starts = [Choice(name, name) for name, other in others if other is not None and other.adapter == "pissa-init"]
    if is_adapter:
        names = [name for name, other in others if is_loadable(other)]
    else:
        names = [name for name, other in others if other is not None and other.adapter in ("lora", "bone")]
    if not names:
        return None
    own, chosen = ("adapter_file", "name") if is_adapter else ("name", "adapter_file")
    return {
        "own": own,
        "name": entry.name,
        "chosen": chosen,
        "label": page.t("models.adapter.model" if is_adapter else "models.adapter.file"),
        "choices": [Choice(name, name) for name in names],
        "starts": [Choice("", page.t("models.adapter.none")), *starts] if starts else [],
    }


def _facts(page: PageContext, entry: ModelEntry) -> list[Values]:
    """Labels and values; what is not known is left out."""
    exact = f" ({entry.size_bytes:,} B)" if entry.size_bytes >= 1000 else ""
    values: dict[str, object] = {"file": str(entry.path), "size": f"{size_text(entry.size_bytes)}{exact}"}
    values["changed"] = _date(entry)
    found = entry.inspection
    if found is not None:
        values |= {"format": found.format, "dtype": dtype_text(found.dtype)}
        values |= {"parameters": _parameters(page, found), "tokenizer": found.tokenizer}
        values["naming"] = found.naming if found.naming != "official" else ""
        values |= {"strategy": found.converted_strategy, **_sizes(found)}
        values["own_state"] = page.t("models.details.yes") if found.has_time_state and found.kind != "state" else ""
    return [{"label": page.t(f"models.details.{k}"), "value": str(value)} for k, value in values.items() if value]


def _parameters(page: PageContext, found: Inspection) -> str:
    if found.trained_parameters == found.parameters:
        return f"{found.parameters:,}"
    words = {"number": f"{found.parameters:,}", "trained": f"{found.trained_parameters:,}"}
    return str(page.t("models.details.trained_part", **words))


def _sizes(found: Inspection) -> dict[str, object]:
    config = found.config
    if config is None:
        layers = found.state_shape
        return {"state_shape": " × ".join(map(str, layers))} if layers else {}
    return {
        "architecture": f"RWKV-{config.architecture}",
        "layers": config.n_layer,
        "width": config.n_embd,
        "heads": f"{config.n_head} × {config.head_size}" if config.n_head else "",
        "vocabulary": f"{config.vocab_size:,}",
        "state": size_text(config.state_bytes()),
    }


def _date(entry: ModelEntry) -> str:
    try:
        return moment_text(entry.path.stat().st_mtime)
    except (OSError, ValueError, OverflowError):  # a date no calendar has
        return ""


def _metadata(found: Inspection) -> list[Values]:
    """What a file says of itself; the long bitmap of used tokens is for programs."""
    return [
        {"label": key, "value": value if len(value) <= VALUE_CHARS else f"{value[:VALUE_CHARS]}…"}
        for key, value in sorted(found.metadata.items())
        if key != USED_TOKENS_KEY
    ]


def _block_of(tensor: TensorInfo) -> str:
    """The number of its block; "" for a tensor outside the blocks."""
    match = BLOCK.match(tensor.name)
    return match[1].lstrip("0") or "0" if match else ""


def _groups(page: PageContext, name: str, tensors: Iterable[TensorInfo]) -> list[Values]:
    """Those outside the blocks first, then block by block. ``url`` brings a group's rows."""
    by_block: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        by_block.setdefault(_block_of(tensor), []).append(tensor)
    found = []
    for block in sorted(by_block, key=lambda key: int(key or -1)):
        group = by_block[block]
        count = page.t("models.details.tensor_count", count=len(group))
        title = page.t("models.details.block", number=block) if block else page.t("models.details.no_block")
        shown = f"{count} · {size_text(sum(map(_bytes, group)))}"
        found.append({"title": title, "shown": shown, "url": url_for("models.tensors", name=name, block=block)})
    return found


def tensor_rows(found: Inspection, block: str | None) -> Values:
    """The tensors of one block, "" for those outside the blocks, None for all; ``left_out`` are too many to show."""
    chosen = [tensor for tensor in found.tensors if block is None or _block_of(tensor) == block]
    rows = [
        {
            "name": tensor.name,
            "shape": " × ".join(map(str, tensor.shape)) or "1",
            "dtype": dtype_text(tensor.dtype),
            "size": size_text(_bytes(tensor)),
        }
        for tensor in chosen[:MOST_ROWS]
    ]
    return {"rows": rows, "left_out": max(len(chosen) - MOST_ROWS, 0)}


def _bytes(tensor: TensorInfo) -> int:
    return tensor.numel * ITEM_BYTES.get(tensor.dtype, 0)
