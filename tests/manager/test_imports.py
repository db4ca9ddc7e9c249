"""The web process stays small: no module of the manager that it imports imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import importlib, pkgutil, sys, threading
import webapp.manager
for module in pkgutil.iter_modules(webapp.manager.__path__):
    importlib.import_module("webapp.manager." + module.name)
from webapp.engine.registry import backend_for
backend_for("fake").load_class()
print(sorted({"torch", "rwkv", "safetensors", "tokenizers", "flask", "multiprocessing"} & set(sys.modules)),
      threading.active_count())
"""


def test_importing_the_manager_imports_nothing_heavy_and_starts_nothing():
    found = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[] 1", found.stdout + found.stderr
