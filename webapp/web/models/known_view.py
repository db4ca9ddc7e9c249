"""The published models by family, and what each would ask of this machine."""

from __future__ import annotations

from webapp.services.library.disk_space import size_text
from webapp.services.library.known_models import FAMILIES, KnownModel, hint, known_models
from webapp.web.models.contexts import KnownFamily, KnownRow
from webapp.web.models.desk import Desk


def known_families(desk: Desk) -> tuple[KnownFamily, ...]:
    here = {file.path.name for file in desk.library.files()}
    made = []
    for family in FAMILIES:
        rows = tuple(_row(desk, model, model.file in here) for model in known_models() if model.family == family)
        made.append(KnownFamily(desk.t(f"models.family.{family}"), desk.t(f"models.about.{family}"), rows))
    return tuple(made)


def _row(desk: Desk, model: KnownModel, is_here: bool) -> KnownRow:
    hardware = desk.hardware
    found = hint(model, hardware.ram_total, (gpu.vram_total for gpu in hardware.gpus))
    words = {"strategy": found.strategy, "needed": size_text(found.needed_bytes)}
    return KnownRow(
        name=model.file,
        facts=(
            desk.t("unit.parameters", number=model.parameters),
            size_text(model.size_bytes),
            model.published,
            desk.t("models.licence", licence=model.licence) if model.licence else desk.t("models.licence_unknown"),
        ),
        uses=tuple(desk.t(f"models.good_for.{use}") for use in model.good_for),
        hint=desk.t("models.hint.runs" if found.strategy else "models.hint.too_large", **words),
        is_too_large=not found.strategy,
        page=model.page,
        is_here=is_here,
    )
