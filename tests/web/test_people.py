"""People and their data: every address and every command with an id of a person's data, requested by its owner and by
everybody else."""

from dataclasses import dataclass
from io import BytesIO

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.web.apps import open_app
from tests.web.chat.running_roost import models_dir
from tests.web.owner import owner_cookie
from webapp.chat.messages import Message, ReadMode, ToolCall, attached_metadata
from webapp.chat.messages import Role as Speaker
from webapp.errors import ChatNotFound
from webapp.services.attachments import ROOM
from webapp.services.chat.turn_writer import chosen_tools
from webapp.settings import Settings
from webapp.storage.attachments import AttachmentStore
from webapp.storage.chats import ChatStore
from webapp.storage.credentials import SCOPES
from webapp.storage.notebooks import Draft
from webapp.storage.people import GUEST, Person
from webapp.storage.programs import ResponseStore, StateHandle, StateHandles
from webapp.storage.records import OWNER_ID, ChatTools
from webapp.storage.tools import ToolStore
from webapp.tools.definition import Behaviour, ToolDefinition
from webapp.web.api.operations import OPERATIONS
from webapp.web.chat.commands import COMMANDS, Commands, FrameFields, read_command
from webapp.web.chat.live import ChatContext
from webapp.web.roles import Role, least_role

TOKEN = "a-token-for-tests"
HOME = {"Origin": "http://127.0.0.1", "Accept": "text/html"}
NO_ANSWER = {"HEAD", "OPTIONS"}
OWN_IDS = {"chat_id", "message_id", "attachment_id", "notebook_id", "batch_id"}
"""Ids in addresses that belong to a person. :data:`SHARED` are those of data for everybody."""
SHARED = {
    "case_id", "filename", "form", "item_id", "key", "kind", "name", "path", "preset_id", "run_id", "server_id",
    "share_id", "tool_id", "version",
}  # fmt: skip


@dataclass
class Kept:
    """The data of one person."""

    person: Person
    chat_id: str
    message_id: str
    attachment_id: str
    pending_id: str
    notebook_id: str
    batch_id: str
    response_id: str
    item_id: str
    state_id: str
    secret: str


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("people"), models_dir=models_dir(), strategy="fake", requests_per_s=1e6,
        request_burst=10**6, lan=True, token=TOKEN,
    )  # fmt: skip
    with open_app(settings) as app:
        yield app


def client_of(app, person_id):
    """A browser of this person; "" is a stranger's."""
    client = app.test_client(use_cookies=bool(person_id))
    if person_id:
        person = app.extensions["people"].find(person_id)
        session_id = app.extensions["sessions"].begin(person.kind, "a test", person_id=person_id)
        client.set_cookie(owner_cookie(app, 80)[0], session_id, domain="127.0.0.1")
    return lambda path, method="GET", **more: client.open(
        path, method=method, base_url="http://127.0.0.1", headers={**HOME, **more.pop("headers", {})}, **more
    )


def keep(app, person_id, secret):
    """A chat with a question, an answer and two files, one of them not sent yet; a notebook, a batch, a stored API
    response and the state after it, in a session whose name others also use."""
    database = app.extensions["database"]
    store, files = ChatStore(database, person_id), AttachmentStore(database)
    chat = store.create(title=f"{secret} title")
    sent, pending = (
        files.add(chat.id, f"{secret}.txt", f"{secret} in a file", 20, ReadMode.WHOLE, ROOM) for _ in range(2)
    )
    metadata = attached_metadata([sent.as_attached])
    question = store.add_message(chat.id, None, Message(Speaker.USER, f"{secret} question", metadata=metadata))
    answer = store.add_message(chat.id, question.id, Message(Speaker.ASSISTANT, f"{secret} answer"))
    notebooks, batches = app.extensions["notebooks"].store, app.extensions["batches"].store
    notebook = notebooks.create(f"{secret} notebook", person_id)
    notebooks.write(notebook.id, Draft(f"{secret} text"))
    batch = batches.create(f"{secret} batch", ("line",), [[f"{secret} row"]], {"template": "{line}"}, person_id)
    batches.end(batch.id)
    responses, states = (kind(database, 30, person_id) for kind in (ResponseStore, StateHandles))
    item = {"id": f"msg_{secret}", "type": "message", "role": "assistant", "content": [{"text": f"{secret} said"}]}
    body = {"id": f"resp_{secret}", "previous_response_id": None, "output": [item]}
    responses.keep(body, [{"id": f"in_{secret}", "text": f"{secret} asked"}], [Message(Speaker.USER, secret)])
    tokenizer = app.extensions["model_manager"].tokenizer()
    told = StateHandle("", tuple(tokenizer.encode(secret)), tokenizer=tokenizer.name, session="one", model=secret)
    state, _ = states.add(told)
    return Kept(
        app.extensions["people"].find(person_id), chat.id, answer.id, sent.id, pending.id, notebook.id, batch.id,
        body["id"], item["id"], state.id, secret,
    )  # fmt: skip


