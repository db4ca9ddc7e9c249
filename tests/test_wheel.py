"""An installed wheel finds its templates, static files and model without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from webapp.backends.native import building

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.checks


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling (pip install -e '.[dev]')")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (found,) = folder.glob("rwkv_roost-*.whl")
    return found


def test_the_wheel_carries_pages_and_catalogues(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "webapp/_bundled/templates/base.html" in names
    assert "webapp/_bundled/static/vendor/htmx.min.js" in names
    assert "webapp/cli/held_out.jsonl" in names
    models = {name for name in names if name.startswith("webapp/_bundled/models/")}
    assert {name.rpartition("/")[2] for name in models} == {"README.md", "roost-starter-v7.safetensors"}
    assert "webapp/i18n/catalogue/zh/errors.json" in names


def test_a_wheel_is_built_without_a_compiler_too(tmp_path: Path):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling (pip install -e '.[dev]')")
    hidden = {"PATH": str(tmp_path), "CXX": "", "ROOST_NATIVE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300, env={**os.environ, **hidden})
    (found,) = tmp_path.glob("rwkv_roost-*-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(found).namelist() if "native/built/" in name]


@pytest.mark.skipif(building.find_compiler() is None, reason="there is no C++ compiler")
def test_a_wheel_carries_the_native_library_where_there_is_a_compiler(wheel: Path):
    assert f"webapp/backends/native/built/{building.library_name()}" in zipfile.ZipFile(wheel).namelist()


def test_an_installed_roost_serves_its_page(wheel: Path, tmp_path: Path):
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    zipfile.ZipFile(wheel).extractall(packages)
    # The dependencies come from this environment: a .pth line adds a folder but does not read .pth files in it, so an
    # editable install of the checkout is not used.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [python, "-m", "webapp.cli", "serve", "--port", "0", "--no-browser", "--data", str(tmp_path / "data")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if "http://" in line).split("http://")[1].split()[0].rstrip("/")
            page = urllib.request.urlopen(f"http://{url}/", timeout=60).read().decode()
            script = urllib.request.urlopen(f"http://{url}/static/vendor/htmx.min.js", timeout=60)
            assert "<html" in page and script.status == 200
        finally:
            server.terminate()
            assert server.wait(60) == 0
