"""A model with an adapter: every engine computes exactly the same as with the merged file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.backends.parity import STRATEGIES, entries, load_or_skip
from tests.engine.driving import forward, load_backend
from tests.errors import raises_code
from tests.weights.spellings import fla, official
from webapp.backends.native.model import Layout, _packed_place
from webapp.engine.registry import BackendEntry, resolve_strategy
from webapp.weights.adapter import AdapterChoice
from webapp.weights.convert.conversion import convert
from webapp.weights.convert.plan import ConversionOptions
from webapp.weights.file_format import model_identity
from webapp.weights.inspection import inspect

QUANTISED = {"native": "native q4", "ggml": "rwkv.cpp q8_0"}
IDS = [1, 7, 3, 250]


def write_lora(path: Path, scale: float = 1.0) -> str:
    """Pairs for a matrix and for the head, and a norm that was trained as well."""
    make = torch.Generator().manual_seed(3)
    shapes = {"blocks.0.att.key": (128, 128), "blocks.1.ffn.value": (128, 512), "head": (256, 128)}
    tensors = {"ln_out.bias": torch.full((128,), 0.1)} if scale else {}
    for name, (rows, inputs) in shapes.items():
        tensors[f"{name}.lora_A"] = torch.randn(8, inputs, generator=make)
        tensors[f"{name}.lora_B"] = torch.randn(rows, 8, generator=make) * 0.1 * scale
    torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_an_adapter_in_memory_gives_the_logits_of_the_merged_file(entry: BackendEntry, tmp_path: Path) -> None:
    torch.save(fla(official("7", vocab_size=256)), tmp_path / "base.pth")
    lora = write_lora(tmp_path / "lora.pth")
    given = ConversionOptions(lora=lora, lora_alpha=16)
    convert(tmp_path / "base.pth", tmp_path / "merged.pth", "pth", given)
    for strategy in (STRATEGIES[entry.name], QUANTISED.get(entry.name, "")):
        if not strategy:
            continue
        merged = load_or_skip(entry, tmp_path / "merged.pth", strategy)
        backend, options = resolve_strategy(strategy, adapter_file=lora, adapter_alpha=16)
        config = inspect(tmp_path / "base.pth").config
        assert config is not None
        beside = backend.load(str(tmp_path / "base.pth"), config, options, lambda progress: None)
        plain = load_backend(tmp_path / "base.pth", strategy)
        found, expected, without = (forward(one, [one.new_slot()], [IDS])[0] for one in (beside, merged, plain))
        assert (found == expected).all() and (found != without).any()
        for one in (merged, beside, plain):
            one.close()


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_an_adapter_that_changes_nothing_fails_the_load(entry: BackendEntry, tmp_path: Path) -> None:
    torch.save(official("7", vocab_size=256), tmp_path / "base.pth")
    lora, strategy = write_lora(tmp_path / "lora.pth", scale=0.0), STRATEGIES[entry.name]
    load_or_skip(entry, tmp_path / "base.pth", strategy).close()
    backend, options = resolve_strategy(strategy, adapter_file=lora, adapter_alpha=16)
    config = inspect(tmp_path / "base.pth").config
    assert config is not None
    with raises_code("lora_mismatch"):
        backend.load(str(tmp_path / "base.pth"), config, options, lambda progress: None)


def test_no_strategy_spells_an_adapter() -> None:
    """A strategy with an adapter could name any file on the disk."""
    with raises_code("strategy_invalid"):
        resolve_strategy("native q8 adapter_file=/etc/hostname")


def test_packed_weights_and_states_are_kept_apart_by_adapter(tmp_path: Path) -> None:
    torch.save(official("7"), base := tmp_path / "base.pth")
    lora = write_lora(tmp_path / "lora.pth")

    def kept(alpha: float) -> tuple[Path, str]:
        choice = AdapterChoice(lora, alpha) if alpha else None
        options = {"adapter_file": lora if alpha else "", "adapter_alpha": alpha, "adapter_start": ""}
        return _packed_place(base, Layout(adapter=choice)), model_identity(base, "native q8", False, options)

    found = [kept(0.0), kept(16.0), kept(8.0)]
    write_lora(tmp_path / "lora.pth", scale=2.0)
    found.append(kept(8.0))
    assert [len(set(column)) for column in zip(*found, strict=True)] == [4, 4]
    assert found[0][1] == model_identity(base, "native q8", False)
