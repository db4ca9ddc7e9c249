"""RWKV-4 to 7 on ggml, the library under llama.cpp and rwkv.cpp: their ``.bin`` and ``.gguf``, and any checkpoint.

ggml's C API is driven through ctypes, so nothing is compiled and no program of theirs is run. ``library`` finds a
prebuilt ggml, ``weights`` says what is kept in which type, ``graph`` is the computation of each version, ``model`` runs
it for many slots, ``backend`` is the contract's view of it all. Nothing heavy is imported with this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webapp.backends.ggml.backend import GgmlBackend

__all__ = ["GgmlBackend"]


def __getattr__(name: str) -> Any:
    """The backend at first use."""
    if name not in __all__:
        raise AttributeError(name)
    from webapp.backends.ggml import backend

    return getattr(backend, name)
