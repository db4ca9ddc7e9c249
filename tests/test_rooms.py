"""The code follows the import rules in docs/architecture.md."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.sources import MODULES, ROOT, nodes_of, tree_of

CONTRACTS = {"sampling_params", "state", "backend", "options", "registry", "outputs", "sampler"}
HEAVY = {"torch", "rwkv", "safetensors"}
IN_TORCH = {f"backends/pytorch/{name}.py" for name in ("linear", "loader", "model", "recurrence", "sampling")}
"""Imported late as a whole, by the backend whose model they are."""


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Room -> rooms that it may import, from the table."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Rooms and imports")[1]
    rows = [line.strip("|").split("|") for line in table.split("\n## ")[0].splitlines() if line.startswith("| ")]
    return {row[0].strip(): {name.strip() for name in row[2].split(",") if name.strip()} for row in rows[1:]}


def room_of(module: Path) -> str:
    parts = module.relative_to(ROOT / "webapp").with_suffix("").parts
    return parts[0] if parts != ("__init__",) else ""


@functools.cache
def imports(module: Path, top_only: bool = False) -> frozenset[str]:
    """Dotted names a module imports; ``from a.b import c`` counts as ``a.b.c``."""
    nodes = top_level(tree_of(module).body) if top_only else nodes_of(module)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def breaches(rule: Callable[[Path], set[str]]) -> dict[str, set[str]]:
    """Module -> violations that ``rule`` finds, if there are any."""
    found = {str(module.relative_to(ROOT)): rule(module) for module in MODULES}
    return {module: names for module, names in found.items() if names}


def top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements that run at import, without those only for type checkers."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, (ast.If, ast.Try)):
            found += top_level([*node.body, *node.orelse])
        found.append(node)
    return found


def is_allowed(target: str, room: str, allowed: set[str]) -> bool:
    parts = target.split(".")[1:]
    if not parts or parts[0] in {room, "errors", "i18n", "__version__"} or parts[0] in allowed:
        return True
    return parts[0] == "engine" and "engine.contracts" in allowed and len(parts) > 1 and parts[1] in CONTRACTS


MCP = {"mcp", "mcp_types", "anyio", "httpx", "httpx2", "pydantic", "starlette", "opentelemetry"}


def test_the_subjects_of_services_import_each_other_one_way_only():
    """A subject is a folder or a module."""
    home = ROOT / "webapp" / "services"
    arrows: dict[str, set[str]] = {}
    for module in home.rglob("[!_]*.py"):
        names = (name.split(".") for name in imports(module) if name.startswith("webapp.services."))
        subject = module.relative_to(home).with_suffix("").parts[0]
        arrows.setdefault(subject, set()).update(parts[2] for parts in names)
    assert {"chat", "generation", "presets", "jobs"} <= set(arrows)
    graphlib.TopologicalSorter({folder: found - {folder} for folder, found in arrows.items()}).prepare()


NOT_AT_START = MCP | {"torch", "rwkv", "safetensors", "tokenizers", "numpy", "psutil", "llguidance"}
NOT_AT_START |= {"jsonschema"}


def test_nothing_installed_needs_what_is_only_in_a_checkout():
    assert {
        name for module in MODULES for name in imports(module) if name.split(".")[0] in ("models", "tests")
    } == set()


def test_every_room_has_a_row():
    folders = {room_of(m) for m in MODULES} - {""}
    assert folders == set(arrows())


def test_a_module_imports_only_what_its_room_may():
    def beyond_its_room(module: Path) -> set[str]:
        room = room_of(module)
        allowed = arrows().get(room, set())
        ours = {name for name in imports(module) if name.split(".")[0] == "webapp"}
        return {name for name in ours if not is_allowed(name, room, allowed)}

    assert breaches(beyond_its_room) == {}


def test_flask_stays_in_web_and_torch_below_the_top():
    def out_of_place(module: Path) -> set[str]:
        room = room_of(module)
        roots = {name.split(".")[0] for name in imports(module)}
        found: set[str] = set()
        if room != "web":
            found |= roots & {"flask", "flask_sock", "simple_websocket", "waitress", "werkzeug"}
        if room != "training" and module.relative_to(ROOT / "webapp").as_posix() not in IN_TORCH:
            found |= {name.split(".")[0] for name in imports(module, top_only=True)} & HEAVY
        if room not in {"training", "backends", "weights", "manager"}:
            found |= roots & HEAVY
        return found

    assert breaches(out_of_place) == {}


READERS = {
    "adapter", "checkpoint", "convert.conversion", "convert.source",
    "file_format.read_contents", "ggml_header", "inspection.inspect", "spelling", "pickle_reader", "pth_archive",
    "safetensors_header", "state_file",
}  # fmt: skip
OWN_PROCESSES = {"weights", "backends", "training"}


def test_only_processes_of_their_own_read_model_and_state_files():
    """The web process and the commands use ``weights.file_reader``; engine, reader and `roost convert` are separate
    processes, which may crash."""

    def readers(module: Path) -> set[str]:
        if room_of(module) in OWN_PROCESSES or module.relative_to(ROOT / "webapp").as_posix() == "cli/convert.py":
            return set()
        asked = {name.removeprefix("webapp.weights.") for name in imports(module) if name.startswith("webapp.weights.")}
        return {name for name in asked if any(f"{name}.".startswith(f"{reader}.") for reader in READERS)}

    assert breaches(readers) == {}


def test_importing_wsgi_loads_nothing_heavy(tmp_path: Path):
    script = (
        "import sys, threading; import wsgi; "
        f"print(sorted({NOT_AT_START!r} & set(sys.modules)), threading.active_count())"
    )
    environment = {"ROOST_DATA_DIR": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.strip() == "[] 1", found.stderr
