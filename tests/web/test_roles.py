"""Every address and every command of the chat page, requested with every role. The views are stubs: only access is
tested."""

import pytest

from tests.manager.thread_engine import start_engine_in_thread
from tests.web.chat.running_roost import models_dir
from tests.web.owner import owner_cookie
from webapp.manager.manager import ModelManager
from webapp.settings import Settings
from webapp.web import guard
from webapp.web.app import create_app
from webapp.web.chat.commands import COMMANDS
from webapp.web.roles import API_ROLES, COMMAND_ROLES, ENDPOINTS, Role, least_role

TOKEN = "a-token-for-tests"
SAFE = {"GET", "HEAD", "OPTIONS"}
GUEST_CHANGES = {"chat.do", "chat.poll", "chat.import_", "chat.attachments.attach", "people.leave", "people.enter"}
PERSON_CHANGES = {
    "chat.do_all", "people.rename_me", "people.set_password", "people.end", "people.end_others",
    "notebook.create", "notebook.save", "notebook.continue_", "notebook.stop", "notebook.undo", "notebook.redo",
    "notebook.delete", "notebook.do", "api POST /v1/states", "api POST /state/status", "api POST /state/delete",
}  # fmt: skip
GUEST_QUESTIONS = {
    "chat.count", "compose.write", "compose.read", "compose.file", "tools.form", "tools.show_preview",
    "tools.servers.words",
}  # fmt: skip
"""POST requests, because a form is too long for a URL; they store nothing."""
LOCAL_CHANGES = {
    "presets.submit", "presets.do", "models.load", "models.unload", "models.cancel", "status.load",
    "status.unload", "status.cancel", "measure.start", "measure.delete", "conversion.load",
    "conversion.preset", "states.use", "states.load_for_chat", "tools.bench.start", "tools.bench.stop",
    "tools.bench.delete_run", "tools.bench.add_case", "tools.bench.change_case", "tools.bench.delete_case",
    "tools.bench.clear_cases", "tools.bench.do", "tools.bench.make", "tools.bench.import_",
    "batch.start", "batch.resume", "batch.delete", "batch.do",
    "prompts.save", "prompts.delete", "prompts.do", "prompts.import_",
    "api POST /txt-to-midi", "api POST /midi-to-wav", "api POST /text-to-wav",
    "personas.save", "personas.delete", "personas.do", "personas.import_",
    "api POST /switch-model", "api POST /update-config", "api POST /reset-state", "api POST /enable-state-cache",
    "api POST /disable-state-cache",
}  # fmt: skip
OWNER_READS = {"conversion.plan", "shared.index", "people.tokens"}
"""Not even for this machine: one opens the given files, the other lists addresses with secrets."""
PUBLIC = {
    "health", "people.join", "people.enter", "shared.show", "shared.style", "shared.font", "trust.index",
    "trust.authority",
}  # fmt: skip
"""A container's health check has no token; shared chats and invitations have their own secrets; a device must trust the
certificate before it can send a token."""
PERSON_READS = {"api GET /v1/states", "notebook.index", "notebook.show", "notebook.tokens", "notebook.export"}
LOCAL_READS = {"batch.index", "batch.show", "batch.export"}
"""Everybody with an account has some states and notebooks; a batch keeps the model busy for hours."""


def session_of_guest(app):
    guest = app.extensions["people"].add(kind="guest")
    return app.extensions["sessions"].begin("guest", "a test", person_id=guest.id)


