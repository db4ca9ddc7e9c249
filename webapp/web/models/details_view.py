"""One file: its facts, will it fit, and every tensor of it, block by block."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from flask import url_for

from webapp.manager.library import ModelEntry
from webapp.services.library.disk_space import size_text
from webapp.services.strategy.choice import recommend
from webapp.web.kit.page import Toast
from webapp.web.models.contexts import DetailsPage, Pair, TensorGroup, TensorRow, TensorRows
from webapp.web.models.desk import Desk
from webapp.web.models.fit_view import fit_line
from webapp.web.models.kinds import dtype_text, is_loadable
from webapp.web.models.list_view import row
from webapp.weights.inspection import USED_TOKENS_KEY, Inspection
from webapp.weights.tensor_info import ITEM_BYTES, TensorInfo

BLOCK = re.compile(r"(?:.*\.)?(?:blocks|layers|blk|h)\.(\d+)\.")
MOST_ROWS = 2000
VALUE_CHARS = 500


def details_page(desk: Desk, entry: ModelEntry, toasts: tuple[Toast, ...] = (), rename_error: str = "") -> DetailsPage:
    found, shown = entry.inspection, row(desk, entry)
    strategy = best_strategy(desk, found)
    return DetailsPage(
        page_title=entry.name,
        commands_url=url_for("models.do"),
        toasts=toasts,
        row=shown,
        can_rename=shown.can_delete,
        file_name=entry.path.name,
        facts=tuple(fact_pairs(desk, entry)),
        fit=fit_line(desk, found, entry.name, strategy) if found is not None and is_loadable(found) else None,
        strategy=strategy,
        groups=tuple(groups(desk, entry.name, found.tensors)) if found else (),
        tensor_count=desk.t("models.details.tensor_count", count=len(found.tensors)) if found else "",
        metadata=tuple(metadata_pairs(found)) if found else (),
        rename_error=rename_error,
    )


def best_strategy(desk: Desk, found: Inspection | None) -> str:
    """Which one this machine runs the model with best; "" for a file no backend runs."""
    if found is None or not is_loadable(found):
        return ""
    return recommend(desk.hardware, found, desk.engine_bytes).strategy


def fact_pairs(desk: Desk, entry: ModelEntry) -> Iterable[Pair]:
    """Names and values; what is not known is left out."""
    exact = f" ({entry.size_bytes:,} B)" if entry.size_bytes >= 1000 else ""
    values: dict[str, object] = {"file": str(entry.path), "size": f"{size_text(entry.size_bytes)}{exact}"}
    values["changed"] = _date(entry)
    found = entry.inspection
    if found is not None:
        values |= {"format": found.format, "dtype": dtype_text(found.dtype)}
        values |= {"parameters": _parameters(desk, found), "tokenizer": found.tokenizer}
        values["naming"] = found.naming if found.naming != "official" else ""
        values |= {"strategy": found.converted_strategy, **_sizes(found)}
        values["own_state"] = desk.t("models.details.yes") if found.has_time_state and found.kind != "state" else ""
    return [Pair(desk.t(f"models.details.{name}"), str(value)) for name, value in values.items() if value]


def _parameters(desk: Desk, found: Inspection) -> str:
    if found.trained_parameters == found.parameters:
        return f"{found.parameters:,}"
    words = {"number": f"{found.parameters:,}", "trained": f"{found.trained_parameters:,}"}
    return str(desk.t("models.details.trained_part", **words))


def _sizes(found: Inspection) -> dict[str, object]:
    config = found.config
    if config is None:
        layers = found.state_shape
        return {"state_shape": " × ".join(map(str, layers))} if layers else {}
    heads = f"{config.n_head} × {config.head_size}" if config.n_head else ""
    return {
        "architecture": f"RWKV-{config.architecture}",
        "layers": config.n_layer,
        "width": config.n_embd,
        "heads": heads,
        "vocabulary": f"{config.vocab_size:,}",
        "state": size_text(config.state_bytes()),
    }


def _date(entry: ModelEntry) -> str:
    try:
        return datetime.fromtimestamp(entry.path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    except (OSError, ValueError, OverflowError):  # a date no calendar has
        return ""


def metadata_pairs(found: Inspection) -> list[Pair]:
    """What a file says of itself; the long bitmap of used tokens is for programs."""
    return [
        Pair(key, value if len(value) <= VALUE_CHARS else f"{value[:VALUE_CHARS]}…")
        for key, value in sorted(found.metadata.items())
        if key != USED_TOKENS_KEY
    ]


def group_key(tensor: TensorInfo) -> str:
    """The number of its block; "" for a tensor of none."""
    match = BLOCK.match(tensor.name)
    return match[1].lstrip("0") or "0" if match else ""


def groups(desk: Desk, name: str, tensors: Iterable[TensorInfo]) -> list[TensorGroup]:
    """Those of no block first, then block by block."""
    parted: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        parted.setdefault(group_key(tensor), []).append(tensor)
    return [
        TensorGroup(
            key=key or "other",
            title=desk.t("models.details.block", number=key) if key else desk.t("models.details.no_block"),
            shown=_shown(desk, parted[key]),
            url=url_for("models.tensors", name=name, block=key),
        )
        for key in sorted(parted, key=lambda key: int(key or -1))
    ]


def tensor_rows(found: Inspection, block: str | None) -> TensorRows:
    """The tensors of one block, "" for those of none, None for all."""
    chosen = [tensor for tensor in found.tensors if block is None or group_key(tensor) == block]
    rows = (
        TensorRow(tensor.name, " × ".join(map(str, tensor.shape)) or "1", dtype_text(tensor.dtype), _size(tensor))
        for tensor in chosen[:MOST_ROWS]
    )
    return TensorRows(tuple(rows), max(len(chosen) - MOST_ROWS, 0))


def _shown(desk: Desk, tensors: list[TensorInfo]) -> str:
    size = size_text(sum(_bytes(tensor) for tensor in tensors))
    return f"{desk.t('models.details.tensor_count', count=len(tensors))} · {size}"


def _size(tensor: TensorInfo) -> str:
    return size_text(_bytes(tensor))


def _bytes(tensor: TensorInfo) -> int:
    return tensor.numel * ITEM_BYTES.get(tensor.dtype, 0)
