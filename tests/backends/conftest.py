import functools
import importlib.util

import pytest

from webapp.backends import packed_file
from webapp.backends.webgpu import device
from webapp.backends.webgpu.device import CPU_VARIABLE


@pytest.fixture(autouse=True)
def own_packed_files(tmp_path, monkeypatch):
    """Does not use the user's folder."""
    monkeypatch.setattr(packed_file, "folder", lambda: tmp_path / "packed")


@pytest.fixture(autouse=True)
def software_graphics_adapters(monkeypatch):
    """Without a graphics card, WebGPU's shaders run on lavapipe, if it is installed. All tests of a process share one
    device, because compiling its pipelines takes longer than running a tiny model."""
    monkeypatch.setenv(CPU_VARIABLE, "1")
    if importlib.util.find_spec(device.PACKAGE) is not None:
        from webapp.backends.webgpu import model

        monkeypatch.setattr(model, "Gpu", shared_gpu)


def shared_gpu(wanted=""):
    return _opened()


@functools.cache
def _opened():
    gpu = device.Gpu()
    gpu.close = lambda: None
    return gpu
