"""The memory of a real engine process: its peak while it loads a model, prefills a prompt and decodes a few tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from webapp.engine.outputs import FinishReason, GenerationRequest, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.client import ProcessEngineClient
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.settings import Settings

PROMPT_TOKENS = 70
"""More than one prefill chunk."""


@dataclass(frozen=True)
class Measured:
    """Bytes of resident memory. ``loaded``: after the load; ``peak``: the maximum."""

    loaded: int
    peak: int


def measure(path: Path, strategy: str, folder: Path, sequences: int = 1) -> Measured:
    """Linux only. Starts the engine as the server does; ``folder`` is the manager's data folder."""
    settings = Settings(data_dir=folder, models_dir=path.parent, model=path.name, strategy=strategy, threads=1)
    manager = ModelManager(settings, ProcessEngineClient, ModelLibrary(path.parent, folder))
    try:
        manager.load()
        manager.wait_ready(600)
        pid = manager.engine_pid()
        assert pid is not None
        loaded = resident_bytes(pid, "VmRSS")
        handles = [manager.submit(_request(number)) for number in range(sequences)]
        for handle in handles:
            last = [event for event in handle.events(600) if isinstance(event, TokenOutput)][-1]
            assert last.finish_reason is FinishReason.LENGTH, last
        return Measured(loaded, resident_bytes(pid, "VmHWM"))
    finally:
        manager.close()


def _request(number: int) -> GenerationRequest:
    params = replace(SamplingParams(), max_tokens=4, temperature=1.0, seed=number)
    prompt = tuple((i * 7 + number) % 250 + 1 for i in range(PROMPT_TOKENS))
    return GenerationRequest(f"measured-{number}", prompt, params)


def resident_bytes(pid: int, field: str) -> int:
    """VmRSS (now) or VmHWM (maximum so far) in /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")
