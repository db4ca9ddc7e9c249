"""Loads and tests the C++ library; see ``building`` for its source.

The instruction set is chosen at load: the best one of the CPU whose kernels pass a self-test. Without a library and a
compiler, nothing here fails: :func:`availability` says what is needed.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path

from webapp.backends.native import building
from webapp.backends.native.building import NativeUnavailable
from webapp.engine.backend import Availability
from webapp.i18n import Text

ABI = 5  # of src/api.cpp
ISAS = {"avx512": 3, "avx2": 2, "portable": 0}
"""Best first."""
NO_JOBS, LARGE_JOBS, ALL_JOBS = range(3)  # src/engine.h: Spread
ISA_VARIABLE = "ROOST_NATIVE_ISA"


def availability() -> Availability:
    """Whether there is a library, or a compiler that could build it. Starts no program."""
    if building.is_built():
        return Availability(True)
    failure = building.failure()
    if failure is not None:
        return Availability(False, failure, building.way_out(), is_ready=False, has_failed=True)
    if building.find_compiler() is None:
        reason = Text("reason.backends.no_library_no_compiler")
        return Availability(False, reason, building.way_out(), is_ready=False)
    return Availability(True, is_ready=False)


@lru_cache(1)
def load() -> ctypes.CDLL:
    """The library; builds it first if needed. Raises NativeUnavailable."""
    path = building.find_library() or building.build()
    try:
        return _opened(path)
    except NativeUnavailable:
        if path.parent != building.BUILT:
            raise
        return _opened(building.build())  # the wheel's library is for another system, such as one with musl


def _opened(path: Path) -> ctypes.CDLL:
    """Raises NativeUnavailable if the system cannot load it, or if its version is different."""
    try:
        library = ctypes.CDLL(str(path))
        library.roost_abi.restype = ctypes.c_int32
        found = library.roost_abi()
    except (OSError, AttributeError) as exc:
        reason = Text("reason.backends.cannot_be_loaded", file=path.name, error=str(exc))
        raise NativeUnavailable(reason, building.way_out()) from exc
    if found != ABI:
        reason = Text("reason.backends.other_roost_version", file=path.name)
        raise NativeUnavailable(reason, Text("reason.backends.delete", path=str(path)))
    _declare(library)
    return library


@lru_cache(None)
def choose_isa(wanted: str = "") -> str:
    """``wanted`` (or ``ROOST_NATIVE_ISA``) if the CPU supports it, otherwise the best one that passes its self-test
    here. Raises NativeUnavailable if the wanted one does not work."""
    library = load()
    wanted = wanted or os.environ.get(ISA_VARIABLE, "")
    reasons = []
    for name in [wanted] if wanted else ISAS:
        if name not in ISAS:
            reason = Text("reason.backends.no_instruction_set", name=name)
            raise NativeUnavailable(reason, Text("reason.common.choose_one_of", names=", ".join(ISAS)))
        failed = library.roost_self_test(ISAS[name])
        if failed is None:
            return name
        reasons.append(f"{name}: {failed.decode()}")
    raise NativeUnavailable("; ".join(reasons), Text("reason.backends.let_roost_choose_isa"))


# ---------------------------------------------------------------- the C interface (src/api.cpp)


class Config(ctypes.Structure):
    """src/engine.h: Config."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("architecture", "layers", "width", "attention", "hidden", "heads", "head_size", "vocab"),
            *("format", "head_format", "lora_format", "embedding_q8", "threads", "isa", "max_slots", "max_columns"),
        )
    ]


class Part(ctypes.Structure):
    """src/engine.h: Engine::Part."""

    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_int64), ("offset", ctypes.c_int64)]


class SamplingJob(ctypes.Structure):
    """src/sampler.h: SamplingJob."""

    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("lines", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("vocab", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("temperature", "top_p", "top_k", "min_p", "seed", "position")),
        *((name, ctypes.c_void_p) for name in ("starts", "ids", "values", "banned")),
        ("banned_count", ctypes.c_int32),
        ("mask_of", ctypes.c_void_p),
        ("masks", ctypes.c_void_p),
        ("mask_words", ctypes.c_int32),
        ("alternatives", ctypes.c_void_p),
        ("most_alternatives", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("token_ids", "logprobs", "best_ids", "best_logprobs")),
        ("only_usable", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("token_of", "place_of")),
        ("may_overwrite", ctypes.c_int32),
        ("maxima", ctypes.c_void_p),
    ]


def _declare(library: ctypes.CDLL) -> None:
    handle, pointer, number, wide = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    functions = {
        "best_isa": (number, []),
        "self_test": (ctypes.c_char_p, [number]),
        "create": (number, [pointer, pointer]),
        "free": (None, [handle]),
        "isa_name": (ctypes.c_char_p, [handle]),
        "set_matrix": (number, [handle, number, number, pointer, number, wide, wide, *[number] * 5]),
        "begin_calibration": (number, [handle, number, pointer, pointer]),
        "calibrate": (number, [handle, number]),
        "set_vector": (number, [handle, number, number, pointer, number]),
        "set_initial_state": (number, [handle, pointer]),
        "parts": (number, [handle, pointer, number, pointer, number, pointer]),
        "adopt": (number, [handle, pointer, wide]),
        "ready": (number, [handle]),
        "new_slot": (number, [handle]),
        "free_slot": (number, [handle, number]),
        "copy_slot": (number, [handle, number, number]),
        "state_floats": (wide, [handle]),
        "save": (number, [handle, number, pointer]),
        "restore": (number, [handle, number, pointer]),
        "transfer_state": (number, [handle, number, number, pointer, pointer, pointer]),
        "spread": (number, [handle, number]),
        "step": (number, [handle, number, pointer, pointer, pointer, pointer]),
        "logits": (pointer, [handle, pointer]),
        "set_usable": (number, [handle, pointer, number]),
        "sample": (number, [handle, pointer]),
        "weight_bytes": (wide, [handle]),
        "arena_bytes": (wide, [handle]),
        "read_bandwidth": (ctypes.c_double, [handle, wide]),
        "profile": (None, [handle, number, pointer, pointer]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, f"roost_{name}")
        function.restype, function.argtypes = result, arguments
