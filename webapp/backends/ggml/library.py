"""Loads ggml from an installed package, through ctypes.

If ``ROOST_GGML_LIBRARY`` is set (a library or a folder of libraries), only that is used. Otherwise the first that works
of llama-cpp-python (built on this machine), libggml-python (comes with Roost) and xllamacpp. Every function in
:data:`SIGNATURES` must exist. Libraries are built for a CPU type: the required instructions are compared with the CPU
before any computation, because a missing instruction would end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from ctypes import c_bool, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from webapp.backends.machine import DriverFailed, printed_by
from webapp.engine.backend import Availability
from webapp.i18n import Text

log = logging.getLogger(__name__)

PATH_VARIABLE = "ROOST_GGML_LIBRARY"
PACKAGE = "libggml-python"
PINNED = "libggml-python==0.20.2.post1"
PACKAGES = (
    ("llama-cpp-python", "llama_cpp", ("lib*",), ("ggml-base", "ggml-cpu")),
    (PACKAGE, "libggml", ("lib*", "bin"), ("ggml-base", "ggml-cpu")),
    ("xllamacpp", "xllamacpp", (), ("xllamacpp",)),
)
"""Package, module, folders in it (or itself), libraries in these folders."""
SPINS = "10000"
"""How many rounds the threads of a ggml with OpenMP (GCC's) spin, a few tenths of a millisecond, before they sleep. In
engine processes, threads do not spin by default, because of torch; then a token takes three times as long, because it
contains a thousand such waits."""
NEWEST_PYTHON = (3, 14)
"""The newest version for which libggml-python has wheels."""


class InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


P, I32, I64, F32, SIZE = c_void_p, c_int32, c_int64, c_float, c_size_t
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ggml_version": (c_char_p,),
    "ggml_log_set": (None, P, P),
    "ggml_init": (P, InitParams),
    "ggml_free": (None, P),
    "ggml_tensor_overhead": (SIZE,),
    "ggml_graph_overhead_custom": (SIZE, SIZE, c_bool),
    "ggml_new_tensor_1d": (P, P, I32, I64),
    "ggml_new_tensor_2d": (P, P, I32, I64, I64),
    "ggml_new_tensor_3d": (P, P, I32, I64, I64, I64),
    "ggml_new_graph_custom": (P, P, SIZE, c_bool),
    "ggml_build_forward_expand": (None, P, P),
    "ggml_graph_n_nodes": (I32, P),
    "ggml_graph_size": (I32, P),
    "ggml_set_input": (None, P),
    "ggml_set_output": (None, P),
    "ggml_get_data": (P, P),
    "ggml_nbytes": (SIZE, P),
    "ggml_row_size": (SIZE, I32, I64),
    "ggml_blck_size": (I64, I32),
    "ggml_quantize_chunk": (SIZE, I32, P, P, I64, I64, I64, P),
    "ggml_validate_row_data": (c_bool, I32, P, SIZE),
    "ggml_backend_cpu_init": (P,),
    "ggml_backend_cpu_set_n_threads": (None, P, I32),
    "ggml_backend_cpu_buffer_type": (P,),
    "ggml_backend_free": (None, P),
    "ggml_backend_alloc_ctx_tensors_from_buft": (P, P, P),
    "ggml_backend_buffer_free": (None, P),
    "ggml_backend_tensor_set": (None, P, P, SIZE, SIZE),
    "ggml_backend_tensor_get": (None, P, P, SIZE, SIZE),
    "ggml_backend_cpu_buffer_from_ptr": (P, P, SIZE),
    "ggml_backend_tensor_alloc": (I32, P, P, P),
    "ggml_backend_graph_compute": (I32, P, P),
    "ggml_backend_cpu_reg": (P,),
    "ggml_backend_reg_get_proc_address": (P, P, c_char_p),
    "ggml_backend_reg_dev_get": (P, P, SIZE),
    "ggml_backend_reg_dev_count": (SIZE, P),
    "ggml_backend_dev_init": (P, P, c_char_p),
    "ggml_backend_dev_buffer_type": (P, P),
    "ggml_backend_dev_description": (c_char_p, P),
    "ggml_backend_dev_memory": (None, P, P, P),
    "ggml_backend_sched_new": (P, P, P, I32, SIZE, c_bool, c_bool),
    "ggml_backend_sched_free": (None, P),
    "ggml_backend_sched_alloc_graph": (c_bool, P, P),
    "ggml_backend_sched_graph_compute": (I32, P, P),
    "ggml_backend_sched_get_buffer_size": (SIZE, P, P),
    "ggml_backend_buft_name": (c_char_p, P),
    "ggml_gallocr_new": (P, P),
    "ggml_gallocr_alloc_graph": (c_bool, P, P),
    "ggml_gallocr_free": (None, P),
    "ggml_gallocr_get_buffer_size": (SIZE, P, I32),
    "ggml_get_rows": (P, P, P, P),
    "ggml_set_rows": (P, P, P, P, P),
    "ggml_norm": (P, P, P, F32),
    "ggml_l2_norm": (P, P, P, F32),
    "ggml_scale": (P, P, P, F32),
    "ggml_concat": (P, P, P, P, I32),
    "ggml_view_1d": (P, P, P, I64, SIZE),
    "ggml_view_2d": (P, P, P, I64, I64, SIZE, SIZE),
    "ggml_view_3d": (P, P, P, I64, I64, I64, SIZE, SIZE, SIZE),
    "ggml_reshape_1d": (P, P, P, I64),
    "ggml_reshape_2d": (P, P, P, I64, I64),
    "ggml_reshape_3d": (P, P, P, I64, I64, I64),
    "ggml_reshape_4d": (P, P, P, I64, I64, I64, I64),
    "ggml_repeat_4d": (P, P, P, I64, I64, I64, I64),
    "ggml_permute": (P, P, P, I32, I32, I32, I32),
    "ggml_cpy": (P, P, P, P),
    "ggml_rwkv_wkv6": (P,) + (P,) * 7,
    "ggml_rwkv_wkv7": (P,) + (P,) * 8,
    **{f"ggml_{name}": (P, P, P, P) for name in ("mul", "add", "sub", "div", "mul_mat")},
    **{f"ggml_{name}": (P, P, P) for name in ("sigmoid", "tanh", "exp", "neg", "sqr", "relu", "silu", "cont")},
    "ggml_sum_rows": (P, P, P),
}
"""Result, then arguments, as declared in ggml.h, ggml-alloc.h, ggml-backend.h and ggml-cpu.h of ggml 0.20.2."""

COMPILED_FOR = {
    "ggml_cpu_has_avx": ("avx",),
    "ggml_cpu_has_avx2": ("avx2",),
    "ggml_cpu_has_fma": ("fma",),
    "ggml_cpu_has_f16c": ("f16c",),
    "ggml_cpu_has_bmi2": ("bmi2",),
    "ggml_cpu_has_avx_vnni": ("avx_vnni",),
    "ggml_cpu_has_avx512": ("avx512f",),
    "ggml_cpu_has_avx512_vbmi": ("avx512vbmi", "avx512_vbmi"),
    "ggml_cpu_has_avx512_vnni": ("avx512_vnni",),
    "ggml_cpu_has_avx512_bf16": ("avx512_bf16",),
    "ggml_cpu_has_amx_int8": ("amx_int8",),
    "ggml_cpu_has_dotprod": ("asimddp",),
    "ggml_cpu_has_matmul_int8": ("i8mm",),
    "ggml_cpu_has_sve": ("sve",),
}
"""Queries about how ggml was compiled -> Linux's names for the same features (/proc/cpuinfo)."""

LOG_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
"""ggml_log_level in ggml.h. Its information level logs one line per tensor."""


@ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)
def _log(level: int, text: bytes | None, _: object) -> None:
    log.log(LOG_LEVELS.get(level, logging.DEBUG), "%s", (text or b"").decode("utf-8", "replace").rstrip())


