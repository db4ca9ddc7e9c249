"""A model inside the library: reads the file tensor by tensor, then runs it. Uses numpy and ctypes, not torch."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from webapp.backends import packed_file
from webapp.backends.native import building, library
from webapp.engine.backend import LoadProgress, ProgressCallback
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import OutOfMemory, WeightsError
from webapp.i18n import Text
from webapp.weights.adapter import AdapterChoice, open_model
from webapp.weights.checkpoint import Checkpoint

FORMATS = {"f32": 0, "bf16": 1, "f16": 2, "q8": 3, "q6": 4, "q4": 5}
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
PIECE_ROWS = 4096
"""Rows of head and embedding that are processed at a time; a multiple of 16."""
HELD_BYTES = 64 * 2**20
"""Limit for the pages of the file in this process's memory while it is read."""

# Statuses of src/engine.h.
BAD_ARGUMENT, NOT_FINITE, NO_MEMORY, NO_SLOT, BAD_TOKEN, INCOMPLETE, NO_SUCH_ISA = range(-1, -8, -1)

# Roles of src/engine.h, by the official names of tensors.
(RECEPTANCE, KEY, VALUE, OUTPUT, GATE, FFN_KEY, FFN_VALUE, FFN_RECEPTANCE) = range(8)
DECAY_DOWN, DECAY_UP, MIX_DOWN, MIX_UP = 8, 12, 16, 21
HEAD, EMBEDDING = range(2)
MATRICES = {
    "att.receptance.weight": RECEPTANCE,
    "att.key.weight": KEY,
    "att.value.weight": VALUE,
    "att.output.weight": OUTPUT,
    "att.gate.weight": GATE,
    "ffn.key.weight": FFN_KEY,
    "ffn.value.weight": FFN_VALUE,
    "ffn.receptance.weight": FFN_RECEPTANCE,
}
TURNED = {f"att.{letter}{half}": 8 + 4 * (half - 1) + i for half in (1, 2) for i, letter in enumerate("wavg")}
TURNED |= {"att.time_decay_w1": DECAY_DOWN, "att.time_decay_w2": DECAY_UP}
"""Low-rank matrices, which files store as (inputs, rows)."""
NORMS = {
    "ln1.weight": 0,
    "ln1.bias": 1,
    "ln2.weight": 2,
    "ln2.bias": 3,
    "att.ln_x.weight": 4,
    "att.ln_x.bias": 5,
}
MIXES = {letter: 6 + i for i, letter in enumerate("rwkvagx")}
FFN_MIXES = {"k": 13, "r": 14}
DECAY, BONUS = 15, 16
VECTORS_V7 = {"att.w0": DECAY, "att.r_k": BONUS, "att.a0": 17, "att.v0": 18, "att.k_k": 19, "att.k_a": 20}
GLOBAL_VECTORS = ("blocks.0.ln0.weight", "blocks.0.ln0.bias", "ln_out.weight", "ln_out.bias")
UNUSED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")


BATCH_ARRAYS = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "position", "starts", "ids", "values", "banned"),
    *("mask_of", "masks", "alternatives"),
)
"""Fields of a SamplingBatch; most are the same object while the same sequences run."""


class Layout(Struct, frozen=True):
    """How weights are stored and run. Formats by name; ``isa`` as in ``library.ISAS``."""

    format: str = "q8"
    head: str = "q8"
    lora: str = "q8"
    embedding_q8: bool = True
    threads: int = 1
    isa: str = "portable"
    max_slots: int = 65
    max_columns: int = 128
    calibration: tuple[tuple[int, ...], ...] = ()
    """Token ids for fitting scales, in pieces of at most ``max_columns``; without them scales are not fitted."""
    has_packed_file: bool = False
    """Whether packed weights are stored on disk for the next load (:mod:`webapp.backends.packed_file`)."""
    adapter: AdapterChoice | None = None
    """Merged in before the weights are packed."""


