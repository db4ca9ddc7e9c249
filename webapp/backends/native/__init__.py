"""Roost's own engine: RWKV-4 to 7 on a processor, batched, in 32 to 4 bits, in C++ (``src``) through ctypes.

``library`` finds, builds and tests the C++ library, ``model`` reads a file into it and runs it, ``backend`` is the
contract's view of it all. Nothing heavy is imported with this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webapp.backends.native.backend import NativeBackend

__all__ = ["NativeBackend"]


def __getattr__(name: str) -> Any:
    """The backend at first use."""
    if name not in __all__:
        raise AttributeError(name)
    from webapp.backends.native import backend

    return getattr(backend, name)