@pytest.fixture(scope="module")
def household(app):
    """Name -> (this person's client, the person's data); the stranger has none."""
    people = app.extensions["people"]
    ids = {"owner": OWNER_ID} | {name: people.add(kind=GUEST, name=name).id for name in ("anna", "ben")}
    ids["user"] = people.add(kind="account", name="user").id
    found = {name: (client_of(app, person_id), keep(app, person_id, f"of-{name}")) for name, person_id in ids.items()}
    return found | {"stranger": (client_of(app, ""), None)}


def others_of(household, name):
    return [(other, ask) for other, (ask, _) in household.items() if other != name]


def content_of(app):
    """All stored data of a person."""
    tables = [(table, "*") for table in ("chats", "messages", "notebooks", "batches", "responses")]
    tables += [("attachments", "id, chat_id, mode, is_pending"), ("state_handles", "id, person_id, session")]
    with app.extensions["database"].connect() as connection:
        return [
            [tuple(row) for row in connection.execute(f"SELECT {columns} FROM {table} ORDER BY id").fetchall()]
            for table, columns in tables
        ]


def rules_of_chats(app):
    return [rule for rule in app.url_map.iter_rules() if rule.arguments & OWN_IDS]


def address(rule, kept):
    kinds = {"chat.export": "md", "batch.export": "csv"}
    values = {"kind": kinds.get(rule.endpoint, "title"), **kept.__dict__}
    path = rule.rule
    for argument in rule.arguments:
        path = path.replace(f"<{argument}>", values[argument])
    return path + "?off=1"  # requests to the model are replaced


def test_every_id_in_a_guests_address_is_known_as_personal_or_shared(app):
    """A new id in an address for guests must be added to one of the two lists."""
    for_guests = (rule for rule in app.url_map.iter_rules() if least_role(rule.endpoint) < Role.LOCAL)
    assert {name for rule in for_guests for name in rule.arguments} - OWN_IDS - SHARED == set()


@pytest.mark.parametrize("name", ["owner", "anna", "user"])
def test_an_address_of_a_chat_is_only_for_its_person(app, household, name):
    own, kept = household[name]
    rules = rules_of_chats(app)
    assert len(rules) >= 20
    before = content_of(app)
    asked = [(address(rule, kept), method) for rule in rules for method in (rule.methods or {"GET"}) - NO_ANSWER]
    asked.append((f"/states/of-chat?chat={kept.chat_id}", "GET"))
    for path, method in asked:
        for other, ask in others_of(household, name):
            answer = ask(path, method)
            assert answer.status_code in ({401} if other == "stranger" else {403, 404}), (path, other)
            assert kept.secret not in answer.text, (path, other)
    assert content_of(app) == before
    mine = {path: own(path).status_code for path, method in asked if method == "GET"}
    for_admins = {path for path in mine if path.startswith("/notebook/batch/")} if name != "owner" else set()
    assert {path for path, status in mine.items() if status not in (200, 303)} == for_admins