class NativeModel:
    """One model and its slots. Not thread-safe."""

    def __init__(self, config: ModelConfig, layout: Layout) -> None:
        self.config = config
        self._library = library.load()
        self._handle = ctypes.c_void_p()
        self._mapped: NDArray[np.uint8] | None = None
        given = library.Config(
            architecture=int(float(config.architecture) * 10),
            layers=config.n_layer,
            width=config.n_embd,
            attention=config.n_att,
            hidden=config.n_ffn,
            heads=config.n_head,
            head_size=config.head_size,
            vocab=config.vocab_size,
            format=FORMATS[layout.format],
            head_format=FORMATS[layout.head],
            lora_format=FORMATS[layout.lora],
            embedding_q8=int(layout.embedding_q8),
            threads=layout.threads,
            isa=library.ISAS[layout.isa],
            max_slots=layout.max_slots,
            max_columns=layout.max_columns,
        )
        self._check(self._library.roost_create(ctypes.byref(given), ctypes.byref(self._handle)))
        self._state_floats = self._library.roost_state_floats(self._handle)
        self._banned: NDArray[np.int32] | None = None
        self._job = library.SamplingJob()
        self._kept: dict[str, NDArray[Any]] = {}
        self._lines: list[int] = []
        self._has_usable = False
        self._spread = library.ALL_JOBS
        self.threads = layout.threads

    @classmethod
    def load(cls, path: str, config: ModelConfig, layout: Layout, progress: ProgressCallback) -> NativeModel:
        """Raises WeightsError for a tensor that is missing, has another shape or is not finite; and exceptions of
        ``progress``."""
        kept = _packed_place(Path(path), layout) if layout.has_packed_file else None
        found = cls._from_packed_file(kept, config, layout) if kept is not None else None
        if found is not None:
            progress(LoadProgress(found.arena_bytes, found.arena_bytes, 1, 1))
            return found
        model = cls(config, layout)
        try:
            with open_model(path, layout.adapter) as source:
                _Loader(model, source, progress, layout.calibration).read()
            if kept is not None:
                model._write_packed_file(kept)
        except BaseException:
            model.close()
            raise
        return model

    @classmethod
    def _from_packed_file(cls, path: Path, config: ModelConfig, layout: Layout) -> NativeModel | None:
        """None if there is no file, or if the library does not accept it."""
        mapped = packed_file.opened(path)
        if mapped is None:
            return None
        model = cls(config, layout)
        memory = np.frombuffer(mapped, np.uint8)
        model._mapped = memory
        lib = model._library
        if lib.roost_adopt(model._open, memory.ctypes.data, memory.size) == 0 and lib.roost_ready(model._open) == 0:
            return model
        model.close()
        return None

    def _write_packed_file(self, path: Path) -> None:
        counts = (ctypes.c_int32 * 2)()
        self._check(self._library.roost_parts(self._open, None, 0, None, 0, counts))
        directory, parts = (ctypes.c_int64 * counts[0])(), (library.Part * counts[1])()
        self._check(self._library.roost_parts(self._open, directory, counts[0], parts, counts[1], counts))
        writer = packed_file.Writer(path, directory[3])
        writer.put(0, bytes(directory))
        for part in parts:
            writer.put(part.offset, (ctypes.c_char * part.bytes).from_address(part.data) if part.bytes else b"")
        writer.finish()

    def close(self) -> None:
        """May be called again."""
        if self._handle:
            self._library.roost_free(self._handle)
            self._handle = ctypes.c_void_p()
            self._mapped = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    @property
    def isa(self) -> str:
        return str(self._library.roost_isa_name(self._open).decode())

    @property
    def weight_bytes(self) -> int:
        """Bytes read for one decoded token, without the states."""
        return int(self._library.roost_weight_bytes(self._open))

    @property
    def arena_bytes(self) -> int:
        return int(self._library.roost_arena_bytes(self._open))

    @property
    def state_bytes(self) -> int:
        return int(4 * self._state_floats)

    def read_bandwidth(self, size: int = 256 * 2**20) -> float:
        """Bytes per second that all its threads together read from memory."""
        return float(self._library.roost_read_bandwidth(self._open, size)) * 1e9

    def new_slot(self) -> int:
        """Raises NoSlot (OutOfMemory) if all are in use."""
        return self._check(self._library.roost_new_slot(self._open))

    def free_slot(self, slot: int) -> None:
        self._check(self._library.roost_free_slot(self._open, slot))

    def copy_slot(self, source: int, target: int) -> None:
        self._check(self._library.roost_copy_slot(self._open, source, target))

    def save(self, slot: int) -> NDArray[np.float32]:
        """The slot's state in the library's own layout."""
        saved = np.empty(self._state_floats, np.float32)
        self._check(self._library.roost_save(self._open, slot, saved.ctypes.data))
        return saved

    def restore(self, slot: int, saved: NDArray[np.float32]) -> None:
        if saved.shape != (self._state_floats,) or saved.dtype != np.float32:
            raise ValueError("not a state saved by this model")
        self._check(self._library.roost_restore(self._open, slot, saved.ctypes.data))

    def read_state(self, slot: int) -> RecurrentState:
        state = RecurrentState.zeros(self.config)
        att, ffn, rest = self._parts(state)
        self._check(self._library.roost_transfer_state(self._open, slot, 0, *_pointers(att, ffn, rest)))
        if self.config.major == 4:
            for name, array in zip(("att_aa", "att_bb", "att_pp"), rest, strict=True):
                state.arrays[name][:] = array
        return state

    def write_state(self, slot: int, state: RecurrentState) -> None:
        """Raises ValueError for NaN or infinity; the shapes were checked before."""
        att, ffn, rest = (np.ascontiguousarray(array, np.float32) for array in self._parts(state))
        self._check(self._library.roost_transfer_state(self._open, slot, 1, *_pointers(att, ffn, rest)))

    def spread(self, which: int) -> None:
        """Which work uses several threads from now on: NO_JOBS, LARGE_JOBS or ALL_JOBS (default)."""
        if which != self._spread:
            self._spread = self._check(self._library.roost_spread(self._open, which)) or which

    def step(
        self, slots: Sequence[int], token_ids: Sequence[Sequence[int]], want: Sequence[int]
    ) -> NDArray[np.float32]:
        """Feeds ``token_ids[b]`` to ``slots[b]``; ``want``: 0 nothing, 1 last, 2 all. Returns its :meth:`lines`."""
        return self.lines(self.run(slots, token_ids, want))

    def run(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]], want: Sequence[int]) -> int:
        """Like :meth:`step`, but returns the number of lines, which are computed on request."""
        try:
            tokens = array("i", chain.from_iterable(token_ids))
        except OverflowError:
            self._check(BAD_TOKEN)
            raise
        arrays = (array("i", slots), array("i", map(len, token_ids)), tokens, array("i", want))  # cheaper than numpy's
        addresses = [each.buffer_info()[0] for each in arrays]
        return self._check(self._library.roost_step(self._open, len(token_ids), *addresses))

    def lines(self, lines: int) -> NDArray[np.float32]:
        """The logits of all ``lines`` of the last step: a view of the library's memory, valid until the next step."""
        stride = ctypes.c_int64()
        address = self._library.roost_logits(self._open, ctypes.byref(stride)) if lines else None
        if not address:
            self._check(NO_MEMORY if lines else 0)
            return np.empty((0, self.config.vocab_size), np.float32)
        whole = np.ctypeslib.as_array((ctypes.c_float * (lines * stride.value)).from_address(address))
        return whole.reshape(lines, stride.value)[:, : self.config.vocab_size]

    def sample(self, lines: Sequence[int], batch: Any) -> tuple[Any, Any, Any, Any]:
        """For a ``SamplingBatch``: token ids, and the three arrays of logprobs or None."""
        count, job, kept = len(lines), self._job, self._kept
        self._use_only(batch.banned)
        if lines != self._lines:
            self._lines = [*lines]
            kept["lines"] = np.array(lines, np.int32)
            job.lines, job.count = _address(kept["lines"]), count
        for name in BATCH_ARRAYS:
            array = getattr(batch, name)
            if array is kept.get(name):
                continue
            kept[name] = array
            setattr(job, name, _address(array))
            if name == "alternatives":
                job.most_alternatives = int(array.max(initial=-1))
            elif name == "masks":
                job.mask_words = array.shape[1] if array.ndim == 2 else 0
            elif name == "banned":
                job.banned_count = len(array)
        most = job.most_alternatives
        token_ids = np.empty(count, np.int32)
        reports: tuple[Any, ...] = (None, None, None)
        if most >= 0:
            reports = (
                np.zeros(count, np.float32),
                np.zeros((count, most), np.int32),
                np.zeros((count, most), np.float32),
            )
        job.only_usable, job.token_ids = self._has_usable, _address(token_ids)
        job.logprobs, job.best_ids, job.best_logprobs = (None if each is None else _address(each) for each in reports)
        self._check(self._library.roost_sample(self._open, ctypes.byref(job)))
        return (token_ids, *reports)

    def _use_only(self, banned: NDArray[np.int32]) -> None:
        """If at least half of the tokens can never be sampled (a model trained on a part of its vocabulary), the head
        is computed only for the others when a line is only sampled."""
        if banned is self._banned:
            return
        self._banned = banned
        usable = np.delete(np.arange(self.config.vocab_size, dtype=np.int32), banned)  # setdiff1d imports for 0.2 s
        self._has_usable = 0 < len(usable) <= self.config.vocab_size // 2
        count = len(usable) if self._has_usable else 0
        self._check(self._library.roost_set_usable(self._open, usable.ctypes.data, count))

    @property
    def _open(self) -> ctypes.c_void_p:
        if not self._handle:
            raise ValueError("the model is closed")
        return self._handle

    def _parts(self, state: RecurrentState) -> tuple[NDArray[np.float32], ...]:
        """In the library's form: RWKV-4's three arrays are one."""
        arrays = state.arrays
        rest = (
            np.stack([arrays[name] for name in ("att_aa", "att_bb", "att_pp")])
            if self.config.major == 4
            else arrays["att_kv"]
        )
        return arrays["att_x_prev"], arrays["ffn_x_prev"], rest

    @staticmethod
    def _check(status: int) -> int:
        """Returns the count from a call, or raises the error for its status."""
        if status >= 0:
            return status
        if status == NO_MEMORY:
            raise OutOfMemory(reason=Text("reason.backends.native_out_of_memory"))
        if status == NO_SLOT:
            raise KeyError("the slot is not in use, or named twice, or all are taken")
        reasons = {
            NOT_FINITE: Text("reason.common.nan_or_infinity"),
            BAD_TOKEN: "a token id outside the vocabulary",
            INCOMPLETE: "a tensor is missing",
            NO_SUCH_ISA: "this processor cannot run the instruction set",
        }
        raise ValueError(reasons.get(status, "an argument that does not fit the model"))


