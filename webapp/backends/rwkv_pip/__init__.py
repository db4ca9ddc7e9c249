"""Models run by the official ``rwkv`` package: RWKV-4 to 7 on CPU, NVIDIA and other torch devices.

The package has two classes behind module-level switches, wants a file name and reads all of it with ``torch.load``.
Here it gets its own copy of its module per model (``package``) and tensors that are read when it first touches them
(``deferred_weights``); ``requirements`` says beforehand what it can run. Nothing heavy is imported with this room.
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
