"""What a person wants converted, by the names on the page, and the same as files that are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from webapp.errors import ConversionRefused
from webapp.manager.library import ModelLibrary
from webapp.services.library.disk_space import check_free
from webapp.services.library.file_names import safe_name
from webapp.weights.convert.names import default_name
from webapp.weights.convert.new_file import check_target
from webapp.weights.convert.options import ConversionOptions
from webapp.weights.convert.registry import conversion_to


@dataclass(frozen=True)
class ConversionOrder:
    """``model`` and ``lora``: names in the library. ``name``: of the new file, "" for the usual one."""

    model: str
    target: str
    name: str = ""
    strategy: str = ""
    lora: str = ""
    lora_alpha: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ReadyOrder:
    """An order that was checked. ``name``: the new file's in the library; ``planned_bytes``: of its tensors."""

    target: str
    source_path: Path
    target_path: Path
    name: str
    planned_bytes: int
    options: ConversionOptions

    @property
    def is_name_taken(self) -> bool:
        return self.target_path.exists()

    def check_place(self) -> None:
        """ConversionTargetExists, DiskFull."""
        check_target(self.target_path, self.options.overwrite)
        check_free(self.target_path.parent, self.planned_bytes)


def check_order(library: ModelLibrary, order: ConversionOrder) -> ReadyOrder:
    """ModelNotFound, FileNameUnusable, the refusals of conversions, StrategyError. Reads headers only."""
    source = library.find(order.model)
    lora = str(library.find(order.lora)) if order.lora else ""
    options = ConversionOptions(order.strategy.strip(), lora, order.lora_alpha, order.overwrite)
    ending = conversion_to(order.target, source.name).ending
    wanted = order.name.strip() or default_name(source.name, order.target, options)
    folder = source.parent if library.folder_of(source) and source.parent != library.bundled_dir else library.models_dir
    target_path = folder / safe_name(wanted if wanted.lower().endswith(ending) else wanted + ending, (ending,))
    for path in (source, Path(lora) if lora else source):
        if target_path.exists() and target_path.samefile(path):
            reason = "the new file would take the place of one it is made from"
            way_out = "Choose another name."
            raise ConversionRefused(path=source.name, target=order.target, reason=reason, way_out=way_out)
    planned_bytes = library.reader.planned_bytes(source, order.target, options)
    return ReadyOrder(order.target, source, target_path, library.name_of(target_path), planned_bytes, options)
