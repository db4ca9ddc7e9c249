"""The library of states, ``models/states``: the content of each file, the models it fits, all changes to the files, and
new ones: a text or the beginning of conversations (a prefix, :mod:`.generation.request`) that the model reads once; and
the states of chats that the engine saves itself (:mod:`webapp.engine.snapshot_store`)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from webapp.chat.messages import display_name, fenced
from webapp.engine.snapshot_store import clear_folder, folder_use
from webapp.engine.state import RecurrentState
from webapp.errors import (
    FileMissing,
    FileReadingFailed,
    ModelError,
    RequestError,
    RoostError,
    WeightsError,
    as_roost_error,
)
from webapp.i18n import Text
from webapp.manager.library import STATE_ENDINGS, STATES, ModelEntry, Stamp, find_file, stamp_of
from webapp.manager.manager import ModelManager
from webapp.manager.target import ZERO_STATE, StateInfo
from webapp.services.generation.request import (
    NEW_STATE_ENDING,
    PrefixSource,
    PromptModel,
    digest_of,
    encode_prompt,
    find_prefix,
    rendered_prefix,
)
from webapp.services.jobs import Job, Jobs, Running
from webapp.services.library import placing
from webapp.settings import Settings
from webapp.storage.presets import Preset
from webapp.storage.tools import StoredTool
from webapp.weights.inspection import require_model
from webapp.weights.state_sheet import (
    DOCUMENT,
    MAX_SOURCE_CHARS,
    PROMPT,
    TITLE_CHARS,
    TOOLS,
    PrefixSheet,
    StateMeasures,
    StateSheet,
    prefix_metadata,
    write_state_file,
)

PIECE_BYTES = 1 << 16  # pieces of a megabyte left each server thread 5 MB of unused heap
MAKING = "state"
KEPT_MEASURES = 8
MAX_TOKENS = 16384
Parts = Sequence[tuple[str, float]]


class StateEntry(Struct, frozen=True):
    """One file in the library. Exactly one of ``sheet`` and ``error`` is set. ``name`` is relative to the folder of
    states, with forward slashes. ``fits``: names of the library's models that can start from it."""

    name: str
    path: Path
    size_bytes: int
    changed_at: float
    sheet: StateSheet | None = None
    error: RoostError | None = None
    fits: tuple[str, ...] = ()

    @property
    def has_unknown_version(self) -> bool:
        """The file does not say for which RWKV version it was made: a model of another version with the same sizes
        accepts it, but answers nonsense."""
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

    # queries

    def list(self) -> tuple[StateEntry, ...]:
        """Sorted by name, with subfolders; unusable files are listed with their error."""
        models = self.library.list()
        paths = sorted(self._files(), key=lambda path: self._name_of(path).lower())
        with self._lock:
            for path in set(self._sheets) - set(paths):
                del self._sheets[path]
        return tuple(self._entry(path, models) for path in paths)

    def measures(self, name: str, other: str = "") -> StateMeasures:
        """The strength of a state in each layer and head, and its distance from ``other``. Raises ``state_not_found``
        or ``state_mismatch``; the last results are cached."""
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
        """Names of the files only; none is opened."""
        return tuple(sorted(map(self._name_of, self._files()), key=str.lower))

    def entry(self, name: str) -> StateEntry:
        """Raises ``state_not_found`` if there is no state with this name."""
        return self._entry(self._find(name), self.library.list())

    def merged(self) -> tuple[ModelEntry, ...]:
        """Models whose file contains an initial state."""
        return tuple(entry for entry in self.library.list() if entry.inspection and entry.inspection.has_time_state)

    # the state in use

    def use(self, name: str) -> StateInfo:
        """Makes it the initial state of all later answers, at once; "" is the model's own, ``-`` none at all."""
        return self.manager.apply_state(name)

    # files

    def add(self, name: str, stream: BinaryIO) -> str:
        """Adds an uploaded file, after a check; returns its name. Raises WeightsError, ``file_name_taken`` and
        others."""
        clean = placing.safe_name(name, STATE_ENDINGS)
        placing.check_name_free(self.folder / clean)
        with self._part() as part:
            with placing.writing(self.folder), part.open("xb", buffering=0) as target:
                while piece := stream.read(PIECE_BYTES):
                    placing.write_all(target, piece)
            return self._place(part, clean)

    def import_path(self, source_path: str) -> str:
        """Copies a file on this machine, given by its absolute path; returns its name."""
        source = placing.whole_path(source_path)
        clean = placing.safe_name(source.name, STATE_ENDINGS)
        placing.look_into(self._reader, source, source.name)  # before copying, because it may be a model of 10 GB
        self._reader.state_sheet(source, clean)
        placing.check_free(self.library.models_dir, source.stat().st_size)
        with source.open("rb") as stream:
            return self.add(clean, stream)

    def delete(self, name: str) -> placing.Trashed:
        """Moves it to the models folder's trash; raises ``state_in_use`` for the initial state of new answers."""
        path = self._find(name)
        if self.manager.status().state == self._name_of(path):
            raise RoostError("state_in_use", name=name)
        return self._trash.put(path)

    def restore(self, item_id: str) -> str:
        return self._name_of(self._trash.restore(item_id))

    def rename(self, name: str, new_name: str) -> str:
        """The new name, with the same extension. ``state_in_use``, ``file_name_taken``,
        ``file_name_unusable``."""
        path = self._find(name)
        if self.manager.status().state == self._name_of(path):
            raise RoostError("state_in_use", name=name)
        clean = placing.safe_name(_with_ending(new_name, path.suffix), (path.suffix.lower(),))
        if clean != path.name:
            placing.take_place(path, path.with_name(clean))
        return self._name_of(path.with_name(clean))

    # new files

    def blend(self, parts: Parts, new_name: str) -> str:
        """A new file with the weighted mean of several states; ``-`` means no state and weakens the others."""
        found = [(None if name == ZERO_STATE else self._find(name), name, weight) for name, weight in parts]
        note = "blend of " + ", ".join(f"{name} x {weight:g}" for name, weight in parts)
        return self._made(new_name, lambda part: self._reader.blend(found, part, note))

    def copy_out(self, model: str, new_name: str) -> str:
        """Saves the state merged in a model file as a separate file."""
        path = self.library.find(model)
        return self._made(new_name, lambda part: self._reader.copy_out(path, part, f"merged in {path.name}"))

    def make(self, text: str, new_name: str) -> Job:
        """Prefills a text with the chosen model and saves the resulting state to a file. Runs as a job, because a long
        text takes minutes on a slow machine.

        Only the part that a state file can contain is saved (``att_kv``), not the last token's activations. So a
        sequence that starts from it continues as after a new beginning, with the text in memory. Errors in name, model
        or text are raised at once: ``file_name_taken``, ``state_mismatch``, ``prompt_empty``, ``prompt_too_long``, …
        """
        name = self.free_name(new_name)
        if require_model(self.manager.model_info()).major == 4:
            raise self.no_states_in_4(name)
        token_ids = tuple(self.manager.tokenizer().encode(text.strip()))
        if not token_ids:
            raise RequestError("prompt_empty")
        if len(token_ids) > MAX_TOKENS:
            raise RequestError("prompt_too_long", found=len(token_ids), limit=MAX_TOKENS)
        about = {"model": self.manager.status().model, "tokens": len(token_ids)}

        def read(running: Running) -> dict[str, str]:
            state = self.manager.read_state(token_ids, state="")
            if running.stop_status:
                raise InterruptedError
            note = f"made of a text of {len(token_ids)} tokens by {about['model']}"
            layers, version = state.arrays["att_kv"], state.architecture[0]
            return {"name": self._made(name, lambda part: write_state_file(part, layers, version, note))}

        return self.jobs.start(MAKING, name, read, about, unit="")

    def free_name(self, new_name: str) -> str:
        """The name of a new file. Raises ``file_name_taken``, ``file_name_unusable``."""
        name = placing.safe_name(_with_ending(new_name, NEW_STATE_ENDING), (NEW_STATE_ENDING,))
        placing.check_name_free(self.folder / name)
        return name

    def write_running(
        self, name: str, state: RecurrentState, note: str, about: Mapping[str, str], is_new: bool = True
    ) -> None:
        """Saves a whole state (RWKV-5 to 7) to a file, with ``about`` in its metadata; replaces an existing file unless
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

    # internal functions

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
        """Read once per change. Returns the error of an invalid file, because the other files are listed anyway."""
        stamp = stamp_of(path)
        with self._lock:
            seen = self._sheets.get(path)
        if seen is not None and seen[0] == stamp:
            return seen[1]
        try:
            found: StateSheet | RoostError = self._reader.state_sheet(path)
        except FileReadingFailed as exc:  # the reader remembers it, and when it may be tried again
            return exc
        except Exception as exc:  # any error in one file
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
        """A new file, which ``write`` writes to a given path; replaces a file with the same name if ``replaces``."""
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
        """A temporary path for a new file; deleted at the end if it was not moved."""
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
    """The number of snapshots of chats on disk, and their bytes."""
    return folder_use(settings.snapshot_dir)


def clear_snapshots(settings: Settings) -> int:
    """Returns the number deleted. Chats are prefilled again when they continue, except those in an engine's memory."""
    return clear_folder(settings.snapshot_dir)


