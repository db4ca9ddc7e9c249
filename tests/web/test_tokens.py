"""API tokens: created and shown once, stored as a hash, limited to their scopes in every dialect, revoked
immediately."""

import contextlib
import re
import threading

import pytest

from tests.errors import raises_code
from tests.web.apps import open_app
from tests.web.chat.running_roost import fake_strategy, models_dir
from tests.web.owner import owner_client
from webapp.settings import Settings
from webapp.storage.credentials import MAX_TOKENS, TOKEN_PREFIX, ApiTokens
from webapp.storage.database import Database

TOKEN = "a-token-for-tests"
QUESTION = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


@pytest.fixture(scope="module", params=["shared", "single"])
def app(request, tmp_path_factory):
    shared = {"lan": True, "token": TOKEN} if request.param == "shared" else {}
    folder = tmp_path_factory.mktemp("tokens")
    settings = Settings(
        data_dir=folder, models_dir=models_dir(), strategy=fake_strategy("Hello."), requests_per_s=1e6, **shared
    )
    with open_app(settings) as app:
        yield app


def ask(app, path, token, body=None, method=None, **headers):
    told = {"Authorization": f"Bearer {token}", **headers}
    method = method or ("GET" if body is None else "POST")
    client = app.test_client(use_cookies=False)
    return client.open(path, method=method, base_url="http://127.0.0.1", json=body, headers=told)


def made(app, *scopes, person_id="owner"):
    return app.extensions["api_tokens"].make("a program", scopes, person_id)


@pytest.mark.parametrize("change", [lambda tokens, _: tokens.make("another", ("chat",)), ApiTokens.revoke])
def test_tokens_are_found_while_the_database_is_busy(tmp_path, change):
    database = Database(tmp_path / "roost.db")
    tokens = ApiTokens(database)
    secret = tokens.make("one", ("chat",))
    found, began, transaction = [], threading.Event(), database.transaction

    @contextlib.contextmanager
    def busy():
        began.set()
        assert is_asked.wait(60)
        with transaction() as connection:
            yield connection

    is_asked = threading.Event()
    database.transaction = busy
    changing = threading.Thread(target=change, args=(tokens, tokens.find(secret).id))
    asking = threading.Thread(target=lambda: found.append(tokens.find(secret)), daemon=True)
    changing.start()
    assert began.wait(60)
    asking.start()
    asking.join(60)
    names = [token.name for token in found]
    is_asked.set()
    changing.join(60)
    assert names == ["one"]
    database.close()


def test_a_token_for_asking_asks_and_does_nothing_else(app):
    token = made(app, "chat")
    assert ask(app, "/v1/chat/completions", token, QUESTION).json["choices"]
    assert ask(app, "/v1/models", token).status_code == ask(app, "/api/tags", token).status_code == 200
    for path, body in (("/switch-model", {"model": "x"}), ("/api/pull", {"model": "x"}), ("/exit", {})):
        assert ask(app, path, token, body).status_code == 403, path
    for page in ("/settings", "/presets", "/models", "/tokens"):
        assert ask(app, page, token, Accept="text/html").status_code == 403, page
    assert ask(app, "/models", token, Accept="application/json").json["object"] == "list"


def test_a_token_for_models_asks_nothing(app):
    token = made(app, "models")
    answers = {path: ask(app, path, token, body) for path, body in QUESTIONS.items()}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(QUESTIONS, 403)
    assert answers["/v1/chat/completions"].json["error"]["code"] == "token_scope"
    assert answers["/v1/messages"].json["error"]["type"] == "permission_error"
    assert isinstance(answers["/api/chat"].json["error"], str)
    assert ask(app, "/v1/models", token).status_code == 200
    assert ask(app, "/switch-model", token, {"model": "none/such.pth"}).status_code not in (401, 403)
    assert ask(app, "/exit", token, {}).status_code == 403


QUESTIONS = {
    "/v1/chat/completions": QUESTION,
    "/v1/messages": QUESTION,
    "/api/chat": {**QUESTION, "model": "rwkv"},
    "/completion": {"prompt": "x"},
    "/v1/tokenize": {"text": "x"},
}


