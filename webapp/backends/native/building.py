"""Finds and builds the C++ library: where it is stored, and how it is compiled from ``src``.

It is part of a wheel, or is built once in the user's cache folder with any C++17 compiler: GCC, clang, or the
``ziglang`` package, which can also cross-compile. This module imports only the standard library, so that the build of a
wheel (hatch_build.py) can use it.
"""

from __future__ import annotations

import contextlib
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
from typing import Any, NamedTuple

from webapp.i18n import Text
from webapp.resources import cache_dir

SOURCES = Path(__file__).with_name("src")
BUILT = Path(__file__).with_name("built")
"""The library's folder in a wheel."""


COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=off", "-fno-math-errno", "-w"),
)
"""Never -ffast-math, and no automatic fused multiply-add: see src/kernels.inc."""
ZIG_FLAGS = (
    *("-DROOST_NO_CXX_RUNTIME", "-D_LIBCPP_VERBOSE_ABORT(...)=__builtin_abort()"),
    *("-g0", "-fno-sanitize=undefined"),
)
"""For zig's compiler and linker, which first compiles what it links: without libc++ (only its headers are used), debug
information and sanitizer runtime, so that the build takes 45 s of CPU time and not two minutes."""
BUILD_TIMEOUT_S = 600
"""For one command on this system; cross-compiling, which only a wheel needs, has no limit."""


LIBRARY_VARIABLE = "ROOST_NATIVE_LIBRARY"  # a library built by hand: sanitizers, another compiler
CACHE_VARIABLE = "ROOST_NATIVE_CACHE"


class NativeUnavailable(Exception):
    """No library is available; says why and what would change that."""

    def __init__(self, reason: Text | str, way_out: Text | str) -> None:
        super().__init__(reason)
        self.reason, self.way_out = reason, way_out


class System(NamedTuple):
    """A target system: ``name`` and ``machine`` as in Python there (``sys.platform``); zig's ``triple`` and the ``tag``
    of a wheel, both empty for this system."""

    name: str = sys.platform
    machine: str = platform.machine().lower()
    triple: str = ""
    tag: str = ""


