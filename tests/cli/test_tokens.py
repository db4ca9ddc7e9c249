"""`roost tokens` in a terminal, also while a server runs."""

import pytest

from webapp.cli import main
from webapp.storage import credentials
from webapp.storage.credentials import TOKEN_PREFIX, ApiTokens
from webapp.storage.database import Database
from webapp.storage.people import People


@pytest.fixture
def roost(tmp_path, capsys):
    """roost(arguments...) -> (exit code, output, errors)."""

    def roost(*arguments):
        code = main(["tokens", "--data", str(tmp_path), *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return roost


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "roost.db")
    yield database
    database.close()


def test_a_token_is_created_listed_and_revoked_while_a_server_runs(roost, database, monkeypatch):
    monkeypatch.setattr(credentials, "READ_EVERY_S", 0.0)
    server = ApiTokens(database)
    assert roost()[0] == 0 and server.list() == []
    code, secret, _ = roost("make", "An editor", "--may", "chat", "models")
    assert code == 0 and secret.startswith(TOKEN_PREFIX) and secret.count("\n") == 1
    found = server.find(secret.strip())
    assert (found.name, found.scopes, found.person_id) == ("An editor", ("chat", "models"), "owner")
    listed = roost("list")[1]
    assert found.id in listed and "An editor" in listed and secret.strip() not in listed
    code, told, _ = roost("revoke", "An editor")
    assert code == 0 and "An editor" in told and server.find(secret.strip()) is None


@pytest.mark.parametrize("arguments", [[], ["make", "x"], ["revoke", "x"]])
def test_a_missing_data_folder_is_named_and_not_created(roost, tmp_path, arguments):
    code, told, complained = roost("--data", str(tmp_path / "mistyped"), *arguments)
    assert code == 2 and told == "" and "mistyped" in complained and not list(tmp_path.iterdir())


def test_a_token_belongs_to_a_person_and_an_invalid_one_is_refused(roost, database):
    anna = People(database).add(kind="guest", name="Anna")
    first, second = (roost("make", "the same", "--person", "anna")[1].strip() for _ in range(2))
    tokens = ApiTokens(database)
    assert {tokens.find(secret).person_id for secret in (first, second)} == {anna.id}
    assert "Anna" in roost()[1]
    for refused in (["revoke", "the same"], ["revoke", "no such"], ["make", "x", "--person", "Nobody"], ["make", " "]):
        code, told, complained = roost(*refused)
        assert code == 2 and told == "" and complained.startswith("roost: "), refused
    assert roost("revoke", tokens.find(first).id)[0] == 0
    left = ApiTokens(database)
    assert left.find(first) is None and left.find(second) is not None