@pytest.fixture(scope="module")
def programs(app, household):
    """Name -> a program's client: with a person's token, the server's own, and a revoked one."""
    tokens = app.extensions["api_tokens"]
    secrets = {name: tokens.make(name, SCOPES, kept.person.id) for name, (_, kept) in household.items() if kept}
    secrets |= {"server": TOKEN, "revoked": tokens.make("gone", SCOPES)}
    tokens.revoke(tokens.find(secrets["revoked"]).id)

    def asking(secret):
        def ask(path, method="GET", **more):
            told = {"Authorization": f"Bearer {secret}"}
            return app.test_client().open(path, method=method, base_url="http://127.0.0.1", headers=told, **more)

        return ask

    return {name: asking(secret) for name, secret in secrets.items()}


HOSTILE_IDS = ("%00", "..%2f..%2froost.db", "' OR 1=1 --", "%25", "*", "x" * 4000, "%F0%9F%90%A6", "resp_", "st_")


def kept_by_programs(kept):
    """(address, method, body) of every request with one of their ids."""
    names = {"/v1/responses/": kept.response_id, "/v1/states/": kept.state_id}
    for op in OPERATIONS:
        for begins, name in names.items():
            if op.path.startswith(begins) and "{name}" in op.path:
                yield op.path.replace("{name}", name), op.method, {"n": 1, "turns": 1} if op.method == "POST" else None
    yield f"/v1/responses/{kept.response_id}?stream=true", "GET", None
    chat = {"messages": [{"role": "user", "content": "x"}], "state_id": kept.state_id}
    item = {"input": [{"type": "item_reference", "id": kept.item_id}]}
    for more in ({"input": "x", "previous_response_id": kept.response_id}, {"input": "x", "state_id": kept.state_id}):
        yield "/v1/responses", "POST", more
        yield "/v1/responses/input_tokens", "POST", more
    yield from (("/v1/responses", "POST", item), ("/v1/chat/completions", "POST", chat))
    yield "/v1/completions", "POST", {"prompt": "x", "state_id": kept.state_id}


@pytest.mark.parametrize("name", ["owner", "anna", "user"])
def test_answers_and_states_of_programs_are_only_for_their_person(app, household, programs, name):
    """Also by their ids, which cannot be guessed but may be in a log."""
    own, kept = household[name]
    before, asked = content_of(app), list(kept_by_programs(kept))
    assert len(asked) >= 14
    for path, method, body in asked:
        for who, ask in [*others_of(household, name), *((who, ask) for who, ask in programs.items() if who != name)]:
            answer = ask(path, method, json=body) if body else ask(path, method)
            refusals = {
                "stranger": {401},
                "revoked": {401, 429},
            }  # a wrong key counts as a guess
            assert answer.status_code in refusals.get(who, {404}), (path, method, who)
            assert kept.secret not in answer.text.replace(kept.response_id, "").replace(kept.item_id, ""), (path, who)
    assert content_of(app) == before
    for path in (f"/v1/responses/{kept.response_id}", f"/v1/states/{kept.state_id}"):
        assert kept.secret in own(path).text and kept.secret in programs[name](path).text


def test_lists_and_sessions_of_states_are_ones_own(household, programs):
    for name, (ask, kept) in household.items():
        if kept is None:
            continue
        for get in (ask, programs[name]):
            assert [row["model"] for row in get("/v1/states").json["data"]] == [kept.secret]
            assert get("/state/status", "POST").json["total_sessions"] == 1
    assert (
        programs["server"]("/v1/states").status_code == programs["server"]("/state/status", "POST").status_code == 403
    )
    assert household["stranger"][0]("/v1/states").status_code == 401


def test_two_people_have_separate_sessions_with_the_same_name(app, household, programs):
    states = StateHandles(app.extensions["database"], 30)
    said = {"session_id": "one", "contents": ["x"], "max_tokens": 2}
    made = programs["ben"]("/state/chat/completions", "POST", json=said).json
    assert states.get(made["state_id"]).parent_id == household["ben"][1].state_id
    other = programs["server"]("/state/chat/completions", "POST", json=said).json
    assert states.get(other["state_id"]).parent_id is None
    assert (
        programs["ben"]("/state/delete", "POST", json={"session_id": "one", "delete_prefix": True}).status_code == 200
    )
    assert states.get(household["anna"][1].state_id) and states.get(other["state_id"])