HERE = System()
SYSTEMS = {
    "linux-x86_64": System("linux", "x86_64", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64"),
    "linux-arm64": System("linux", "aarch64", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64"),
    "macos-arm64": System("darwin", "arm64", "aarch64-macos.11.0", "macosx_11_0_arm64"),
    "macos-x86_64": System("darwin", "x86_64", "x86_64-macos.11.0", "macosx_11_0_x86_64"),
    "windows-x86_64": System("win32", "amd64", "x86_64-windows-gnu", "win_amd64"),
}
"""Systems for which zig can cross-compile."""


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
    """The command of a C++ compiler: ``CXX``, GCC or clang by name, or the one in the package ziglang."""
    given = os.environ.get("CXX", "").split()
    if given and shutil.which(given[0]):
        return given
    for name in COMPILERS:
        path = shutil.which(name)
        if path:
            return [path]
    return zig() if importlib.util.find_spec("ziglang") is not None else None


def zig() -> list[str]:
    return [sys.executable, "-m", "ziglang", "c++", *ZIG_FLAGS]


def library_name(system: System = HERE) -> str:
    """The name contains a digest of its sources, so that an update of Roost builds its own."""
    ending = {"win32": ".dll", "darwin": ".dylib"}.get(system.name, ".so")
    return f"roost_native-{system.name}-{system.machine}-{source_digest()}{ending}"


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
    return Path(given) if given else cache_dir() / "native"


def build_apart() -> None:
    """Runs :func:`build` in a separate process with low priority. It continues if this process ends, because it takes
    only half a minute and the next start can use the result. Waits for it; raises NativeUnavailable."""
    code = (
        "import os, sys; sys.path[:] = sys.argv[1:]; hasattr(os, 'nice') and os.nice(10)\n"
        "from webapp.backends.native import building; building.build()"
    )
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        apart = {"creationflags": 0x4000 | 0x8000000}  # BELOW_NORMAL_PRIORITY_CLASS, CREATE_NO_WINDOW
    done = subprocess.run(
        [sys.executable, "-c", code, *(os.path.abspath(entry) for entry in sys.path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        **apart,
    )
    if not is_built():
        raise NativeUnavailable(failure() or done.stderr.strip()[-200:], way_out())


def build(folder: Path | None = None, system: System = HERE) -> Path:
    """Compiles the sources into ``folder`` (default: the cache), unless another process does so meanwhile. Raises
    NativeUnavailable, and stores the compiler's output in the cache."""
    folder = folder or cache_folder()
    target = folder / library_name(system)
    compiler = [*zig(), "-target", system.triple] if system.triple else find_compiler()
    if compiler is None:
        raise NativeUnavailable(Text("reason.backends.no_cpp_compiler"), way_out())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _lock(folder / "build.lock"):
            if not target.exists():
                for left in folder.glob("build-*"):  # left by a killed build
                    shutil.rmtree(left, ignore_errors=True)
                _compile(compiler, target, system)
    except OSError as exc:
        reason = Text("reason.backends.cannot_be_written", folder=str(folder), error=str(exc))
        raise NativeUnavailable(reason, Text("reason.backends.set_native_cache")) from exc
    return target


def _compile(compiler: list[str], target: Path, system: System) -> None:
    flags = [flag for flag in FLAGS if flag != "-fPIC" or system.name != "win32"]
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as name:
        scratch = Path(name)
        sources = sorted(SOURCES.glob("*.cpp"))
        objects = [scratch / f"{source.stem}.o" for source in sources]
        commands = [
            [*compiler, *flags, "-c", str(source), "-o", str(made)]
            for source, made in zip(sources, objects, strict=True)
        ]
        timeout_s = None if system.triple else BUILD_TIMEOUT_S
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            failures = [found for found in pool.map(lambda command: _run(command, timeout_s), commands) if found]
        made = scratch / target.name
        link = [*linker(compiler), "-shared", *map(str, objects), *link_flags(compiler, system), "-o", str(made)]
        failed = "\n".join(failures) or _run(link, timeout_s)
        failed = failed or ("" if system.triple else _try_out(made))
        if failed and system.triple:
            raise NativeUnavailable(failed[-2000:], "See what the compiler says.")
        if failed:
            _failure_file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _failure_file().write_text(failed, encoding="utf-8")
            raise NativeUnavailable(failure() or failed, way_out())
        os.replace(made, target)
    with contextlib.suppress(OSError):
        _failure_file().unlink()


def linker(compiler: list[str]) -> list[str]:
    """Zig's C linker, because its C++ linker adds libc++."""
    return ["cc" if part == "c++" else part for part in compiler] if "ziglang" in compiler else compiler


def link_flags(compiler: list[str], system: System) -> list[str]:
    """On Windows, GCC's own libraries go into the DLL; zig always does that, and ``-static`` makes it an archive."""
    if system.name == "win32":
        return ["-s"] if "ziglang" in compiler else ["-static", "-s"]
    return [] if system.name == "darwin" else ["-lpthread", "-lm", "-s"]


def _run(command: list[str], timeout_s: float | None = BUILD_TIMEOUT_S) -> str:
    """Empty, or the error output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{command[0]} ended with {done.returncode}"


def _try_out(path: Path) -> str:
    """Runs the self-tests in a separate process, because an invalid instruction would end it."""
    code = (
        "import ctypes, sys; l = ctypes.CDLL(sys.argv[1]); t = l.roost_self_test; t.restype = ctypes.c_char_p\n"
        "l.roost_best_isa.restype = ctypes.c_int32\n"
        "bad = [t(i) for i in {0, l.roost_best_isa()}]; sys.exit(str(bad) if any(bad) else 0)"
    )
    return _run([sys.executable, "-c", code, str(path)])


def _failure_file() -> Path:
    """The file for this compiler's error output on these sources; another compiler may succeed."""
    compiler = hashlib.blake2b(" ".join(find_compiler() or ()).encode(), digest_size=4).hexdigest()
    return cache_folder() / f"{library_name()}.{compiler}.failed"


def failure() -> Text | None:
    """The compiler's output when it failed; None if it was not tried."""
    file = _failure_file()
    return Text("reason.backends.build_failed", error=_first_error(file)) if file.exists() else None


def _first_error(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in lines if "error" in line.lower()), lines[-1].strip() if lines else "")[
            :200
        ]
    return ""


def way_out() -> Text:
    if sys.platform == "darwin":
        return Text("reason.backends.install_xcode_tools")
    if sys.platform == "win32":
        return Text("reason.backends.install_ziglang")
    return Text("reason.backends.install_gpp")


_in_this_process = threading.Lock()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Allows one build at a time. The system releases the lock if a process dies."""
    with _in_this_process, path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
