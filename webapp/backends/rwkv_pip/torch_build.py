"""Which torch is installed, read from its files: importing it takes seconds and a quarter of a gigabyte."""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

WHEELS = "https://download.pytorch.org/whl"
REQUIREMENT = '"torch>=2.6,<=2.13.0"'  # as in pyproject.toml; a test holds it to that


@dataclass(frozen=True)
class TorchBuild:
    """``cuda`` and ``hip`` are the versions it was built for, empty without."""

    version: str
    cuda: str = ""
    hip: str = ""

    @property
    def has_gpu_support(self) -> bool:
        return bool(self.cuda or self.hip)


@functools.cache
def read() -> TorchBuild | None:
    """None when it is not installed or says nothing (then only importing it tells)."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        return parse(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))
    except OSError:
        return None


def parse(source: str) -> TorchBuild | None:
    """Of torch/version.py, which its build writes: ``cuda: Optional[str] = '12.6'``."""
    found = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*= *['\"]([^'\"]*)['\"]", source, re.MULTILINE))
    if "__version__" not in found:
        return None
    return TorchBuild(found["__version__"], found.get("cuda", ""), found.get("hip", ""))


def install_command(is_amd: bool = False) -> str:
    """Brings a torch with GPU support in place of the one without."""
    return f"pip install --force-reinstall {REQUIREMENT} --index-url {WHEELS}/{'rocm6.4' if is_amd else 'cu126'}"