@pytest.fixture(scope="module", params=["shared", "single"])
def walk(request, tmp_path_factory):
    """walk(role) -> {endpoint: statuses}, on a server for the network or for one person."""
    shared = {"lan": True, "token": TOKEN} if request.param == "shared" else {}
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("roles"), models_dir=models_dir(), strategy="fake", requests_per_s=1e6,
        request_burst=10**6, **shared,
    )  # fmt: skip
    app = create_app(settings, ModelManager(settings, start_engine_in_thread))
    for endpoint in app.view_functions:
        app.view_functions[endpoint] = lambda **_: "reached"
    patch = pytest.MonkeyPatch()
    patch.setattr(guard, "check_own", lambda person: None)  # ownership of data is tested in tests/web/test_people.py

    def ask(rule, method, headers):
        path = rule.rule
        for argument in rule.arguments:
            path = path.replace(f"<path:{argument}>", "x").replace(f"<{argument}>", "x")
        if rule.websocket:
            headers = {**headers, "Upgrade": "websocket", "Connection": "Upgrade"}
        told = {"Origin": "http://127.0.0.1", **headers}
        return (
            app.test_client(use_cookies=False)
            .open(path, method=method, base_url="http://127.0.0.1", headers=told)
            .status_code
        )

    def walked(role):
        headers = {
            Role.OWNER: {"Cookie": "=".join(owner_cookie(app, 80))},
            Role.PERSON: {"Cookie": f"roost_session_80={session_of_guest(app)}"},
            Role.GUEST: {"Authorization": f"Bearer {TOKEN}"} if shared else {"X-Forwarded-For": "198.51.100.7"},
        }.get(role, {})
        found = {}
        for rule in app.url_map.iter_rules():
            methods = (rule.methods or {"GET"}) - {"HEAD", "OPTIONS"}
            found.setdefault(rule.endpoint, set()).update(ask(rule, method, headers) for method in methods)
        return found

    walked.changes = {
        rule.endpoint for rule in app.url_map.iter_rules() if rule.methods and rule.methods - SAFE
    } - {"api unknown"}  # fmt: skip
    walked.endpoints = set(app.view_functions)
    walked.is_shared = bool(shared)
    yield walked
    patch.undo()
    app.extensions["close"]()


def test_every_endpoint_has_a_decision(walk):
    decided = {name for name in walk.endpoints if name in ENDPOINTS or name.startswith("api ")}
    assert walk.endpoints - decided == set()
    assert set(ENDPOINTS) - walk.endpoints == set(), "rows of endpoints that are gone"
    assert set(COMMANDS) == set(COMMAND_ROLES)
    addresses = {name.rpartition(" ")[2] for name in walk.endpoints if name.startswith("api ")}
    assert API_ROLES.keys() <= addresses
    assert least_role("an endpoint nobody thought of") is Role.OWNER


def test_an_owner_reaches_everything(walk):
    assert {name: found for name, found in walk(Role.OWNER).items() if found != {200}} == {}


def test_a_guest_may_chat_and_look_but_change_nothing_else(walk):
    refused = {name for name, found in walk(Role.GUEST).items() if found == {403}}
    program_questions = {
        name for name in walk.changes if name.startswith("api ") and name.rpartition(" ")[2] not in API_ROLES
    }
    assert walk.changes - refused == GUEST_CHANGES | GUEST_QUESTIONS | program_questions
    assert refused - walk.changes == OWNER_READS | LOCAL_READS | PERSON_READS


def test_a_person_may_also_tidy_up_its_own(walk):
    refused = {name for name, found in walk(Role.PERSON).items() if found == {403}}
    as_guest = {name for name, found in walk(Role.GUEST).items() if found == {403}}
    assert as_guest - refused == PERSON_CHANGES | PERSON_READS


def test_a_stranger_reaches_nothing_of_a_shared_server(walk):
    found = walk(Role.STRANGER)
    if walk.is_shared:
        assert [found.pop(name) for name in PUBLIC] == [{200}] * len(PUBLIC)
        assert set.union(*found.values()) == {401}
    else:  # this machine itself
        refused = {name for name, statuses in found.items() if statuses == {403}}
        program_questions = {
            name for name in walk.changes if name.startswith("api ") and name.rpartition(" ")[2] not in API_ROLES
        }
        of_people = GUEST_CHANGES | PERSON_CHANGES | LOCAL_CHANGES
        assert walk.changes - refused == of_people | GUEST_QUESTIONS | program_questions
        assert refused <= walk.changes | {"shared.index", "people.tokens"}


@pytest.mark.parametrize(
    "command, least",
    [
        ("send", Role.GUEST), ("edit", Role.GUEST), ("refuse_call", Role.GUEST), ("approve_call", Role.PERSON),
        ("delete_chat", Role.PERSON), ("delete_message", Role.PERSON), ("save_preset", Role.LOCAL),
        ("load_preset", Role.LOCAL),
    ],
)  # fmt: skip
def test_commands_of_the_chat_page(command, least):
    assert COMMAND_ROLES[command] is least