@pytest.mark.parametrize("hostile", HOSTILE_IDS)
def test_hostile_ids_are_ids_of_nothing(app, household, programs, hostile):
    before = content_of(app)
    for path in ("/v1/responses/{}", "/v1/states/{}", "/v1/states/{}/content", "/notebook/{}", "/notebook/batch/{}"):
        for ask in (household["anna"][0], household["owner"][0]):
            for method in ("GET", "DELETE") if path.startswith("/v1/") else ("GET",):
                assert ask(path.format(hostile), method).status_code in (400, 403, 404, 405), (path, method)
    for do in ("/notebook/do", "/notebook/batch/do"):
        assert household["owner"][0](do, "POST", data={"do": f"restore:{hostile}"}).status_code == 404
    assert content_of(app) == before


def test_undo_brings_back_ones_own_alone(app, household):
    notebooks, before = app.extensions["notebooks"].store, household["anna"][1].notebook_id
    notebooks.delete(before)
    for other, ask in others_of(household, "anna"):
        answer = ask("/notebook/do", "POST", data={"do": f"restore:{before}"})
        assert answer.status_code == (401 if other == "stranger" else 404)
    assert household["anna"][0]("/notebook/do", "POST", data={"do": f"restore:{before}"}).status_code == 303
    batches, mine = app.extensions["batches"].store, household["owner"][1].batch_id
    root = app.extensions["people"].add(kind="account", name="second admin", is_admin=True)
    batches.delete(mine)
    assert client_of(app, root.id)("/notebook/batch/do", "POST", data={"do": f"restore:{mine}"}).status_code == 404
    assert household["owner"][0]("/notebook/batch/do", "POST", data={"do": f"restore:{mine}"}).status_code == 303


def test_a_batch_among_the_jobs_is_seen_by_its_person_and_by_the_owner(app, household):
    jobs = app.extensions["jobs"]
    root = app.extensions["people"].add(kind="account", name="third admin", is_admin=True)
    started = jobs.start("batch", "of-root batch", lambda _: None, {"batch": "x" * 32, "person": root.id})
    jobs.wait(started.id, 60)
    for name in ("anna", "user"):
        assert "of-root batch" not in household[name][0]("/jobs").text
    assert "of-root batch" in client_of(app, root.id)("/jobs").text
    seen = household["owner"][0]("/jobs").text
    assert "of-root batch" in seen and "x" * 32 not in seen
    jobs.remove(started.id)


def test_removing_a_person_takes_all_that_was_theirs(app, household):
    person = app.extensions["people"].add(kind=GUEST, name="leaving")
    kept = keep(app, person.id, "of-leaving")
    secret = app.extensions["api_tokens"].make("theirs", SCOPES, person.id)
    assert household["owner"][0](f"/people/{person.id}/remove", "POST").status_code == 303
    assert app.extensions["api_tokens"].find(secret) is None
    with app.extensions["database"].connect() as connection:
        for table in ("notebooks", "responses", "state_handles", "batches", "chats"):
            deleted = " AND deleted_at IS NULL" if table in ("batches", "chats") else ""
            query = f"SELECT 1 FROM {table} WHERE person_id = ?{deleted}"
            assert connection.execute(query, (kept.person.id,)).fetchall() == [], table