class _Loader:
    """Passes a file's tensors to the library, directly from the file and without a copy if possible."""

    def __init__(
        self,
        model: NativeModel,
        source: Checkpoint,
        progress: ProgressCallback,
        calibration: Sequence[Sequence[int]] = (),
    ) -> None:
        self._calibration = calibration
        self._model = model
        self._source = source
        self._progress = progress
        self._names = set(source.names())
        self._total_bytes = sum(source.info(name).nbytes for name in self._names)
        self._done: set[str] = set()
        self._done_bytes = self._held_bytes = 0

    def read(self) -> None:
        config = self._model.config
        lib = self._model._library
        for role, name in enumerate(GLOBAL_VECTORS):
            self._vector(-1, role, name, self._values(name))
        self._read_rows(EMBEDDING, "emb.weight")
        if self._calibration:
            counts = np.array([len(piece) for piece in self._calibration], np.int32)
            ids = np.array(list(chain.from_iterable(self._calibration)), np.int32)
            status = lib.roost_begin_calibration(self._model._open, len(counts), *_pointers(counts, ids))
            self._model._check(status)
        for layer in range(config.n_layer):
            self._read_layer(layer)
        if self._calibration:
            self._model._check(lib.roost_calibrate(self._model._open, config.n_layer))
        self._read_rows(HEAD, "head.weight")
        self._read_initial_state()
        if lib.roost_ready(self._model._open) != 0:
            self._refuse(Text("reason.backends.low_rank_mismatch"))
        self._progress(LoadProgress(self._total_bytes, self._total_bytes, len(self._names), len(self._names)))

    def _read_rows(self, role: int, name: str) -> None:
        total = self._model.config.vocab_size
        for start in range(0, total, PIECE_ROWS):
            self._matrix(-1, role, name, self._bits(name)[start : start + PIECE_ROWS], start, total)

    def _read_layer(self, layer: int) -> None:
        prefix, config = f"blocks.{layer}.", self._model.config
        for name, role in self._matrices(layer):
            bits = self._bits(prefix + name)
            is_trial = bool(self._calibration) and name in MATRICES
            self._matrix(layer, role, prefix + name, bits.T if name in TURNED else bits, is_trial=is_trial)
        for name, role in NORMS.items():
            if config.major > 4 or not name.startswith("att."):
                self._vector(layer, role, prefix + name, self._values(prefix + name))
        if config.major == 7:
            self._read_layer_v7(layer, prefix)
        else:
            self._read_layer_v4_to_v6(layer, prefix)
        if self._calibration:
            if self._model._library.roost_calibrate(self._model._open, layer) == BAD_ARGUMENT:
                self._refuse(Text("reason.backends.low_rank_mismatch"))
            for name, role in self._matrices(layer):
                if name in MATRICES:
                    self._matrix(layer, role, prefix + name, self._bits(prefix + name))

    def _matrices(self, layer: int) -> Iterator[tuple[str, int]]:
        config = self._model.config
        for name, role in MATRICES.items():
            if name == "att.gate.weight" and config.architecture not in ("5.1", "5.2", "6"):
                continue
            if name == "ffn.receptance.weight" and config.major == 7:
                continue
            yield name, role
        if config.major == 6:
            yield from (("att.time_decay_w1", DECAY_DOWN), ("att.time_decay_w2", DECAY_UP))
        if config.major == 7:
            letters = "wavg" if layer else "wag"
            yield from ((f"att.{x}{half}", TURNED[f"att.{x}{half}"]) for half in (1, 2) for x in letters)

    def _read_layer_v7(self, layer: int, prefix: str) -> None:
        for letter in "rwkvag":
            name = f"{prefix}att.x_{letter}"
            self._vector(layer, MIXES[letter], name, self._values(name))
        self._vector(layer, FFN_MIXES["k"], f"{prefix}ffn.x_k", self._values(f"{prefix}ffn.x_k"))
        for name, role in VECTORS_V7.items():
            if layer or name != "att.v0":
                self._vector(layer, role, prefix + name, self._values(prefix + name))

    def _read_layer_v4_to_v6(self, layer: int, prefix: str) -> None:
        config = self._model.config
        is_6 = config.major == 6
        # RWKV-4 and 5 store the factor of the present token, 6 and 7 that of the previous one.
        word = "time_maa" if is_6 else "time_mix"
        letters = "rwkvgx" if is_6 else "rkvg" if config.architecture in ("5.1", "5.2") else "rkv"
        for part, roles in (("att", {x: MIXES[x] for x in letters}), ("ffn", FFN_MIXES)):
            for letter, role in roles.items():
                name = f"{prefix}{part}.{word}_{letter}"
                values = self._values(name)
                self._vector(layer, role, name, values if is_6 else 1 - values)
        if is_6:
            self._read_shifts(layer, prefix)
        decay, bonus = self._decay_and_bonus(prefix)
        self._vector(layer, DECAY, f"{prefix}att.time_decay", decay)
        self._vector(layer, BONUS, f"{prefix}att.time_first", bonus)

    def _decay_and_bonus(self, prefix: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One value per channel. RWKV-5 up to 5.1 has one per head; the bonus is a logarithm in 5.0."""
        config = self._model.config
        decay = self._values(f"{prefix}att.time_decay").astype(np.float64)
        first = "time_first" if config.architecture in ("4", "5.0") else "time_faaaa"
        bonus = self._values(f"{prefix}att.{first}").astype(np.float64)
        if config.major == 4:
            decay = -np.exp(decay)
        elif config.major == 5:
            decay = np.exp(-np.exp(decay))
            bonus = np.exp(bonus) if config.architecture == "5.0" else bonus
        if config.major == 5:
            decay, bonus = (
                np.repeat(x, config.n_att // x.size) if x.size < config.n_att else x for x in (decay, bonus)
            )
        return decay.astype(np.float32), bonus.astype(np.float32)

    def _read_shifts(self, layer: int, prefix: str) -> None:
        """RWKV-6: ``time_maa_w1 (n_embd, 5 * rank)`` and ``time_maa_w2 (5, rank, n_embd)`` as five pairs."""
        down_name, up_name = f"{prefix}att.time_maa_w1", f"{prefix}att.time_maa_w2"
        down, up = self._bits(down_name), self._bits(up_name)
        rank = down.shape[-1] // 5
        if down.ndim != 2 or up.ndim != 3 or up.shape[:2] != (5, rank) or down.shape[-1] != 5 * rank:
            self._refuse(_misshapen(up_name))
        for i in range(5):
            self._matrix(layer, MIX_DOWN + i, down_name, down[:, i * rank : (i + 1) * rank].T)
            self._matrix(layer, MIX_UP + i, up_name, up[i].T)

    def _read_initial_state(self) -> None:
        config = self._model.config
        names = [f"blocks.{layer}.att.time_state" for layer in range(config.n_layer)]
        if config.major == 4 or not self._names.issuperset(names):
            return
        matrices = np.stack([self._values(name).reshape(self._source.info(name).shape) for name in names])
        state = RecurrentState.from_time_state(config, matrices).arrays["att_kv"]
        contiguous = np.ascontiguousarray(state)
        status = self._model._library.roost_set_initial_state(self._model._open, contiguous.ctypes.data)
        if status == NOT_FINITE:
            self._refuse(_not_finite(names[0]))

    def _bits(self, name: str) -> np.ndarray:
        """A view of the file (or of the adapter's result) in a dtype that the library reads, or a float32 copy."""
        bits = self._source.bits(name)
        if self._source.info(name).dtype not in DTYPES:
            bits = bits.astype(np.float32)
        return bits

    def _values(self, name: str) -> NDArray[np.float32]:
        """Flat float32."""
        values: NDArray[np.float32] = np.ascontiguousarray(self._source.array(name), np.float32).reshape(-1)
        return values

    def _matrix(
        self,
        layer: int,
        role: int,
        name: str,
        bits: np.ndarray,
        first_row: int = 0,
        total: int = 0,
        is_trial: bool = False,
    ) -> None:
        self._report(name)
        if bits.ndim != 2:
            self._refuse(Text("reason.common.is_not_a_matrix", name=name))
        rows, inputs = bits.shape
        dtype = DTYPES.get(self._source.info(name).dtype, DTYPES["float32"])
        strides = [stride // bits.itemsize for stride in bits.strides]
        status = self._model._library.roost_set_matrix(
            self._model._open,
            layer,
            role,
            bits.ctypes.data,
            dtype,
            *strides,
            rows,
            inputs,
            first_row,
            total or rows,
            is_trial,
        )
        self._accept(status, name)
        self._held_bytes += bits.nbytes
        if self._held_bytes >= HELD_BYTES:
            self._source.release()
            self._held_bytes = 0

    def _vector(self, layer: int, role: int, name: str, values: NDArray[np.float32]) -> None:
        self._report(name)
        values = np.ascontiguousarray(values, np.float32)
        self._accept(
            self._model._library.roost_set_vector(self._model._open, layer, role, values.ctypes.data, values.size), name
        )

    def _accept(self, status: int, name: str) -> None:
        if status == NOT_FINITE:
            self._refuse(_not_finite(name))
        if status == BAD_ARGUMENT:
            self._refuse(_misshapen(name))
        self._model._check(status)

    def _refuse(self, reason: Text | str) -> NoReturn:
        raise WeightsError(path=str(self._source.path), reason=reason)

    def _report(self, name: str) -> None:
        if name in self._done or name not in self._names:
            return
        self._progress(LoadProgress(self._done_bytes, self._total_bytes, len(self._done), len(self._names)))
        self._done.add(name)
        self._done_bytes += self._source.info(name).nbytes


def _packed_place(model: Path, layout: Layout) -> Path:
    """All instruction sets share it, because packed weights are the same."""
    about = (layout.format, layout.head, layout.lora, layout.embedding_q8, bool(layout.calibration), layout.adapter)
    stamps = repr(layout.adapter.stamps()) if layout.adapter is not None else ""
    return packed_file.place(model, repr(about), building.source_digest() + stamps)


def _not_finite(name: str) -> Text:
    return Text("reason.backends.not_finite", name=name)


def _misshapen(name: str) -> Text:
    return Text("reason.backends.shape_does_not_fit", name=name)


def _address(array: NDArray[Any]) -> int:
    """Like ``array.ctypes.data``, in a third of the time; it is called 14 times per step."""
    address: int = array.__array_interface__["data"][0]
    return address


def _pointers(*arrays: NDArray[Any]) -> list[int]:
    """Addresses; the caller must keep the arrays alive. They are C-contiguous."""
    return [array.ctypes.data for array in arrays]


READ_BYTES = 256 * 2**20


def measured_bandwidth(threads: int) -> float:
    """Bytes per second that this many threads read from memory, without a model."""
    config = ModelConfig("7", n_layer=1, n_embd=64, n_att=64, n_ffn=64, n_head=1, head_size=64, vocab_size=64)
    model = NativeModel(config, Layout(threads=threads, isa=library.choose_isa(), max_slots=1, max_columns=8))
    try:
        return model.read_bandwidth(READ_BYTES)
    finally:
        model.close()