def source_of_document(title: str, text: str) -> PrefixSource:
    """In a code fence, like an attached file in a prompt."""
    return PrefixSource(DOCUMENT, title, fenced(display_name(title), text))


class Prefixes:
    """``app.extensions["prefixes"]``: creates prefixes. Every method either starts a job or raises a RoostError."""

    def __init__(self, states: StateLibrary) -> None:
        self.states = states
        self._manager = states.manager

    def is_stale(self, sheet: PrefixSheet) -> bool:
        """Whether another model than the chosen one made it; False if none is chosen."""
        try:
            return sheet.made_for != self._manager.model_identity()
        except RoostError:
            return False

    def bake(self, source: PrefixSource, new_name: str) -> Job:
        """Prefills it with the chosen model and stores the state under a new name. Raises ``file_name_taken``,
        ``prompt_empty``, ``document_too_long``, ``prompt_too_long``, ``state_mismatch`` (RWKV-4), model errors."""
        return self._bake(source, self.states.free_name(new_name), is_new=True)

    def bake_again(self, name: str) -> Job:
        """Replaces the file with one for the currently chosen model. ``state_not_found`` if it is not a prefix."""
        entry = self.states.entry(name)
        prefix = find_prefix(self._manager, entry.name)
        if prefix is None:
            raise FileMissing("state_not_found", path=name)
        return self._bake(prefix.source, entry.name, is_new=False)

    def _bake(self, source: PrefixSource, name: str, is_new: bool) -> Job:
        source = replace(source, title=source.title.strip()[:TITLE_CHARS] or name)
        if not (source.system.strip() or source.tools):
            raise RequestError("prompt_empty")
        model = PromptModel.chosen(self._manager)
        if require_model(model.info).major == 4:
            raise self.states.no_states_in_4(name)
        source_data = source.to_dict()
        length = len(source.system) + sum(len(str(tool)) for tool in source.tools)
        if length > MAX_SOURCE_CHARS:
            raise RequestError("document_too_long", found=length, limit=MAX_SOURCE_CHARS)
        ids = encode_prompt(rendered_prefix(source, model), model.tokenizer).token_ids
        if not ids:  # a format that cannot write a message alone
            raise WeightsError("state_mismatch", path=name, what=Text("reason.services.the_format"), **_NOT_ALONE)
        self._manager.check_prompt(ids)
        identity = self._manager.model_identity()
        status = self._manager.status()
        about = {"model": status.model, "tokens": len(ids)}

        def read(running: Running) -> dict[str, str]:
            state = self._manager.read_state(ids, state="")
            if running.stop_status:
                raise InterruptedError
            if self._manager.model_identity() != identity:
                raise ModelError("model_unloaded")
            strategy = self._manager.status().strategy
            sheet = PrefixSheet(
                source.kind, source.title, len(ids), digest_of(ids), status.model, strategy, identity, int(time.time())
            )
            note = f"{source.kind} of {len(ids)} tokens, read by {status.model}"
            self.states.write_running(name, state, note, prefix_metadata(sheet, source_data), is_new)
            if not is_new and self._manager.status().state == name:
                self._manager.apply_state(name)
            return {"name": name}

        return self.states.jobs.start(MAKING, name, read, about, unit="")


_NOT_ALONE = {
    "expected": Text("reason.services.format_writes_system"),
    "found": Text("reason.services.format_writes_none"),
}


def source_of_preset(preset: Preset, tools: Sequence[StoredTool], title: str) -> PrefixSource:
    """The preset's system prompt and its tools (from all existing ones), or only the prompt."""
    definitions = tuple(tool.definition.function for tool in tools if tool.definition.name in preset.tools)
    kind = TOOLS if definitions else PROMPT
    return PrefixSource(kind, title, preset.system_prompt, definitions, preset.tool_dialect, preset.template)
