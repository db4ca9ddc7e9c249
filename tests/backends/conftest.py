import pytest

from webapp.backends.webgpu.device import CPU_VARIABLE


@pytest.fixture(autouse=True)
def software_graphics_adapters(monkeypatch):
    """A machine without a graphics card runs WebGPU's shaders on lavapipe, where that is installed."""
    monkeypatch.setenv(CPU_VARIABLE, "1")
