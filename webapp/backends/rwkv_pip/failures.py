"""Exceptions of torch and the package as errors of Roost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from webapp.errors import ModelLoadFailed, OutOfMemory, RoostError

# c10/core/impl/alloc_cpu.cpp, mmap under torch's storages, cuBLAS without room for its workspace.
OUT_OF_MEMORY_WORDS = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "cublas_status_alloc_failed",
)


def is_out_of_memory(exc: BaseException) -> bool:
    """``torch.cuda.OutOfMemoryError`` is a RuntimeError that says ``out of memory``, so torch need not be asked."""
    if isinstance(exc, MemoryError):
        return True
    text = str(exc).lower()
    return isinstance(exc, (RuntimeError, OSError)) and any(words in text for words in OUT_OF_MEMORY_WORDS)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Lets everything through but makes running out of memory an OutOfMemory."""
    try:
        yield
    except RoostError:
        raise
    except Exception as exc:
        if is_out_of_memory(exc):
            raise OutOfMemory(reason=first_line(exc)) from exc
        raise


@contextlib.contextmanager
def loading(path: str) -> Iterator[None]:
    """Every exception of the package becomes OutOfMemory or ModelLoadFailed."""
    try:
        with running():
            yield
    except RoostError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {first_line(exc)}"
        raise ModelLoadFailed(name=os.path.basename(path), reason=reason) from exc


def first_line(exc: BaseException) -> str:
    """torch's messages go on for pages."""
    return (str(exc).strip() or "no reason given").splitlines()[0]