def test_anthropics_header_does_as_well(app):
    token = made(app, "chat")
    answer = app.test_client().post(
        "/v1/messages", base_url="http://127.0.0.1", json=QUESTION, headers={"x-api-key": token}
    )
    assert answer.json["content"]


def test_a_revoked_token_and_one_that_never_was_are_refused(app):
    """Even if no proof is required: a client that sends a token does not expect access without one."""
    token, tokens = made(app, "chat"), app.extensions["api_tokens"]
    assert ask(app, "/v1/models", token).status_code == 200
    tokens.revoke(tokens.find(token).id)
    assert ask(app, "/v1/models", token).status_code == ask(app, "/v1/models", f"{TOKEN_PREFIX}x").status_code == 401
    assert ask(app, "/v1/models", TOKEN).status_code == 200, "the server's own goes on"


def test_a_blocked_persons_token_is_refused(app):
    people = app.extensions["people"]
    guest = people.add(kind="guest", name="Ada")
    token = made(app, "chat", person_id=guest.id)
    assert ask(app, "/v1/models", token).status_code == 200
    people.change(guest.id, revoked_at=1.0)
    assert ask(app, "/v1/models", token).status_code == 401


def test_slots_are_shared_between_tokens_as_between_people(app, monkeypatch):
    """Two programs of the owner count as two; those of a guest count as that guest; programs with the server's token or
    none are distinguished by address."""
    guest, asked, limit = app.extensions["people"].add(kind="guest", name="Ada"), [], app.extensions["api_limit"]
    enter = limit.enter
    monkeypatch.setattr(limit, "enter", lambda client: asked.append(client) or enter(client))
    mine = [made(app, "chat") for _ in range(2)]
    theirs = [made(app, "chat", person_id=guest.id) for _ in range(2)]
    for token in (*mine, mine[0], *theirs, TOKEN):
        assert ask(app, "/v1/chat/completions", token, QUESTION).status_code == 200
    assert asked[0] == asked[2] != asked[1] and asked[3] == asked[4]
    assert len(set(asked)) == 4 and guest.id in asked[3] and "127.0.0.1" in asked[5]


def test_the_owner_makes_and_revokes_them_on_a_page(app):
    owner, origin = owner_client(app), {"Origin": "http://127.0.0.1"}
    page = owner.post(
        "/tokens", base_url="http://127.0.0.1", headers=origin, data={"name": "An editor", "scope": ["chat"]}
    )
    (token,) = re.findall(TOKEN_PREFIX + r"[\w-]{40,}", page.text)[:1]
    assert ask(app, "/v1/models", token).status_code == 200
    listed = owner.get("/tokens", base_url="http://127.0.0.1").text
    assert token not in listed and "An editor" in listed
    for data in ({"name": " ", "scope": ["chat"]}, {"name": "x"}, {"name": "x", "scope": ["all"]}):
        assert owner.post("/tokens", base_url="http://127.0.0.1", headers=origin, data=data).status_code == 422
    found = app.extensions["api_tokens"].find(token)
    owner.post(f"/tokens/{found.id}/revoke", base_url="http://127.0.0.1", headers=origin)
    assert ask(app, "/v1/models", token).status_code == 401


def test_they_last_with_their_use_and_nothing_that_logs_in(tmp_path):
    database = Database(tmp_path / "roost.db")
    tokens = ApiTokens(database)
    secret = tokens.make("a\n program", ("models", "chat"))
    tokens.touch(tokens.find(secret))
    again = ApiTokens(Database(tmp_path / "roost.db")).find(secret)
    assert (again.name, again.scopes) == ("a program", ("chat", "models")) and again.used_at >= again.created_at
    assert not any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())
    for number in range(MAX_TOKENS - 1):
        tokens.make(f"program {number}", ("chat",))
    with raises_code("token_invalid", key="reason.storage.too_many_tokens"):
        tokens.make("one more", ("chat",))
