"""The machine's data is available quickly, even if its graphics driver is slow, broken or missing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from webapp.manager import memory
from webapp.manager.memory import Gpu
from webapp.services import strategy
from webapp.services.library.placing import free_bytes
from webapp.services.strategy import Probe

CARD = Gpu(0, "NVIDIA GeForce RTX 4060", 8 << 30, 6 << 30)


def test_the_machine_has_a_processor_memory_and_a_disk(tmp_path: Path) -> None:
    found = Probe().read()
    assert found.cpu_name and 1 <= found.cores <= found.threads
    assert 0 < found.ram_available <= found.ram_total
    assert free_bytes(tmp_path) > 0


def test_a_folder_that_is_not_there_yet_has_the_disk_it_would_be_on(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.05)


def test_figures_are_kept_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(strategy, "available_bytes", lambda: calls.append(1) or 1000 + len(calls))
    probe = Probe()
    assert probe.read() == probe.read() and len(calls) == 1
    monkeypatch.setattr(strategy, "KEPT_S", -1.0)
    assert probe.read().ram_available == 1002


def test_a_page_does_not_wait_for_a_driver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, readers = threading.Event(), []

    def slow() -> tuple[Gpu, ...]:
        readers.append(1)
        answer.wait(600)
        return (CARD,)

    monkeypatch.setattr(memory, "read_gpus", slow)
    monkeypatch.setattr(memory, "PATIENCE_S", 0.02)
    gpus = memory.GpuReader()
    assert gpus.read() == () == gpus.read() and len(readers) == 1, "one thread waits, the page does not"
    answer.set()
    gpus._thread.join(60)
    assert gpus.read() == (CARD,)
    gpus._thread.join(60)


def test_a_driver_that_is_not_there_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[int] = []
    monkeypatch.setattr(memory, "read_gpus", lambda: readers.append(1))
    gpus = memory.GpuReader()
    assert gpus.read() == ()
    gpus._thread.join(60)
    assert gpus.read() == () and len(readers) == 1


class FakeNvml(SimpleNamespace):
    """The pynvml functions that Roost uses, for a few cards."""

    def __init__(self, cards: int = 2, broken: str = "", as_bytes: bool = False) -> None:
        super().__init__(cards=cards, broken=broken, is_open=0)
        self.text = (lambda text: text.encode()) if as_bytes else (lambda text: text)

    def __getattr__(self, name: str):
        def call(*given):
            if name == self.broken:
                raise OSError("NVML: driver/library version mismatch")
            return self.answer(name, *given)

        return call

    def answer(self, name: str, *given):
        self.is_open += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
        return {
            "nvmlDeviceGetCount": self.cards,
            "nvmlSystemGetDriverVersion": self.text("550.54"),
            "nvmlDeviceGetHandleByIndex": given[0] if given else None,
            "nvmlDeviceGetName": self.text(f"Card {given[0]}" if given else ""),
            "nvmlDeviceGetUUID": self.text(f"GPU-{given[0]}abc" if given else ""),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=8 << 30, free=(given[0] if given else 0) << 30),
        }.get(name)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["Card 0", "Card 1"]),
        ("1", ["Card 1"]),
        ("1,0", ["Card 1", "Card 0"]),
        ("GPU-1", ["Card 1"]),
        ("0,9,1", ["Card 0"]),
        ("", []),
        ("-1", []),
    ],
)
def test_cards_are_counted_as_torch_counts_them(visible: str | None, names: list[str], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = memory.read_gpus()
    assert [card.name for card in found] == names
    assert [card.index for card in found] == list(range(len(names)))


def test_an_older_package_answers_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(1, as_bytes=True))
    assert memory.read_gpus() == (Gpu(0, "Card 0", 8 << 30, 0),)


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
def test_a_broken_driver_is_no_card_and_no_error(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(broken=broken)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert memory.read_gpus() == () and fake.is_open == 0


def test_without_the_package_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert memory.read_gpus() is None


def test_probing_the_machine_imports_neither_numpy_nor_torch() -> None:
    code = (
        "import sys; from webapp.engine import registry; from webapp.services import strategy;"
        "strategy.probe(); registry.kinds(); strategy.validate('cpu fp32 *3 -> cpu bf16');"
        "sys.exit(str({'torch', 'numpy', 'rwkv'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


def test_an_estimate_brings_no_torch() -> None:
    code = (
        "import sys; from webapp.services import strategy;"
        "from webapp.weights.inspection import inspect;"
        "from webapp.resources import STARTER_MODEL, resource_dir;"
        "found = inspect(resource_dir('models') / STARTER_MODEL);"
        "assert strategy.recommend(strategy.probe(), found).strategy;"
        "assert strategy.estimate(found, 'cpu bf16', strategy.probe()).devices;"
        "sys.exit(str({'torch', 'rwkv'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.stderr.strip() == "0"
