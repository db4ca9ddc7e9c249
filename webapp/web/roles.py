"""Permissions: one row for every endpoint, and one for every command of the chat page.

    STRANGER  no proof on a server that requires a token: the login page, /health, /trust, chats shared by a link
    GUEST     the token without a session, as programs send it; on a server that requires no proof, everybody
    PERSON    has a session of their own, as a guest or with an account, and chats that nobody else sees; a program
              with an API token acts as its person
    LOCAL     a direct connection from this machine to a server for one person, without any proof
    OWNER     proved by a session from an owner's link, an admin account, or the owner's key

A higher role includes the rights of the lower ones. LOCAL is for chatting and for Runner's scripts, which have no key:
it can change the loaded model and the presets. Actions on files, running programs, defining tools and ending the server
require the OWNER, because other accounts and proxies on this machine also connect from loopback. On a shared server
nobody is LOCAL, so there these rows mean the owner.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Role(IntEnum):
    STRANGER = 0
    GUEST = 1
    PERSON = 2
    LOCAL = 3
    OWNER = 4


def _rows(role: Role, blueprint: str, names: str) -> dict[str, Role]:
    prefix = f"{blueprint}." if blueprint else ""
    return {prefix + name: role for name in names.split()}


ENDPOINTS: dict[str, Role] = {
    **_rows(Role.STRANGER, "", "health"),
    **_rows(Role.STRANGER, "trust", "index authority"),
    **_rows(Role.GUEST, "", "static chat_socket"),
    **_rows(
        Role.GUEST, "chat", "index chat chats all_ aside older export own do import_ preview tokens several switch"
    ),
    **_rows(Role.STRANGER, "shared", "show style font"),
    **_rows(Role.OWNER, "shared", "index make end"),
    **_rows(Role.GUEST, "chat", "poll service_worker offline count"),
    **_rows(Role.PERSON, "chat", "do_all"),
    **_rows(Role.PERSON, "notebook", "index create show save continue_ stop undo redo delete do tokens export"),
    **_rows(Role.GUEST, "compose", "index write read file"),
    **_rows(Role.LOCAL, "batch", "index start show resume delete do export"),
    **_rows(Role.GUEST, "chat.attachments", "attach file file_text"),
    **_rows(Role.GUEST, "presets", "index new compare builder export_all export edit show_in_use"),
    **_rows(Role.LOCAL, "presets", "submit do"),
    **_rows(Role.GUEST, "prompts", "index list_ edit export"),
    **_rows(Role.LOCAL, "prompts", "save delete do import_"),
    **_rows(Role.GUEST, "personas", "index edit picture export"),
    **_rows(Role.LOCAL, "personas", "save delete do import_"),
    **_rows(Role.OWNER, "personas", "bake"),
    **_rows(Role.GUEST, "models", "index rows list_ news details tensors"),
    **_rows(Role.LOCAL, "models", "load unload cancel"),
    **_rows(Role.OWNER, "models", "do delete rename import_ discard_upload restore empty_trash"),
    **_rows(Role.OWNER, "models.uploads", "start write discard"),
    **_rows(Role.OWNER, "models.downloads", "start look choose_hub use refresh"),
    **_rows(Role.GUEST, "conversion", "index"),
    **_rows(Role.LOCAL, "conversion", "plan load preset"),
    **_rows(Role.OWNER, "conversion", "start"),
    **_rows(Role.GUEST, "jobs", "index show_strip"),
    **_rows(Role.OWNER, "jobs", "act"),
    **_rows(Role.GUEST, "states", "index details file of_chat"),
    **_rows(Role.LOCAL, "states", "use load_for_chat"),
    **_rows(Role.OWNER, "states", "do delete rename upload import_ blend copy_out make clear_chats"),
    **_rows(Role.OWNER, "states", "bake bake_preset bake_again"),
    **_rows(Role.GUEST, "tools", "index new edit form show_preview export"),
    **_rows(Role.OWNER, "tools", "create save try_out delete do add_builtin import_"),
    **_rows(Role.GUEST, "tools.bench", "index show_run show_progress export_run edit_case export_cases"),
    **_rows(Role.LOCAL, "tools.bench", "start stop delete_run add_case change_case delete_case clear_cases"),
    **_rows(Role.LOCAL, "tools.bench", "do make import_"),
    **_rows(Role.GUEST, "tools.servers", "index new edit words"),
    **_rows(Role.OWNER, "tools.servers", "create save try_out connect switch set_tools delete do import_"),
    **_rows(Role.GUEST, "measure", "index"),
    **_rows(Role.LOCAL, "measure", "start delete"),
    **_rows(Role.GUEST, "docs", "index fields"),
    **_rows(Role.GUEST, "status", "show_strip show_menu show_palette"),
    **_rows(Role.LOCAL, "status", "load unload cancel"),
    **_rows(Role.GUEST, "settings", "index"),
    **_rows(Role.OWNER, "settings", "save"),
    **_rows(Role.STRANGER, "people", "join enter"),
    **_rows(Role.GUEST, "people", "index leave"),
    **_rows(Role.PERSON, "people", "rename_me set_password end end_others"),
    **_rows(Role.OWNER, "people", "invite invite_device revoke_link forget_link"),
    **_rows(Role.OWNER, "people", "change limit revoke admit remove"),
    **_rows(Role.OWNER, "people", "tokens make_token revoke_token"),
    "api unknown": Role.GUEST,
}
API_ROLES: dict[str, Role] = {
    **_rows(Role.PERSON, "", "/v1/states /state/status /state/delete"),
    "/switch-model": Role.LOCAL,
    "/update-config": Role.LOCAL,
    **_rows(Role.LOCAL, "", "/reset-state /enable-state-cache /disable-state-cache"),
    **_rows(Role.LOCAL, "", "/txt-to-midi /midi-to-wav /text-to-wav"),
    "/exit": Role.OWNER,
    **_rows(Role.OWNER, "", "/api/pull /api/delete /api/create /api/copy"),
}
"""By URL; every other URL for programs uses the model, and is for a GUEST."""

COMMAND_ROLES: dict[str, Role] = {
    **_rows(Role.GUEST, "", "send stop regenerate fork edit continue refuse_call give_result resume_calls"),
    **_rows(Role.GUEST, "", "several compare stop_answer vote keep keep_ticked keep_all keep_none restore_beside"),
    **_rows(Role.GUEST, "", "toggle_attachment remove_attachment select rename_chat duplicate_chat options read_chat"),
    **_rows(Role.GUEST, "", "replay"),
    **_rows(Role.PERSON, "", "approve_call delete_message restore_message delete_chat restore_chat"),
    **_rows(Role.PERSON, "", "pin_chat unpin_chat move_chat archive_chat unarchive_chat"),
    **_rows(Role.LOCAL, "", "save_preset load_preset"),
}


def least_role(endpoint: str | None) -> Role:
    """The minimum role for a Flask endpoint. None, for an unknown URL, needs GUEST; an endpoint without a row needs
    OWNER."""
    if endpoint is None:
        return Role.GUEST
    if endpoint.startswith("api ") and endpoint not in ENDPOINTS:
        return API_ROLES.get(endpoint.rpartition(" ")[2], Role.GUEST)
    return ENDPOINTS.get(endpoint, Role.OWNER)


def most_needed(blueprints: Iterable[str]) -> Role:
    """The highest role that any row of these blueprints needs."""
    wanted = set(blueprints)
    return max((role for name, role in ENDPOINTS.items() if name.rpartition(".")[0] in wanted), default=Role.GUEST)


def role_without_proof(asks_proof: bool, is_near: bool, has_token: bool) -> Role:
    """The role of a request with neither token nor session; ``is_near``: it came directly from this machine, which
    needs no proof on a server without a token."""
    if has_token or (asks_proof and not is_near):
        return Role.STRANGER
    return Role.LOCAL if is_near else Role.GUEST