@pytest.mark.parametrize("do", sorted(COMMANDS))
def test_a_command_on_another_persons_chat_gets_not_found(app, household, do):
    before, everything = content_of(app), household
    for name in ("owner", "anna"):
        kept = everything[name][1]
        targets = [kept.message_id, kept.chat_id, f"{kept.message_id}:1:5"]
        for other in {"owner", "anna", "ben", "user"} - {name}:
            frames = [{"do": f"{do}:{target}", "chat": everything[other][1].chat_id} for target in targets]
            frames += [{"do": f"{do}:{target}", "chat": kept.chat_id} for target in ("", *targets, kept.pending_id)]
            for frame in frames:
                with app.test_request_context(), pytest.raises(ChatNotFound):
                    page = ChatContext(app, "en", everything[other][1].person)
                    command = read_command(FrameFields({"text": "mine", "title": "mine", **frame}))
                    Commands(page, "a test", lambda: Role.OWNER).perform(command)
    assert content_of(app) == before


@pytest.mark.parametrize("name", ["anna", "user"])
def test_the_page_without_scripts_says_so_too(app, household, name):
    ask, kept, before = household[name][0], household["owner"][1], content_of(app)
    for do, chat_id in ((f"regenerate:{kept.message_id}", household[name][1].chat_id), ("send", kept.chat_id)):
        answer = ask("/chat/do", "POST", data={"do": do, "chat": chat_id, "text": "mine now"})
        assert answer.status_code == 404 and kept.secret not in answer.text
    files = {"do": "remove_attachment:" + kept.pending_id, "chat": household[name][1].chat_id}
    assert ask("/chat/do", "POST", data=files).status_code == 404
    assert content_of(app) == before


@pytest.mark.parametrize("name", ["owner", "anna", "user"])
def test_lists_searches_and_exports_show_ones_own(household, name):
    ask, kept = household[name]
    for path in ("/", "/chats?q=question", "/chats?q=title", "/chats/all", "/chats/all?q=question"):
        page = ask(path, headers={"HX-Request": "true"}).text
        assert kept.secret in page, path
        assert [other for other, (_, one) in household.items() if one and one is not kept and one.secret in page] == []
    page = ask(f"/notebook/{kept.notebook_id}").text
    assert kept.secret in page and ("/notebook/batch" in page) is (name == "owner")
    assert [other for other, (_, one) in household.items() if one and one is not kept and one.secret in page] == []


def test_a_guest_can_neither_take_a_file_into_anothers_chat_nor_open_it_by_polling(app, household):
    before, kept = content_of(app), household["anna"][1]
    for other, ask in others_of(household, "anna"):
        if other == "stranger":
            continue
        form = {"chat": kept.chat_id, "file": (BytesIO(b"text"), "mine.txt")}
        assert ask("/chat/attach", "POST", data=form, headers={"HX-Request": "true"}).status_code == 404
        form = {"do": "send", "text": "x", "chat": kept.chat_id, "file": (BytesIO(b"t"), "m.txt")}
        assert ask("/chat/do", "POST", data=form).status_code == 404
        opened = {"page": "", "seen": 0, "frames": [[1, f'{{"do": "open", "chat": "{kept.chat_id}"}}']]}
        told = ask("/chat/poll", "POST", json=opened).get_json()
        frames = told["frames"]
        for _ in range(100):
            if any('"refused"' in text for _, text in frames):
                break
            told = ask("/chat/poll", "POST", json={"page": told["page"], "seen": 0, "frames": []}).get_json()
            frames = told["frames"]
        assert any('"refused"' in text for _, text in frames)
        assert kept.secret not in str(frames)
    assert content_of(app) == before


def test_a_login_with_the_token_makes_a_separate_person(app):
    browsers = [app.test_client() for _ in range(2)]
    for browser in browsers:
        login = {"token": TOKEN}
        assert browser.post("/login", data=login, base_url="http://127.0.0.1", headers=HOME).status_code == 303
    asked = {"do": "send", "text": "something private", "chat": ""}
    browsers[0].post("/chat/do", data=asked, base_url="http://127.0.0.1", headers=HOME)
    pages = [browser.get("/", base_url="http://127.0.0.1", headers=HOME).text for browser in browsers]
    assert ["something private" in page for page in pages] == [True, False]
    assert "something private" not in client_of(app, OWNER_ID)("/").text


