"""``/settings``: the settings of this browser and of this server, the source of each value, and the data on disk. A
guest sees only the browser's part, because the rest contains folders and addresses.

A server setting is written to ``roost.toml`` and takes effect at the next start.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import size_text
from webapp.services.states import snapshot_use
from webapp.settings import SETTINGS, Settings, change_config, parse_toml
from webapp.web.guard import current_role, the_guard
from webapp.web.kit.page import PageContext, Toast, Values, current_page, render_page
from webapp.web.roles import Role

blueprint = Blueprint("settings", __name__, url_prefix="/settings")
VALUE_CHARS = 4000
GROUPS = {
    "network": """host port lan token allow_hosts trusted_proxy base_path lan_name tls tls_cert tls_key api_only
        cors_origins open_browser language""",
    "model": """model strategy adapter adapter_alpha adapter_start state preset threads load_anyway""",
    "files": """data_dir models_dir extra_models_dirs snapshot_limit_bytes response_days log_file_bytes log_level
        hub_url catalogue_url catalogue_sha256""",
    "tools": """tool_hosts mcp_stdio""",
    "answers": """max_prompt_tokens max_tokens_limit max_sequences max_queue prefill_chunk state_cache_bytes
        api_max_choices api_strict_models api_switch_models""",
    "engine": """idle_unload_s swap_grace_s load_timeout_s stall_limit_s crash_tries""",
    "limits": """websocket_limit websockets_per_client ws_send_timeout_s connection_limit connections_per_client
        http_threads requests_per_s request_burst max_body_bytes api_max_body_bytes api_streams
        api_streams_per_client guest_answers guest_day_tokens guest_answer_tokens""",
}
"""All of ``SETTINGS``, in the groups of the page."""
FIXED = ("data_dir",)
"""The settings file is in that folder."""


@blueprint.get("")
def index() -> Response:
    page = current_page()
    toasts = page.done_toast("settings_page.said", ("saved", "taken_out"), undo="")
    return render_page("settings/page.html", settings_page(page, toasts))


@blueprint.post("/<name>")
def save(name: str) -> Response | BaseResponse:
    """``value`` as a person typed it; ``do=default`` removes it from the file."""
    page = current_page()
    origin = page.settings.origin
    try:
        if origin is None or name not in SETTINGS or name in FIXED:
            raise RoostError("settings_invalid", name=name, value="", reason=page.t("reason.settings.no_such_setting"))
        is_default = request.form.get("do") == "default"
        change_config(origin.path, name, None if is_default else request.form.get("value", "")[:VALUE_CHARS])
    except RoostError as exc:
        return render_page("settings/page.html", settings_page(page, refused=(name, exc)), status=422)
    return redirect(
        url_for("settings.index", said="taken_out" if is_default else "saved", about=name, _anchor=name), 303
    )


def settings_page(
    page: PageContext, toasts: tuple[Toast, ...] = (), refused: tuple[str, RoostError] | None = None
) -> Values:
    settings, t = page.settings, page.t
    shown = {"page_title": t("settings_page.title"), "toasts": toasts}
    if current_role() < Role.LOCAL:
        return shown
    waiting = _waiting(settings)
    return {
        **shown,
        "storage": _storage(page),
        "path": str(settings.origin.path) if settings.origin else "",
        "waits": bool(waiting),
        "can_change": current_role() is Role.OWNER and settings.origin is not None,
        "groups": [
            {
                "title": t(f"settings_page.group.{group}"),
                "name": group,
                "rows": [_row(page, name, waiting, refused) for name in names.split()],
            }
            for group, names in GROUPS.items()
        ],
    }


def _row(page: PageContext, name: str, waiting: Values, refused: tuple[str, RoostError] | None) -> Values:
    """``source`` is "default", "file", "environment" or "flag"; ``next``: the value at the next start, None if it is
    the same."""
    row, settings, t = SETTINGS[name], page.settings, page.t
    source = settings.origin.of.get(name, "default") if settings.origin else "default"
    value = getattr(settings, name)
    is_refused = refused is not None and refused[0] == name
    return {
        "name": name,
        "help": t(f"setting.{name}"),
        "choices": ("true", "false") if row.kind is bool else row.rule.choices,
        "is_secret": row.rule.secret,
        "value": "" if row.rule.secret else written(waiting.get(name, value)),
        "shown": t("settings_page.set" if value else "settings_page.not_set")
        if row.rule.secret
        else _shown(name, value),
        "next": _shown(name, waiting[name]) if name in waiting and not row.rule.secret else None,
        "source": source,
        "source_text": t(f"settings_page.source.{source}"),
        "is_changed": source != "default",
        "can_change": name not in FIXED and source in ("default", "file"),
        "error": page.sentences(refused[1]) if is_refused and refused else "",
        "typed": request.form.get("value", "")[:VALUE_CHARS] if is_refused and not row.rule.secret else None,
    }


def written(value: Any) -> str:
    """In the representation of forms and ``roost.toml``."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def _shown(name: str, value: Any) -> str:
    return size_text(value) if name.endswith("_bytes") and value else written(value) or "—"


def _waiting(settings: Settings) -> Values:
    """Values in the file that the next start would use."""
    if settings.origin is None or not settings.origin.path.is_file():
        return {}
    try:
        found = parse_toml(settings.origin.path.read_text(encoding="utf-8"))
        values = {name: SETTINGS[name].read(value) for name, value in found.items() if name in SETTINGS}
    except (OSError, ValueError, RoostError):
        return {}
    taken = {
        name: SETTINGS[name].default for name, of in settings.origin.of.items() if of == "file" and name not in values
    }
    free = {
        name: value for name, value in {**values, **taken}.items() if settings.origin.of.get(name, "file") == "file"
    }
    return {name: value for name, value in free.items() if value != getattr(settings, name)}


def _storage(page: PageContext) -> list[Values]:
    """The data on disk, and the page that can delete it."""
    settings, t = page.settings, page.t
    database = sum(
        path.stat().st_size for path in settings.data_dir.glob(f"{settings.database_path.name}*") if path.is_file()
    )
    count, used = snapshot_use(settings)
    models = sum(file.stamp[1] for file in page.manager.library.known_files())
    guard = the_guard()
    rows = (
        ("chats", t("settings_page.storage.chats"), size_text(database), url_for("chat.all_")),
        ("states", t("settings_page.storage.states", count=count), size_text(used), f"{url_for('states.index')}#chats"),
        ("models", t("settings_page.storage.models"), size_text(models), url_for("models.index")),
        ("sessions", t("settings_page.storage.sessions"), str(len(guard.sessions.list())), url_for("people.index")),
        ("tokens", t("tokens.title"), str(len(guard.tokens.list())), url_for("people.tokens")),
    )
    return [{"name": name, "text": text, "size": size, "url": url} for name, text, size, url in rows]
