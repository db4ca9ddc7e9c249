"""The library of states, ``models/states``: what is in a file, which models it fits, and every change of the files; and
the states of chats that the engine keeps by itself (:mod:`webapp.engine.snapshot_store`)."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from webapp.engine.snapshot_store import clear_folder, folder_use
from webapp.errors import FileMissing, FileReadingFailed, RequestError, RoostError, WeightsError, as_roost_error
from webapp.i18n import Text
from webapp.manager.library import STATE_ENDINGS, STATES, ModelEntry, Stamp, find_file, stamp_of
from webapp.manager.manager import ModelManager
from webapp.manager.target import ZERO_STATE, StateInfo
from webapp.services.jobs import Job, Jobs, Running
from webapp.services.library import placing
from webapp.settings import Settings
from webapp.weights.inspection import require_model
from webapp.weights.state_sheet import StateSheet, write_state_file

if TYPE_CHECKING:
    from webapp.engine.state import RecurrentState
    from webapp.weights.state_measures import StateMeasures

PIECE_BYTES = 1 << 16  # pieces of a megabyte left each server thread 5 MB of unused heap
NEW_ENDING = ".safetensors"
MAKING = "state"
KEPT_MEASURES = 8
MOST_TOKENS = 16384
Parts = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class StateEntry:
    """One file of the library. Exactly one of ``sheet`` and ``error`` is set. ``name`` is relative to the folder of
    states, with forward slashes. ``fits`` names the models of the library it can be the beginning of."""

    name: str
    path: Path
    size_bytes: int
    changed_at: float
    sheet: StateSheet | None = None
    error: RoostError | None = None
    fits: tuple[str, ...] = ()

    @property
    def has_unknown_version(self) -> bool:
        """Nothing in the file says for which version of RWKV it was made: a model of another version and the same
        sizes takes it, and answers nonsense."""
        return self.sheet is not None and not self.sheet.architecture


class StateLibrary:
    """``app.extensions["states"]``. Every method either succeeds or raises a RoostError and changes nothing."""

    def __init__(self, manager: ModelManager, jobs: Jobs | None = None) -> None:
        self.manager = manager
        self.jobs = jobs or Jobs()
        self.library = manager.library
        self.folder = Path(os.path.abspath(self.library.models_dir)) / STATES
        self._reader = self.library.reader
        self._lock = threading.Lock()
        self._sheets: dict[Path, tuple[Stamp, StateSheet | RoostError]] = {}
        self._trash = placing.Trash(self.library.models_dir)
        self._measures: dict[tuple[tuple[Path, Stamp], ...], StateMeasures] = {}

    # what is there

    def list(self) -> tuple[StateEntry, ...]:
        """Sorted by name, subfolders too; what cannot be used is listed with its error."""
        models = self.library.list()
        paths = sorted(self._files(), key=lambda path: self._name_of(path).lower())
        with self._lock:
            for path in set(self._sheets) - set(paths):
                del self._sheets[path]
        return tuple(self._entry(path, models) for path in paths)

    def measures(self, name: str, other: str = "") -> StateMeasures:
        """How strong a state is in each layer and head, and how far the ``other`` is from it. ``state_not_found``,
        ``state_mismatch``; the last ones asked for are kept."""
        paths = [self._find(each) for each in (name, other) if each]
        key = tuple((path, stamp_of(path)) for path in paths)
        found = self._measures.get(key)
        if found is None:
            found = self._reader.state_measures(*paths)
            with self._lock:
                self._measures[key] = found
                while len(self._measures) > KEPT_MEASURES:
                    del self._measures[next(iter(self._measures))]
        return found

    def names(self) -> tuple[str, ...]:
        """Of the files alone; none is opened."""
        return tuple(sorted(map(self._name_of, self._files()), key=str.lower))

    def entry(self, name: str) -> StateEntry:
        """Raises ``state_not_found`` when there is none of this name."""
        return self._entry(self._find(name), self.library.list())

    def merged(self) -> tuple[ModelEntry, ...]:
        """Models that begin with a state of their own."""
        return tuple(entry for entry in self.library.list() if entry.inspection and entry.inspection.has_time_state)

    # use

    def use(self, name: str) -> StateInfo:
        """The beginning of every later answer, at once; "" is the model's own, ``-`` none at all."""
        return self.manager.apply_state(name)

    # files

    def add(self, name: str, stream: BinaryIO) -> str:
        """A file from elsewhere, checked before it has a place; the name it has. Raises WeightsError,
        ``file_name_taken`` and others."""
        clean = placing.safe_name(name, STATE_ENDINGS)
        placing.check_name_free(self.folder / clean)
        with self._part() as part:
            with placing.writing(self.folder), part.open("xb", buffering=0) as target:
                while piece := stream.read(PIECE_BYTES):
                    placing.write_all(target, piece)
            return self._place(part, clean)

    def import_path(self, source_path: str) -> str:
        """A copy of a file on this machine, given by its absolute path; the name it has."""
        source = placing.whole_path(source_path)
        clean = placing.safe_name(source.name, STATE_ENDINGS)
        placing.look_into(self._reader, source, source.name)  # before anything is copied: it may be a model of 10 GB
        self._reader.state_sheet(source, clean)
        placing.check_free(self.library.models_dir, source.stat().st_size)
        with source.open("rb") as stream:
            return self.add(clean, stream)

    def delete(self, name: str) -> placing.Trashed:
        """Into the trash of the models folder; raises ``state_in_use`` for the one new answers begin with."""
        path = self._find(name)
        if self.manager.status().state == self._name_of(path):
            raise RoostError("state_in_use", name=name)
        return self._trash.put(path)

    def restore(self, item_id: str) -> str:
        return self._name_of(self._trash.restore(item_id))

    def rename(self, name: str, new_name: str) -> str:
        """The name it has now; its ending stays. ``state_in_use``, ``file_name_taken``, ``file_name_unusable``."""
        path = self._find(name)
        if self.manager.status().state == self._name_of(path):
            raise RoostError("state_in_use", name=name)
        clean = placing.safe_name(_with_ending(new_name, path.suffix), (path.suffix.lower(),))
        if clean != path.name:
            placing.take_place(path, path.with_name(clean))
        return self._name_of(path.with_name(clean))

    # new ones

    def blend(self, parts: Parts, new_name: str) -> str:
        """A new file with the weighted mean of several; ``-`` among them is no state, which weakens the others."""
        found = [(None if name == ZERO_STATE else self._find(name), name, weight) for name, weight in parts]
        note = "blend of " + ", ".join(f"{name} x {weight:g}" for name, weight in parts)
        return self._made(new_name, lambda part: self._reader.blend(found, part, note))

    def copy_out(self, model: str, new_name: str) -> str:
        """The state merged in a model file, as a file of its own."""
        path = self.library.find(model)
        return self._made(new_name, lambda part: self._reader.copy_out(path, part, f"merged in {path.name}"))

    def make(self, text: str, new_name: str) -> Job:
        """Lets the chosen model read a text, and keeps what it remembers of it as a file: a job, for a long text takes
        minutes on a slow machine.

        Only what a state file can hold is kept (``att_kv``), not the last token's activations, so a sequence that
        starts from it goes on as after a new beginning, with the text in mind. What is wrong with name, model or text
        is raised at once: ``file_name_taken``, ``state_mismatch``, ``prompt_empty``, ``prompt_too_long``, …
        """
        name = self.free_name(new_name)
        if require_model(self.manager.model_info()).major == 4:
            raise self.no_states_in_4(name)
        token_ids = tuple(self.manager.tokenizer().encode(text.strip()))
        if not token_ids:
            raise RequestError("prompt_empty")
        if len(token_ids) > MOST_TOKENS:
            raise RequestError("prompt_too_long", found=len(token_ids), limit=MOST_TOKENS)
        about = {"model": self.manager.status().model, "tokens": len(token_ids)}

        def read(running: Running) -> dict[str, str]:
            state = self.manager.read_state(token_ids, state="")
            if running.wish:
                raise InterruptedError
            note = f"made of a text of {len(token_ids)} tokens by {about['model']}"
            layers, version = state.arrays["att_kv"], state.architecture[0]
            return {"name": self._made(name, lambda part: write_state_file(part, layers, version, note))}

        return self.jobs.start(MAKING, name, read, about, unit="")

    def free_name(self, new_name: str) -> str:
        """As a new file would be called; ``file_name_taken``, ``file_name_unusable``."""
        name = placing.safe_name(_with_ending(new_name, NEW_ENDING), (NEW_ENDING,))
        placing.check_name_free(self.folder / name)
        return name

    def read_text(self, data: bytes, kind: str, name: str) -> str:
        """Of a document, ``pdf``, ``docx`` or ``html``; errors as of :meth:`FileReader.document_text`."""
        with self._part() as part:
            with placing.writing(self.folder):
                part.write_bytes(data)
            return self._reader.document_text(part, kind, name)

    def write_running(
        self, name: str, state: RecurrentState, note: str, about: Mapping[str, str], is_new: bool = True
    ) -> None:
        """A whole state (RWKV-5 to 7) as a file, with ``about`` in its metadata; in place of the one there unless it
        ``is_new``."""
        import numpy as np

        shifts = np.stack([state.arrays["att_x_prev"], state.arrays["ffn_x_prev"]])
        self._made(
            name,
            lambda part: write_state_file(part, state.arrays["att_kv"], state.architecture[0], note, shifts, about),
            replaces=not is_new,
        )

    @staticmethod
    def no_states_in_4(name: str) -> WeightsError:
        return WeightsError(
            "state_mismatch",
            path=name,
            what=Text("reason.services.models_version"),
            expected=Text("reason.common.rwkv_5_6_or_7"),
            found="RWKV 4",
        )

    # smaller parts

    def _files(self) -> Iterator[Path]:
        for folder, subfolders, names in os.walk(self.folder):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
            wanted = (name for name in names if name.lower().endswith(STATE_ENDINGS) and not name.startswith("."))
            yield from (Path(folder, name) for name in wanted)

    def _entry(self, path: Path, models: Sequence[ModelEntry]) -> StateEntry:
        found = self._sheet(path)
        try:
            stat = path.stat()
            size, changed_at = stat.st_size, stat.st_mtime
        except OSError:
            size, changed_at = 0, 0.0
        name = self._name_of(path)
        if isinstance(found, RoostError):
            return StateEntry(name, path, size, changed_at, error=found)
        return StateEntry(name, path, size, changed_at, sheet=found, fits=_fitting(found, models))

    def _sheet(self, path: Path) -> StateSheet | RoostError:
        """Read once a change. The error of a file that is no state: others are listed all the same."""
        stamp = stamp_of(path)
        with self._lock:
            seen = self._sheets.get(path)
        if seen is not None and seen[0] == stamp:
            return seen[1]
        try:
            found: StateSheet | RoostError = self._reader.state_sheet(path)
        except FileReadingFailed as exc:  # the reader remembers it, and when it may be tried again
            return exc
        except Exception as exc:  # whatever is wrong with one file
            found = as_roost_error(exc)
        with self._lock:
            self._sheets[path] = (stamp, found)
        return found

    def _find(self, name: str) -> Path:
        path = find_file(self.folder, name) if name and name != ZERO_STATE else None
        if path is None or not path.name.lower().endswith(STATE_ENDINGS):
            raise FileMissing("state_not_found", path=name)
        return path

    def _name_of(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name

    def _made(self, new_name: str, write: Callable[[Path], None], replaces: bool = False) -> str:
        """A new file that ``write`` makes at the path it is given, or one in place of that of the whole name."""
        clean = new_name if replaces else self.free_name(new_name)
        with self._part() as part:
            with placing.writing(self.folder):
                write(part)
            return self._place(part, clean, replaces)

    def _place(self, part: Path, name: str, replaces: bool = False) -> str:
        placing.look_into(self._reader, part, name)
        self._reader.state_sheet(part, name)
        placing.to_disk(part)
        if replaces:
            with placing.writing(self.folder):
                os.replace(part, self.folder / name)
        else:
            placing.take_place(part, self.folder / name)
        return name

    @contextlib.contextmanager
    def _part(self) -> Iterator[Path]:
        """Where a file is written before it has a place; gone at the end if it got none."""
        part = self.folder / f".{uuid.uuid4().hex}.part"
        with placing.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def _fitting(sheet: StateSheet, models: Sequence[ModelEntry]) -> tuple[str, ...]:
    configs = ((entry.name, entry.inspection.config) for entry in models if entry.inspection is not None)
    return tuple(name for name, config in configs if config is not None and sheet.fits(config))


def _with_ending(name: str, ending: str) -> str:
    return name if name.lower().endswith(ending.lower()) else f"{name.strip()}{ending}"


def snapshot_use(settings: Settings) -> tuple[int, int]:
    """How many snapshots of chats are on disk, and their bytes."""
    return folder_use(settings.snapshot_dir)


def clear_snapshots(settings: Settings) -> int:
    """How many went. Chats are read again when they go on, but for those a running engine has in memory."""
    return clear_folder(settings.snapshot_dir)
