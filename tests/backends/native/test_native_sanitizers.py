"""The tests of model and sampler again, in a build that detects memory errors and undefined behaviour."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from webapp.backends.native import building

ROOT = Path(__file__).resolve().parents[3]
WATCHING = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1", "-O1")


@pytest.mark.checks
@pytest.mark.skipif(sys.platform != "linux", reason="preloads the sanitizer's runtime as Linux does")
def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path: Path) -> None:
    compiler = building.find_compiler()
    assert compiler is not None
    runtime = _runtime(compiler)
    if runtime is None:
        pytest.skip(f"{compiler[0]} has no AddressSanitizer")
    flags = [flag for flag in building.FLAGS if flag != "-O3"]
    sources = sorted(map(str, building.SOURCES.glob("*.cpp")))
    made = tmp_path / "watched.so"
    done = subprocess.run(
        [*compiler, *flags, *WATCHING, "-shared", *sources, "-lpthread", "-o", str(made)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    environment = {
        **os.environ,
        building.LIBRARY_VARIABLE: str(made),
        "LD_PRELOAD": runtime,
        # The interpreter's own leaks are ignored; allocations that are too large are refused, as without a sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:allocator_may_return_null=1",
    }
    names = ("model", "backend", "calibration", "packed_file")
    tests = [str(Path(__file__).with_name(f"test_native_{name}.py")) for name in names]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def _runtime(compiler: list[str]) -> str | None:
    """The shared library of AddressSanitizer, which must be loaded before Python."""
    for name in ("libasan.so", f"libclang_rt.asan-{os.uname().machine}.so"):
        found = subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        if os.path.isabs(found) and os.path.exists(found):
            return found
    return None
