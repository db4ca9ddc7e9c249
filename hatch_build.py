"""Compiles the native engine's library into a wheel if there is a C++ compiler. A wheel without it also works and
compiles the library at the first start.

``ROOST_WHEEL_SYSTEM=linux-arm64`` makes a wheel for that system instead (``webapp.backends.native.building.SYSTEMS``).
It uses the package ``ziglang`` as compiler, which is then a build dependency, and a failure stops the build. See
docs/native.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "ROOST_WHEEL_SYSTEM"


class NativeLibrary(BuildHookInterface):  # type: ignore[type-arg]
    def dependencies(self) -> list[str]:
        return ["ziglang"] if os.environ.get(VARIABLE) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        from webapp.backends.native import building

        wanted = os.environ.get(VARIABLE)
        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self._scratch.name)
        if wanted:
            system = building.SYSTEMS[wanted]
            made = building.build(folder, system)
            build_data["tag"] = f"py3-none-{system.tag}"
        else:
            try:
                # An editable install does not use the wheel's files: its library is in the user's cache, as after a
                # start.
                made = building.find_library() or building.build(None if version == "editable" else folder)
            except building.NativeUnavailable as exc:
                self.app.display_info(f"without the native library: {exc.reason}")
                return
        if version != "editable":
            build_data["force_include"][str(made)] = f"webapp/backends/native/built/{made.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._scratch.cleanup()
