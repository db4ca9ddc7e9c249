import pytest

from tests.web.chat.running_roost import RunningRoost, fake_strategy


@pytest.fixture
def start(tmp_path):
    """start(strategy) -> RunningRoost; stopped afterwards."""
    started = []

    def start(strategy="", **settings):
        started.append(RunningRoost(tmp_path / "data", strategy or fake_strategy(), **settings))
        return started[-1]

    yield start
    for roost in started:
        roost.stop()


@pytest.fixture
def roost(start):
    return start()