GPU_LIBRARIES = {
    "ggml-cuda": "ggml_backend_cuda_reg",
    "ggml-hip": "ggml_backend_cuda_reg",
    "ggml-metal": "ggml_backend_metal_reg",
    "ggml-vulkan": "ggml_backend_vk_reg",
}
"""In the folder of the other libraries, or inside one of them -> function that returns the backend. The first one with
a device is used."""


class Gpu(Struct, frozen=True):
    """``device``: a ggml_backend_dev_t; ``description``: its driver's name for it; ``memory_bytes``: total memory, 0 if
    unknown."""

    device: int
    description: str
    memory_bytes: int


class GgmlUnavailable(Exception):
    """``reason`` and ``way_out``: catalogue texts."""

    def __init__(self, reason: Text | str, way_out: Text | str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.way_out = way_out


class Ggml:
    """The functions in :data:`SIGNATURES` without their prefix: ``ggml.mul_mat``. ``paths``: their libraries;
    ``source``: the package, or the path set by a person."""

    def __init__(self, paths: Sequence[Path], source: str = "") -> None:
        """Raises GgmlUnavailable. Symbols stay local: two copies of ggml in one process must not share them."""
        # A GGML_ASSERT ends the process; this prevents it from searching for a debugger first.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        self.paths = tuple(paths)
        self.source = source or str(paths[-1])
        try:
            with _environment("GOMP_SPINCOUNT", SPINS):  # libgomp reads it when it is loaded
                self._libraries = [ctypes.CDLL(str(path)) for path in paths]
        except OSError as exc:
            reason = Text("reason.backends.cannot_be_loaded", file=paths[-1].name, error=str(exc))
            raise GgmlUnavailable(reason, _install()) from exc
        for name, (result, *arguments) in SIGNATURES.items():
            function = self._find(name)
            if function is None:
                reason = Text("reason.backends.ggml_is_too_old", file=paths[-1].name, name=name)
                raise GgmlUnavailable(reason, _install())
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        self.log_set(ctypes.cast(_log, c_void_p), None)

    def __getattr__(self, name: str) -> Any:
        """For type checkers only: every function is set as an attribute."""
        raise AttributeError(name)

    def has(self, name: str) -> bool:
        """Calls ``ggml_cpu_has_…``: whether this ggml was compiled to use a feature. False for an unknown name."""
        function = self._find(name)
        return function is not None and bool(function())

    def has_gpu_backend(self) -> bool:
        """Whether it was built with GPU support. Starts no driver."""
        return any(self._find(start) or self._beside(name) for name, start in GPU_LIBRARIES.items())

    def gpu(self) -> Gpu | None:
        """The first GPU that ggml can use. Starts its driver."""
        for name, start in GPU_LIBRARIES.items():
            registry = self._gpu_registry(name, start)
            if registry and self.backend_reg_dev_count(registry):
                device, free, total = self.backend_reg_dev_get(registry, 0), c_size_t(), c_size_t()
                self.backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
                name = (self.backend_dev_description(device) or b"").decode("utf-8", "replace")
                return Gpu(device, name, total.value)
        return None

    def _gpu_registry(self, name: str, start: str) -> int | None:
        function, path = self._find(start), self._beside(name)
        if function is None and path is not None:
            try:
                self._libraries.append(ctypes.CDLL(str(path)))
            except OSError as exc:
                log.warning("%s: %s", path.name, exc)
                return None
            function = self._find(start)
        if function is None:
            return None
        function.restype = P
        found: int | None = function()
        return found

    def _beside(self, name: str) -> Path | None:
        return next(iter(_libraries(self.paths[-1].parent, (name,))), None)

    def _find(self, name: str) -> Any:
        return next((getattr(each, name) for each in self._libraries if hasattr(each, name)), None)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Temporarily sets a variable, unless a person has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def availability() -> Availability:
    """Whether there is a ggml for this CPU. Opens it (a millisecond), computes nothing."""
    try:
        load()
    except GgmlUnavailable as exc:
        return Availability(False, exc.reason, exc.way_out)
    return Availability(True)


def load() -> Ggml:
    """The ggml to use. Raises GgmlUnavailable: why the first one found does not work, or that there is none."""
    found = _load(os.environ.get(PATH_VARIABLE, ""))
    if isinstance(found, GgmlUnavailable):
        raise found
    return found


@lru_cache(4)
def _load(chosen: str) -> Ggml | GgmlUnavailable:
    if chosen:
        try:
            return _opened(chosen_libraries(Path(chosen)), chosen)
        except GgmlUnavailable as exc:
            return exc
    refusal: GgmlUnavailable | None = None
    for package, paths in installed():
        try:
            return _opened(paths, package)
        except GgmlUnavailable as exc:
            refusal = refusal or exc
    return refusal or _missing()


def gpu_bytes() -> int:
    """Total memory of the GPU that :meth:`Ggml.gpu` would use, 0 without a GPU or if unknown. Its driver runs in a
    separate process, once for each ggml."""
    return _gpu_bytes(load().paths)


@lru_cache(4)
def _gpu_bytes(paths: tuple[Path, ...]) -> int:
    try:
        return int(printed_by(__name__))
    except (DriverFailed, TypeError, ValueError) as exc:
        log.warning("%s: %s", paths[-1].name, exc)
        return 0


def _opened(paths: Sequence[Path], source: str) -> Ggml:
    ggml = Ggml(paths, source)
    missing = missing_instructions(ggml)
    if missing:
        params = {"file": paths[-1].name, "names": ", ".join(missing)}
        raise GgmlUnavailable(Text("reason.backends.ggml_other_processor", **params), _install())
    return ggml


def chosen_libraries(path: Path) -> list[Path]:
    """The libraries at a path set by a person. Raises GgmlUnavailable if there are none."""
    if path.is_file():
        return [path]
    found = _libraries(path, ("ggml-base", "ggml-cpu"))
    if not found:
        reason = Text("reason.backends.no_ggml_there", path=str(path))
        raise GgmlUnavailable(reason, Text("reason.backends.set_ggml_path", name=PATH_VARIABLE))
    return found


def installed() -> list[tuple[str, list[Path]]]:
    """Each package that contains ggml, with its libraries, in the order of :data:`PACKAGES`. Imports none of them."""
    found = []
    for package, module, folders, names in PACKAGES:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            continue
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        for place in places:
            for folder in [one for name in folders for one in sorted(Path(place).glob(name))] or [Path(place)]:
                libraries = _libraries(folder, names)
                if libraries:
                    found.append((package, libraries))
                    break
    return found


def _libraries(folder: Path, names: Sequence[str]) -> list[Path]:
    """All of ``names`` in ``folder``; empty if one is missing."""
    found = []
    for name in names:
        patterns = (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.dll", f"{name}*.so", f"{name}*.pyd")
        paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        if not paths:
            return []
        found.append(paths[0])
    return found


def missing_instructions(ggml: Ggml) -> list[str]:
    """Features for which the library was compiled but which the CPU lacks. Empty if the system does not tell (Windows
    knows only AVX, AVX2 and AVX-512; macOS on Intel also the others)."""
    known = processor_flags()
    if not known:
        return []
    can_tell = {"avx", "avx2", "avx512f"} if "only-avx" in known else None
    return [
        names[0]
        for question, names in COMPILED_FOR.items()
        if (can_tell is None or can_tell & set(names)) and not known & set(names) and ggml.has(question)
    ]


@lru_cache(1)
def processor_flags() -> frozenset[str]:
    """With Linux's names; empty if unknown."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return frozenset()
        found = next((line for line in lines if line.lower().startswith(("flags", "features"))), ":")
        return frozenset(found.partition(":")[2].split())
    if sys.platform == "win32" and platform.machine().lower() in ("amd64", "x86_64"):
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent  # type: ignore[attr-defined,unused-ignore]
        return frozenset({name for number, name in ((39, "avx"), (40, "avx2"), (41, "avx512f")) if present(number)}) | {
            "only-avx"
        }
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return _mac_flags()
    return frozenset()


def _mac_flags() -> frozenset[str]:
    library = ctypes.CDLL(None)
    words: list[str] = []
    for key in (b"machdep.cpu.features", b"machdep.cpu.leaf7_features"):
        size = c_size_t(4096)
        buffer = ctypes.create_string_buffer(size.value)
        if library.sysctlbyname(key, buffer, ctypes.byref(size), None, c_size_t(0)) == 0:
            words += buffer.value.decode("ascii", "replace").lower().split()
    spelled = {"avx1.0": "avx", "avx512_vnni": "avx512_vnni", "avx512vbmi": "avx512vbmi"}
    return frozenset(spelled.get(word, word) for word in words)


def _missing() -> GgmlUnavailable:
    reason = Text("reason.backends.package_not_installed", package=PACKAGE)
    return GgmlUnavailable(reason, _install())


def _install() -> Text:
    """How to install it: newer Python versions and Intel Macs have no wheel of libggml-python."""
    is_intel_mac = sys.platform == "darwin" and platform.machine() == "x86_64"
    if sys.version_info[:2] > NEWEST_PYTHON or is_intel_mac:
        return Text("reason.backends.install_another_ggml", package="xllamacpp", name=PATH_VARIABLE)
    return Text("reason.backends.run_pip_install", package=PINNED)


if __name__ == "__main__":
    found = load().gpu()
    print(found.memory_bytes if found is not None else 0)
