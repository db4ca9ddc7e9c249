"""The C++ library: found, built when it is not there yet, loaded and tested.

It comes with the wheel, or is built once into the user's cache folder from the sources beside this file, by whatever
C++17 compiler is there (GCC, clang, or the ``ziglang`` package). Its instruction set is chosen when it is loaded: the
best one the processor has whose kernels pass a self-test. Without a library and a compiler nothing here fails:
:func:`availability` says what would change it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from webapp.engine.backend import Availability
from webapp.i18n import Phrase

SOURCES = Path(__file__).with_name("src")
BUILT = Path(__file__).with_name("built")
"""Where a wheel carries the library."""
ABI = 1  # of src/api.cpp
ISAS = {"avx512": 3, "avx2": 2, "portable": 0}
"""Best first."""
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-w")
"""Never -ffast-math, and no multiply-adds of the compiler's own: see src/kernels.inc."""
BUILD_TIMEOUT_S = 600

LIBRARY_VARIABLE = "ROOST_NATIVE_LIBRARY"  # a library built by hand: sanitizers, another compiler
CACHE_VARIABLE = "ROOST_NATIVE_CACHE"
ISA_VARIABLE = "ROOST_NATIVE_ISA"


class NativeUnavailable(Exception):
    """No library could be had; says why and what would change that."""

    def __init__(self, reason: str, way_out: str) -> None:
        super().__init__(reason)
        self.reason, self.way_out = reason, way_out


def availability() -> Availability:
    """Whether there is a library, or a compiler that could make it. Starts no program."""
    if find_library() is not None:
        return Availability(True)
    failure = _failure_file()
    if failure.exists():
        return Availability(False, _not_built(failure), _way_out(), is_ready=False, has_failed=True)
    if find_compiler() is None:
        reason = "its library is not built and there is no C++ compiler"
        return Availability(False, reason, _way_out(), is_ready=False)
    return Availability(True, is_ready=False)


def is_built() -> bool:
    """False: the first load compiles for some seconds."""
    return find_library() is not None


