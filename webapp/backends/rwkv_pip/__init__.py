"""Models run by the official ``rwkv`` package: RWKV-4 to 7 on CPU, NVIDIA and other torch devices.

The package has two classes behind switches in the environment and reads whole .pth files. ``model_loader`` makes its
objects from any file, tensor by tensor; ``requirements`` says beforehand what it can run. Nothing heavy is imported
with this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webapp.backends.rwkv_pip.backend import RwkvPipBackend

__all__ = ["RwkvPipBackend"]


def __getattr__(name: str) -> Any:
    """The backend itself, which brings numpy, at first use: pages ask this room's ``requirements`` alone."""
    if name not in __all__:
        raise AttributeError(name)
    from webapp.backends.rwkv_pip import backend

    return getattr(backend, name)
