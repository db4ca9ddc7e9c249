import pytest

from tests.web.chat.running_roost import RunningRoost, fake_strategy


@pytest.fixture(scope="package")
def roost(tmp_path_factory):
    """One server for all tests that do not need another answer; it gets many chats."""
    roost = RunningRoost(tmp_path_factory.mktemp("roost"), fake_strategy())
    yield roost
    roost.stop()
