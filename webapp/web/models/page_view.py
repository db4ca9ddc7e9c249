"""The whole page of models."""

from __future__ import annotations

from flask import url_for

from webapp.services.library.disk_space import free_bytes, size_text
from webapp.web.kit.page import Toast
from webapp.web.models.activity_view import activity, import_form, trash_view
from webapp.web.models.contexts import Filter, ImportForm, ModelsPage
from webapp.web.models.desk import Desk
from webapp.web.models.known_view import known_families
from webapp.web.models.list_view import kind_choices, model_list

SLICE_BYTES = 8 << 20


def models_page(
    desk: Desk, wanted: Filter, toasts: tuple[Toast, ...] = (), form: ImportForm | None = None
) -> ModelsPage:
    return ModelsPage(
        page_title=desk.t("nav.models"),
        commands_url=url_for("models.do"),
        toasts=toasts,
        list=model_list(desk, wanted),
        filter=wanted,
        kinds=kind_choices(desk),
        activity=activity(desk),
        import_form=form or import_form(desk),
        trash=trash_view(desk),
        known=known_families(desk),
        folders=tuple(str(folder.path) for folder in desk.library.folders),
        slice_bytes=slice_bytes(desk),
        free=size_text(free_bytes(desk.library.models_dir)),
    )


def slice_bytes(desk: Desk) -> int:
    """What a browser may send at once: less where the server takes less, which it does not to the very byte."""
    return min(SLICE_BYTES, desk.settings.max_body_bytes // 2)
