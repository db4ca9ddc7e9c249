"""ggml: ragged steps, portable states, wrong input that must not crash the process, and a missing or incompatible
ggml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.backends.parity import ARCHITECTURES, difference
from tests.backends.test_rwkvcpp_models import FOLDER, MODELS, PROMPT
from tests.engine.driving import forward, load_backend
from tests.weights.make_checkpoints import write_checkpoint
from webapp.backends.ggml import library
from webapp.backends.ggml.backend import GgmlBackend
from webapp.backends.ggml.library import Ggml
from webapp.backends.ggml.model import GgmlModel
from webapp.engine.backend import Row
from webapp.engine.registry import resolve_strategy
from webapp.errors import RoostError
from webapp.weights.inspection import inspect

TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q5_k", "q4_k")


@pytest.fixture(autouse=True)
def needs_ggml() -> None:
    found = GgmlBackend.availability()
    if not found.is_available:
        pytest.skip(f"ggml: {found.reason}; {found.way_out}")


def loaded(folder: Path, architecture: str, strategy: str = "rwkv.cpp f32 threads=1", **options: object) -> GgmlBackend:
    path = folder / "m.pth"
    if not path.exists():
        write_checkpoint(path, architecture, **options)
    backend = load_backend(path, strategy)
    assert isinstance(backend, GgmlBackend)
    return backend


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_ragged_step_gives_each_row_the_result_of_a_separate_run(architecture: str, tmp_path: Path) -> None:
    backend = loaded(tmp_path, architecture)
    rng = np.random.default_rng(5)
    slots = [backend.new_slot() for _ in range(6)]
    rows = [(slots[4], 1, "last"), (slots[0], 20, "all"), (slots[2], 1, "last"), (slots[5], 7, "nothing")]
    rows += [(slots[1], 7, "last")]
    histories = {slot: rng.integers(0, 256, 5).tolist() for slot in slots}
    batch = [Row(slot, rng.integers(0, 256, count).tolist(), want) for slot, count, want in rows]

    expected = []
    for row in batch:
        alone = backend.new_slot()
        forward(backend, [alone], [histories[row.slot]])
        for place, token in enumerate(row.token_ids):
            logits = forward(backend, [alone], [[token]])[0]
            if row.want == "all" or (row.want == "last" and place == len(row.token_ids) - 1):
                expected.append(logits)
        histories[row.slot, "after"] = backend.read_state(alone).digest()
        backend.free_slot(alone)

    for slot in slots:
        forward(backend, [slot], [histories[slot]])
    untouched = backend.read_state(slots[3]).digest()
    logits = backend.step(batch)
    assert len(logits) == len(expected)
    # llamafile's kernels process several tokens at once and sum in another order.
    most = 1e-5 if library.load().has("ggml_cpu_has_llamafile") else 0
    assert difference(logits.to_numpy(range(len(logits))), np.stack(expected)) <= most
    for row in batch:
        assert most or backend.read_state(row.slot).digest() == histories[row.slot, "after"]
    assert backend.read_state(slots[3]).digest() == untouched
    backend.close()


@pytest.mark.parametrize("architecture", ("5.2", "6", "7"))
def test_a_state_continues_on_another_backend(architecture: str, tmp_path: Path) -> None:
    ours = loaded(tmp_path, architecture)
    other = load_backend(tmp_path / "m.pth", "cpu fp32")
    ids, rest = [3, 80, 7, 200, 11], [9, 4]
    for first, second in ((ours, other), (other, ours)):
        slot, there = first.new_slot(), second.new_slot()
        forward(first, [slot], [ids])
        second.write_state(there, first.read_state(slot))
        assert difference(forward(first, [slot], [rest]), forward(second, [there], [rest])) < 1e-4
        first.free_slot(slot), second.free_slot(there)
    ours.close(), other.close()


def test_slots_keep_their_states_while_their_number_grows_and_are_saved_and_forked(tmp_path: Path) -> None:
    backend = loaded(tmp_path, "7")
    first = backend.new_slot()
    forward(backend, [first], [[1, 2, 3]])
    before = backend.read_state(first).digest()
    others = [backend.new_slot() for _ in range(backend.max_slots)]
    assert backend.read_state(first).digest() == before
    with pytest.raises(RoostError) as caught:
        backend.new_slot()
    assert caught.value.code == "out_of_memory"
    saved = backend.save(first)
    assert saved.nbytes == backend.config.state_bytes()
    expected = forward(backend, [first], [[4]])
    backend.restore(others[0], saved)
    assert (forward(backend, [others[0]], [[4]]) == expected).all()
    backend.free_slot(others[1])
    backend.restore(first, saved)
    forked = backend.fork(first)
    assert (forward(backend, [forked], [[4]]) == expected).all()
    backend.close()


def test_what_would_end_the_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    backend = loaded(tmp_path, "7")
    slot = backend.new_slot()
    forward(backend, [slot], [[1, 2]])
    before = backend.read_state(slot).digest()
    for batch, error in (
        ([Row(slot, [256])], ValueError),
        ([Row(slot, [-1])], ValueError),
        ([Row(slot, [])], ValueError),
        ([Row(slot, [1]), Row(slot, [2])], KeyError),
        ([Row(slot + 1, [1])], KeyError),
        ([Row(99, [1])], KeyError),
    ):
        with pytest.raises(error):
            backend.step(batch)
    assert backend.read_state(slot).digest() == before
    backend.close()


@pytest.mark.parametrize("type_name", TYPES)
def test_a_checkpoint_is_kept_in_any_type(type_name: str, tmp_path: Path) -> None:
    """Random weights exaggerate the error: 0.001 of a logit in f16, up to about one in 4 bits."""
    exact = loaded(tmp_path, "7", n_embd=256, n_layer=2)
    backend = loaded(tmp_path, "7", f"rwkv.cpp {type_name} threads=1")
    ids = [5, 9, 200, 31]
    found = [forward(each, [each.new_slot()], [ids]) for each in (exact, backend)]
    bits = {"f": 16, "q": int(type_name[1])}[type_name[0]]
    assert 0 < difference(*found) < {16: 0.02, 8: 0.2, 6: 0.6, 5: 1.2, 4: 2.5}[bits]
    assert backend.model.weight_bytes < exact.model.weight_bytes
    exact.close(), backend.close()


def test_a_missing_or_misshapen_tensor_of_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    import torch

    write_checkpoint(tmp_path / "m.pth", "7")
    tensors = torch.load(tmp_path / "m.pth")
    for name, change in (
        ("blocks.1.att.w2", lambda x: x[:, :-1]),
        ("blocks.1.att.x_k", None),
        ("blocks.1.att.x_v", lambda x: x[..., :-1]),
        ("blocks.1.ffn.x_k", lambda x: x[..., :-1]),
        ("blocks.0.att.a0", None),
        ("blocks.1.ffn.key.weight", lambda x: x.T),
        ("ln_out.bias", lambda x: x * float("nan")),
        ("head.weight", lambda x: x / 0),
    ):
        changed = dict(tensors)
        if change is None:
            del changed[name]
        else:
            changed[name] = change(tensors[name]).contiguous()
        torch.save(changed, tmp_path / "wrong.pth")
        with pytest.raises(RoostError) as caught:
            load_backend(tmp_path / "wrong.pth", "rwkv.cpp f16")
        assert caught.value.code in ("file_error", "not_a_model"), name


@pytest.mark.fixtures
@pytest.mark.skipif(not FOLDER.is_dir(), reason="rwkv.cpp's models are not in ../shared (set ROOST_SHARED)")
@pytest.mark.parametrize("name", (*MODELS, "6v0-3m"))
def test_the_models_of_rwkv_cpps_own_tests_give_its_logits(name: str) -> None:
    """Runs its .bin files directly. In Q5_1 they differ by the quantisation error, like rwkv.cpp's own (reference: 0.28
    for 5v1 and 0.39 for 5v2). rwkv.cpp normalises RWKV-5's heads with an epsilon of 1e-5; its models were trained with
    64e-5, which Roost uses."""
    expected = np.fromfile(FOLDER / f"expected-logits-{name}.bin", np.float32)
    for kind, most in (("FP32", 1e-5), ("Q5_1", 0.5)):
        path = FOLDER / f"tiny-rwkv-{name}-{kind}.bin"
        if not path.exists():
            continue
        config = inspect(path).config
        assert config is not None
        eps = 1e-5 if config.major == 5 else 64e-5
        model = GgmlModel.load(library.load(), str(path), config, "q8_0", 1, 3, lambda progress: None, eps)
        found = model.step([Row(model.new_slot(), PROMPT)])[0]
        print(f"\nggml, {name} {kind}: {difference(found, expected):.1e}")
        assert difference(found, expected) <= most
        model.close()


def test_without_a_ggml_the_way_out_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.PATH_VARIABLE, raising=False)
    monkeypatch.setattr(library, "installed", lambda: [])
    library._load.cache_clear()
    found = GgmlBackend.availability()
    assert not found.is_available and found.reason.key == "reason.backends.package_not_installed"
    assert library.PINNED in str(found.way_out)
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    library._load.cache_clear()
    assert GgmlBackend.availability().way_out.key == "reason.backends.install_another_ggml"
    with pytest.raises(RoostError) as caught:
        GgmlBackend.check(None, {})
    assert caught.value.code == "backend_unavailable"
    library._load.cache_clear()


def test_a_ggml_made_for_another_processor_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml = library.load()
    assert library.missing_instructions(ggml) == []
    monkeypatch.setattr(library, "processor_flags", lambda: frozenset({"sse4_2"}))
    missing = library.missing_instructions(ggml)
    if not missing:
        pytest.skip("this ggml was compiled for any processor")
    library._load.cache_clear()
    found = GgmlBackend.availability()
    assert found.reason.key == "reason.backends.ggml_other_processor"
    library._load.cache_clear()


@pytest.mark.parametrize("own", [None, "7"])
def test_threads_of_openmp_spin_for_a_moment_unless_the_user_set_how_long(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libgomp reads the variable when it is loaded. torch, which is loaded later, must find the original value."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    paths, seen, open_library = library.load().paths, [], library.ctypes.CDLL

    def opened(path: str) -> object:
        seen.append(os.environ.get("GOMP_SPINCOUNT"))
        return open_library(path)

    monkeypatch.setattr(library.ctypes, "CDLL", opened)
    Ggml(paths)
    assert seen == [own or library.SPINS] * len(paths)
    assert os.environ.get("GOMP_SPINCOUNT") == own


def test_a_path_that_was_set_is_taken_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = library.load().paths
    monkeypatch.setenv(library.PATH_VARIABLE, str(paths[0].parent if len(paths) > 1 else paths[0]))
    assert library.load().paths == paths
    monkeypatch.setenv(library.PATH_VARIABLE, str(tmp_path))
    assert GgmlBackend.availability().reason.key == "reason.backends.no_ggml_there"
    (tmp_path / "libggml.so").write_bytes(b"no library")
    monkeypatch.setenv(library.PATH_VARIABLE, str(tmp_path / "libggml.so"))
    assert GgmlBackend.availability().reason.key == "reason.backends.cannot_be_loaded"


class Library:
    """An opened ggml, with the attributes used to choose among several."""

    def __init__(self, source: str, *words: str) -> None:
        self.source, self.words, self.paths = source, words, (Path(source),)

    def has(self, name: str) -> bool:
        return name in self.words

    def version(self) -> bytes:
        return b"0.20.2"


@pytest.mark.parametrize(
    ("there", "taken"), [(["own", "other"], "own"), (["foreign", "own"], "own"), (["own", "foreign"], "own")]
)
def test_the_first_installed_one_that_works_is_taken(
    there: list[str], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(paths: list[Path], source: str) -> Library:
        if source.startswith("foreign"):
            raise library.GgmlUnavailable("reason", "way out")
        return Library(source)

    monkeypatch.setattr(library, "_opened", opened)
    monkeypatch.setattr(library, "installed", lambda: [(name, [Path(name)]) for name in there])
    monkeypatch.delenv(library.PATH_VARIABLE, raising=False)
    library._load.cache_clear()
    assert library.load().source == taken
    monkeypatch.setenv(library.PATH_VARIABLE, str(Path(__file__)))
    assert library.load().source == __file__
    library._load.cache_clear()


def test_the_ggml_in_use_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "load", lambda: Library("libggml-python"))
    (found,) = GgmlBackend.remarks({"format": "q8_0"})
    assert found.params == {"source": "libggml-python", "version": "0.20.2"}


def test_its_strategies_are_read() -> None:
    for strategy in ("rwkv.cpp", "ggml", "rwkv.cpp q5_1", "rwkv.cpp format=q4_0 threads=2"):
        assert resolve_strategy(strategy)[0] is GgmlBackend
    assert resolve_strategy("rwkv.cpp q5_1")[1]["format"] == "q5_1"
    assert GgmlBackend.builder("ggml", {}, None).strategy == "rwkv.cpp"
    assert GgmlBackend.builder("ggml", {"format": "q4_k"}, None).strategy == "rwkv.cpp q4_k"
    assert GgmlBackend.read_builder("rwkv.cpp q4_k", None) == ("ggml", {"format": "q4_k"})


def test_layers_on_a_graphics_card_need_a_ggml_that_has_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.pth", "7")
    _, options = resolve_strategy("rwkv.cpp q8_0 gpu_layers=1")
    model, has_gpu = inspect(tmp_path / "m.pth"), library.load().has_gpu_backend()
    if has_gpu:
        GgmlBackend.check(model, options)
    else:
        with pytest.raises(RoostError) as caught:
            GgmlBackend.check(model, options)
        assert caught.value.params["reason"].key == "reason.backends.ggml_without_gpu"
    sizes = [GgmlBackend.footprint(model, {**options, "gpu_layers": count}).weights for count in (0, 1, 999)]
    assert sizes[0].keys() == {"ram"} and len({sum(each.values()) for each in sizes}) == 1
    assert 0 < sizes[1]["gpu"] < sizes[2]["gpu"] and sizes[2]["ram"] > 0  # the embedding stays in RAM
    assert GgmlBackend.builder("ggml", {"gpu_layers": 3}, None).strategy == "rwkv.cpp gpu_layers=3"


def test_layers_that_a_graphics_card_cannot_hold_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "m.pth", "7")
    model, (_, options) = inspect(tmp_path / "m.pth"), resolve_strategy("rwkv.cpp f32 gpu_layers=99")
    monkeypatch.setattr(Ggml, "has_gpu_backend", lambda self: True)
    for size, device in ((2**40, None), (2**10, "gpu"), (0, None)):
        monkeypatch.setattr(library, "gpu_bytes", lambda size=size: size)
        footprint = GgmlBackend.footprint(model, options)
        assert footprint.capacity == ({"gpu": size} if size else {}) and footprint.too_large_for() == device
    assert GgmlBackend.footprint(model, {**options, "gpu_layers": 0}).capacity == {}


def test_a_ggml_whose_driver_fails_tells_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    found = library.load()
    if not found.has_gpu_backend():
        assert library.gpu_bytes() == 0
    library._gpu_bytes.cache_clear()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert library.gpu_bytes() == 0
    library._gpu_bytes.cache_clear()


@pytest.mark.parametrize("architecture", ("6", "7"))
@pytest.mark.parametrize("gpu_layers", (1, 999))
def test_layers_on_a_graphics_card_give_the_same_answers(architecture: str, gpu_layers: int, tmp_path: Path) -> None:
    """Vulkan multiplies several tokens at a time in 16 bits."""
    if not library.load().has_gpu_backend() or library.load().gpu() is None:
        pytest.skip(f"no ggml with a GPU backend and a card for it: set {library.PATH_VARIABLE}")
    backends = [
        loaded(tmp_path, architecture, f"rwkv.cpp f32 threads=1{more}") for more in ("", f" gpu_layers={gpu_layers}")
    ]
    slots = [[backend.new_slot() for _ in range(6)] for backend in backends]  # the states' memory grows once
    rows = []
    for backend, (first, second, *_) in zip(backends, slots, strict=True):
        forward(backend, [second], [[9]])
        forward(backend, [first, second], [[3, 80, 7, 200], [11]])
        backend.restore(second, backend.save(first))
        forked = backend.fork(second)
        rows.append(forward(backend, [first, second, forked], [[5], [5], [5]]))
    assert difference(*rows) < 5e-3 and (np.abs(rows[1] - rows[1][0]).max() < 1e-5)
    states = [backend.read_state(row[0]) for backend, row in zip(backends, slots, strict=True)]
    assert max(difference(states[1].arrays[name], states[0].arrays[name]) for name in states[0].arrays) < 1e-2
    for backend in backends:
        backend.close()
