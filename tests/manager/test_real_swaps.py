"""Models of every architecture in turn, in one manager, with the official package."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from tests.manager.conftest import last_output, request, wait_phase
from tests.waiting import wait_until
from tests.weights.make_checkpoints import make_tensors
from webapp.engine.outputs import FinishReason
from webapp.errors import StrategyError
from webapp.manager.client import ProcessEngineClient
from webapp.manager.manager import ModelManager
from webapp.manager.memory import has_room_beside
from webapp.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def real_models(tmp_path):
    for architecture in ("4", "6", "7"):
        save_file(make_tensors(architecture, 2, 128, 64, 256), str(tmp_path / f"v{architecture}.safetensors"))
    return tmp_path


@pytest.fixture
def make(real_models):
    made = []

    def make(has_room):
        settings = Settings(data_dir=real_models, models_dir=real_models, model="v4.safetensors", threads=1)
        made.append(ModelManager(settings, ProcessEngineClient, has_room=has_room))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@pytest.mark.parametrize(
    ("has_room", "order"),
    [(has_room_beside, ("v4", "v6", "v7", "v6")), (lambda target: False, ("v6", "v7"))],
    ids=["room for both", "one at a time"],
)
def test_architectures_swap_in_one_manager_and_the_memory_goes_back(make, has_room, order):
    manager = make(has_room)
    manager.library.list()  # starts the reader process
    children = psutil.Process().children(recursive=True)
    logits = {}
    for name in order:
        manager.load(f"{name}.safetensors")
        assert manager.wait_ready(120).model == f"{name}.safetensors"
        assert manager.model_info().config.architecture == name[1:]
        assert last_output(manager.submit(request()), 60).finish_reason is FinishReason.LENGTH
        found = manager.logits([1, 2, 3])
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, logits.setdefault(name, found))
    assert set(logits) == set(order) and not np.allclose(logits["v6"], logits["v7"])
    assert manager.engine_memory_bytes() > 20_000_000
    with pytest.raises(StrategyError):
        manager.load(strategy="cpu fp33")
    manager.unload()
    wait_phase(manager, "empty")
    wait_until(lambda: psutil.Process().children(recursive=True) == children)
