import pytest

from webapp.storage.chats import ChatStore
from webapp.storage.database import Database


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "roost.db")
    yield database
    database.close()


@pytest.fixture
def store(database):
    return ChatStore(database)