def find_library() -> Path | None:
    given = os.environ.get(LIBRARY_VARIABLE)
    if given:
        return Path(given)
    for folder in (BUILT, cache_folder()):
        path = folder / library_name()
        if path.exists():
            return path
    return None


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler: ``CXX``, GCC or clang by their names, or the one in the package ziglang."""
    given = os.environ.get("CXX", "").split()
    if given and shutil.which(given[0]):
        return given
    for name in COMPILERS:
        path = shutil.which(name)
        if path:
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    return None


@lru_cache(1)
def load() -> ctypes.CDLL:
    """The library, built first if need be. Raises NativeUnavailable."""
    path = find_library() or build()
    try:
        return _opened(path)
    except NativeUnavailable:
        if path.parent != BUILT:
            raise
        return _opened(build())  # the wheel's is for another system, such as one with musl


def _opened(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        library.roost_abi.restype = ctypes.c_int32
        found = library.roost_abi()
    except (OSError, AttributeError) as exc:
        reason = Phrase("{file} cannot be loaded: {error}", file=path.name, error=str(exc))
        raise NativeUnavailable(reason, _way_out()) from exc
    if found != ABI:
        reason = Phrase("{file} belongs to another version of Roost", file=path.name)
        raise NativeUnavailable(reason, Phrase("Delete {path}.", path=str(path)))
    _declare(library)
    return library


@lru_cache(None)
def choose_isa(wanted: str = "") -> str:
    """``wanted`` (or the environment's ``ROOST_NATIVE_ISA``) if the processor has it, else the best one that passes its
    self-test here. Raises NativeUnavailable for a wanted one that does not work."""
    library = load()
    wanted = wanted or os.environ.get(ISA_VARIABLE, "")
    reasons = []
    for name in [wanted] if wanted else ISAS:
        if name not in ISAS:
            reason = Phrase("there is no instruction set {name}", name=name)
            raise NativeUnavailable(reason, Phrase("Choose one of {names}.", names=", ".join(ISAS)))
        failed = library.roost_self_test(ISAS[name])
        if failed is None:
            return name
        reasons.append(f"{name}: {failed.decode()}")
    raise NativeUnavailable("; ".join(reasons), "Leave the instruction set to Roost.")


# ---------------------------------------------------------------- building


def library_name() -> str:
    """Named by what it was made from, so that an update of Roost builds its own."""
    ending = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    return f"roost_native-{sys.platform}-{platform.machine().lower()}-{source_digest()}{ending}"


@lru_cache(1)
def source_digest() -> str:
    """16 hex digits over sources and flags."""
    digest = hashlib.blake2b(" ".join(FLAGS).encode(), digest_size=8)
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".cpp", ".h", ".inc"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "roost" / "native"


def build_apart() -> None:
    """:func:`build` in a process of its own with little priority, which goes on if this one ends: it is done in half a
    minute, and what it makes is there for the next start. Returns when it is over; NativeUnavailable."""
    code = (
        "import os, sys; sys.path[:] = sys.argv[1:]; hasattr(os, 'nice') and os.nice(10)\n"
        "from webapp.backends.native import library; library.build()"
    )
    apart = {"creationflags": 0x4000 | 0x8000000} if sys.platform == "win32" else {"start_new_session": True}
    done = subprocess.run(
        [sys.executable, "-c", code, *(os.path.abspath(entry) for entry in sys.path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        **apart,  # type: ignore[call-overload]
    )
    if find_library() is None:
        found = availability()
        raise NativeUnavailable(found.reason or done.stderr.strip()[-200:], found.way_out or _way_out())


def build(folder: Path | None = None) -> Path:
    """Compiles the sources into ``folder`` (the cache), unless another process does so meanwhile. Raises
    NativeUnavailable, and remembers the compiler's words beside where the library would be."""
    folder = folder or cache_folder()
    target = folder / library_name()
    compiler = find_compiler()
    if compiler is None:
        raise NativeUnavailable("there is no C++ compiler", _way_out())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _lock(folder / "build.lock"):
            if not target.exists():
                for left in folder.glob("build-*"):  # of a build that was ended
                    shutil.rmtree(left, ignore_errors=True)
                _compile(compiler, target)
    except OSError as exc:
        reason = Phrase("{folder} cannot be written: {error}", folder=str(folder), error=str(exc))
        raise NativeUnavailable(reason, "Set ROOST_NATIVE_CACHE to another folder.") from exc
    return target


def _compile(compiler: list[str], target: Path) -> None:
    flags = [flag for flag in FLAGS if flag != "-fPIC" or sys.platform != "win32"]
    links = ["-static"] if sys.platform == "win32" else ["-lpthread"]
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as name:
        scratch = Path(name)
        sources = sorted(SOURCES.glob("*.cpp"))
        objects = [scratch / f"{source.stem}.o" for source in sources]
        commands = [
            [*compiler, *flags, "-c", str(source), "-o", str(made)]
            for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            failures = [found for found in pool.map(_run, commands) if found]
        made = scratch / target.name
        failed = "\n".join(failures) or _run([*compiler, "-shared", *map(str, objects), *links, "-o", str(made)])
        failed = failed or _try_out(made)
        if failed:
            _failure_file().write_text(failed, encoding="utf-8")
            raise NativeUnavailable(_not_built(_failure_file()), _way_out())
        os.replace(made, target)
    with contextlib.suppress(OSError):
        _failure_file().unlink()


def _run(command: list[str]) -> str:
    """Empty, or what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=BUILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{command[0]} ended with {done.returncode}"


def _try_out(path: Path) -> str:
    """Runs the self-tests in a process of their own: a wrong instruction would end it."""
    code = (
        "import ctypes, sys; l = ctypes.CDLL(sys.argv[1]); t = l.roost_self_test; t.restype = ctypes.c_char_p\n"
        "l.roost_best_isa.restype = ctypes.c_int32\n"
        "bad = [t(i) for i in {0, l.roost_best_isa()}]; sys.exit(str(bad) if any(bad) else 0)"
    )
    return _run([sys.executable, "-c", code, str(path)])


def _failure_file() -> Path:
    """Where the words of this compiler are kept if it fails on these sources; another one may do better."""
    compiler = hashlib.blake2b(" ".join(find_compiler() or ()).encode(), digest_size=4).hexdigest()
    return cache_folder() / f"{library_name()}.{compiler}.failed"


def _not_built(failure: Path) -> Phrase:
    return Phrase("its library could not be built ({error})", error=_first_error(failure))


def _first_error(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in lines if "error" in line.lower()), lines[-1].strip() if lines else "")[
            :200
        ]
    return ""


def _way_out() -> str:
    if sys.platform == "darwin":
        return "Run `xcode-select --install`, or `pip install ziglang`, and load again."
    if sys.platform == "win32":
        return "Run `pip install ziglang` and load again."
    return "Install g++ (Debian, Ubuntu: `apt install g++`), or run `pip install ziglang`, and load again."


_in_this_process = threading.Lock()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One build at a time. The system drops the lock when a process dies."""
    with _in_this_process, path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    ]


def _declare(library: ctypes.CDLL) -> None:
    handle, pointer, number, wide = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    functions = {
        "best_isa": (number, []),
        "self_test": (ctypes.c_char_p, [number]),
        "create": (number, [pointer, pointer]),
        "free": (None, [handle]),
        "isa_name": (ctypes.c_char_p, [handle]),
        "set_matrix": (number, [handle, number, number, pointer, number, wide, wide, number, number, number, number]),
        "set_vector": (number, [handle, number, number, pointer, number]),
        "set_initial_state": (number, [handle, pointer]),
        "ready": (number, [handle]),
        "new_slot": (number, [handle]),
        "free_slot": (number, [handle, number]),
        "copy_slot": (number, [handle, number, number]),
        "state_floats": (wide, [handle]),
        "save": (number, [handle, number, pointer]),
        "restore": (number, [handle, number, pointer]),
        "transfer_state": (number, [handle, number, number, pointer, pointer, pointer]),
        "step": (number, [handle, number, pointer, pointer, pointer, pointer]),
        "logits": (pointer, [handle, pointer]),
        "sample": (number, [handle, pointer]),
        "weight_bytes": (wide, [handle]),
        "arena_bytes": (wide, [handle]),
        "read_bandwidth": (ctypes.c_double, [handle, wide]),
        "profile": (None, [handle, number, pointer, pointer]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, f"roost_{name}")
        function.restype, function.argtypes = result, arguments
