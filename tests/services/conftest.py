import pytest

from tests.services.scripted_manager import ScriptedManager
from webapp.services.chat.turns import ChatTurns
from webapp.settings import Settings
from webapp.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def world():
    return load_tokenizer(65536)


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path, models_dir=tmp_path / "models")


@pytest.fixture
def turns_with(world, database, settings):
    """A function: scripts -> (ChatTurns, its manager). Everything is closed afterwards."""
    made = []

    def make(*scripts, **options):
        manager = ScriptedManager(world, *scripts, **options)
        made.append(ChatTurns(manager, database, settings))
        return made[-1], manager

    yield make
    for turns in made:
        turns.close()
