import pytest

from tests.web.chat.running_roost import RunningRoost, fake_strategy


@pytest.fixture(scope="package")
def roost(tmp_path_factory):
    """One server for all tests that do not need another answer; it comes to hold many chats."""
    roost = RunningRoost(tmp_path_factory.mktemp("roost"), fake_strategy())
    yield roost
    roost.stop()


@pytest.fixture
def start(tmp_path):
    """start(strategy) -> RunningRoost of its own; stopped afterwards."""
    started = []

    def start(strategy):
        started.append(RunningRoost(tmp_path / "data", strategy))
        return started[-1]

    yield start
    for roost in started:
        if roost.is_running:
            roost.stop()