@pytest.mark.parametrize("name, may_use", [("owner", True), ("root", True), ("anna", False), ("user", False)])
def test_a_tool_is_for_the_owner_and_admins_until_it_is_marked(app, household, name, may_use):
    people, database = app.extensions["people"], app.extensions["database"]
    person = people.add(kind="account", name="root", is_admin=True) if name == "root" else household[name][1].person
    tools, turns = ToolStore(database), app.extensions["chat_turns"]
    definition = ToolDefinition(f"tool_of_{name}", behaviour=Behaviour.FIXED, fixed_value="42")
    tool = tools.create(definition)
    store = ChatStore(database, person.id)
    chat = store.create(tools=ChatTools(is_own=True, is_on=True, tool_ids=(tool.id,)))
    call = ToolCall("c1", definition.name, "{}")
    question = store.add_message(chat.id, None, Message(Speaker.USER, "Call it."))
    answer = store.add_message(chat.id, question.id, Message(Speaker.ASSISTANT, "", tool_calls=(call,)))

    def reaches():
        with app.test_request_context():
            page = ChatContext(app, "en", person)
            chosen = chosen_tools(chat, page.presets.of_chat(chat), page.database)
            is_listed = tool.id in {row.id for row in page.tools.list()}
        (state,) = turns.tools.calls(answer)
        return is_listed, chosen.is_on, state.tool is not None

    assert reaches() == (may_use,) * 3
    if not may_use:
        with raises_code("chat_error"):
            turns.tools.approve(answer.id, "c1")
    tools.update(tool.id, replace(definition, for_guests=True))
    assert reaches() == (True, True, True)
    tools.delete(tool.id)


@pytest.mark.parametrize("is_marked", [True, False])
def test_the_mark_goes_through_the_tools_form(household, app, is_marked):
    ask, tools = household["owner"][0], ToolStore(app.extensions["database"])
    tool = tools.create(ToolDefinition(f"marked_{is_marked}", behaviour=Behaviour.FIXED, for_guests=not is_marked))
    assert (" checked" in ask(f"/tools/{tool.id}").text.split('name="for_guests"')[1].split(">")[0]) is not is_marked
    form = {
        "name": tool.definition.name,
        "behaviour": "fixed",
        "approval": "always",
        "updated_at": repr(tool.updated_at),
    }
    answer = ask(f"/tools/{tool.id}", "POST", data=form | ({"for_guests": "1"} if is_marked else {}))
    assert answer.status_code == 303 and tools.get(tool.id).definition.for_guests is is_marked
    tools.delete(tool.id)


@pytest.mark.parametrize("name, adds", [("owner", True), ("anna", False), ("user", False)])
def test_a_chat_file_adds_its_preset_for_people_who_may_add_one(app, household, name, adds):
    """For others, only the chat gets the values of the file's preset."""
    presets, database = app.extensions["presets"], app.extensions["database"]
    preset = presets.add([replace(presets.active(), id="", name=f"for-{name}", system_prompt=f"As {name}.")])[0]
    chat = ChatStore(database, OWNER_ID).create(title="moves", preset_id=preset.id)
    question = ChatStore(database).add_message(chat.id, None, Message(Speaker.USER, "x"))
    ChatStore(database).add_message(chat.id, question.id, Message(Speaker.ASSISTANT, "y"))
    data = household["owner"][0](f"/chat/{chat.id}/export.rwkvchat").data
    presets.delete(preset.id)
    before = [row.id for row in presets.list()]
    answer = household[name][0]("/chat/import", "POST", data={"file": (BytesIO(data), "moves.rwkvchat")})
    assert answer.status_code == 303
    made = ChatStore(database, household[name][1].person.id).get(answer.location.partition("?")[0].rpartition("/")[2])
    added = [row for row in presets.list() if row.id not in before]
    assert [row.system_prompt for row in added] == ([f"As {name}."] if adds else [])
    assert (made.preset_id in {row.id for row in added}) is adds and made.system_prompt == f"As {name}."
    assert ("preset%3A1" in answer.location) is not adds
