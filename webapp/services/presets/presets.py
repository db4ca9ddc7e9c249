"""Presets for page, API and command line: creating, saving and applying them, and the sampling of their answers.

The shipped presets are data in ``shipped.json``, their texts in the catalogue. What a preset leaves open is as the
makers of the model recommend, by family and mode: publications with the G1 models since 2026-07, for thinking, for
answers without thinking and for tool calls; the author's ``music/run.py`` (ChatRWKV) for music models; RWKV-Runner's
chat defaults for all earlier models. A ``generation_config.json`` in a model's folder overrides these, value by value.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from webapp.chat.formats import writes_flowers
from webapp.chat.messages import ThinkMode
from webapp.engine.options import EngineOptions, is_automatic
from webapp.engine.registry import backend_for
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import PresetNotFound, RequestError, RoostError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.manager.target import ZERO_STATE
from webapp.services.presets import files
from webapp.services.presets.fields import BY_NAME, CHAT_MAX_TOKENS, changed_names, checked_fields, put
from webapp.services.presets.files import read_runner_presets
from webapp.services.strategy import recommended_strategy
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.presets import Preset, PresetStore
from webapp.storage.records import Chat
from webapp.tokenizer.music import ABC_END
from webapp.weights.inspection import Inspection, generation_config, model_name

PLAIN, THINK, TOOLS = "plain", "think", "tools"
MODES = (PLAIN, THINK, TOOLS)
T125 = 127
"""The token of the longest wait."""
TINY_PARAMETERS = 100_000_000
NO_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0}

RUNNER: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 0.3,
    "presence_penalty": 0.0,
    "frequency_penalty": 1.0,
    "penalty_decay": 0.996,
}
G1_FROM_H: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"temperature": 1.0, "top_p": 0.28, "top_k": 32, **NO_PENALTIES},
    THINK: {
        "temperature": 0.96,
        "top_p": 0.76,
        "top_k": 32,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.1,
        "penalty_decay": 0.988,
    },
    TOOLS: {"temperature": 0.96, "top_p": 0.76, "top_k": 32, **NO_PENALTIES},
}
MUSIC: Mapping[str, Any] = {"temperature": 1.0, "top_p": 0.8, "top_k": 8, **NO_PENALTIES}
MIDI_MUSIC: Mapping[str, Any] = {
    **MUSIC,
    "frequency_penalty": 0.5,
    "penalty_decay": 0.997,
    "count_weights": ((0, T125, 0.3),),
    "logit_bias": {T125: -1.0},
    "rising_bias": ((0, -4.0, 0.002),),
}
"""A wait counts less than a note, the longest wait gets a lower probability, and the end of the piece a higher one with
each token (its logit is lowered up to the 2,000th token and raised after that)."""
CONFIG_NAMES = {
    PLAIN: ("plain", "no_think", "fake_think"),
    THINK: ("think", "thinking", "open_think"),
    TOOLS: ("tools", "function_calling"),
}
"""Keys of a ``generation_config.json`` with values for one mode; other values apply to all modes."""
CONFIG_ALIASES = {
    "alpha_presence": "presence_penalty",
    "alpha_frequency": "frequency_penalty",
    "alpha_decay": "penalty_decay",
}
CONFIG_KEYS = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "penalty_decay", "min_p")


class Sampling(Struct, frozen=True):
    """``origins``: the source of each value: runner, tiny, g1h, music or folder; the texts are
    ``presets.origin.<source>``."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]


def mode_of(think_mode: ThinkMode | str, has_tools: bool) -> str:
    """Tools take priority over thinking: penalties prevent a model from repeating a tool's name and arguments."""
    if has_tools:
        return TOOLS
    return PLAIN if ThinkMode(think_mode) in (ThinkMode.NONE, ThinkMode.FAST) else THINK


def published_sampling(info: Inspection | None, mode: str = PLAIN) -> Sampling:
    """For a model, or None if there is none; ``mode`` is one of :data:`MODES`.

    A tiny model gets a mild frequency penalty: it knows few ways to express something, and the full penalty would
    suppress all of them.
    """
    values = dict(RUNNER)
    origins = dict.fromkeys(values, "runner")
    if info is not None and info.kind == "music":
        values = {**MUSIC, "stop_token_ids": (0, ABC_END)} if info.tokenizer == "abc" else dict(MIDI_MUSIC)
        origins = dict.fromkeys(values, "music")
    elif info is not None and 0 < info.parameters < TINY_PARAMETERS:
        values["frequency_penalty"], origins["frequency_penalty"] = 0.2, "tiny"
    elif info is not None and writes_flowers(model_name(info)):
        values = dict(G1_FROM_H[mode])
        origins = dict.fromkeys(values, "g1h")
    for name, value in (_configured(generation_config(info), mode) if info is not None else {}).items():
        values[name], origins[name] = value, "folder"
    return Sampling(values, origins)


def _configured(config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """The valid values; invalid ones are ignored, because the file is untrusted."""
    found: dict[str, Any] = {}
    parts = [config, *(config[name] for name in CONFIG_NAMES[mode] if isinstance(config.get(name), Mapping))]
    for key, value in (pair for part in parts for pair in part.items()):
        name = CONFIG_ALIASES.get(key, key)
        if name not in CONFIG_KEYS or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        try:
            SamplingParams.from_dict({name: value})
        except RequestError:
            continue
        found[name] = value
    return found


def default_sampling(settings: Settings, info: Inspection | None = None, mode: str = PLAIN) -> SamplingParams:
    """The recommendation of the model's makers (:func:`published_sampling`), with enough tokens for a chat answer."""
    values = published_sampling(info, mode).values
    return SamplingParams(max_tokens=min(CHAT_MAX_TOKENS, settings.max_tokens_limit), **values)


def file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


SHIPPED_FILE = Path(__file__).with_name("shipped.json")
SHIPPED_IDS = uuid.UUID("9f0d1f0e-5a55-4c0b-9a1e-526f6f737400")


@functools.lru_cache(maxsize=1)
def shipped_presets() -> tuple[Preset, ...]:
    """In display order; cached. Their ids do not depend on their values."""
    return tuple(_shipped(row) for row in json.loads(SHIPPED_FILE.read_text(encoding="utf-8")))


def shipped(key: str) -> Preset:
    """Raises KeyError for an unknown key."""
    return {preset.shipped_key: preset for preset in shipped_presets()}[key]


def is_as_shipped_name(preset: Preset) -> bool:
    """Whether its name (and note) are shown in the reader's language, from ``presets.shipped.<key>.name``."""
    return any(preset.shipped_key == row.shipped_key and preset.name == row.name for row in shipped_presets())


def _shipped(row: dict[str, Any]) -> Preset:
    key = row.pop("key")
    values = put(Preset("", ""), checked_fields(row))
    return Preset(**{"id": uuid.uuid5(SHIPPED_IDS, key).hex, "shipped_key": key, **values})


STARTER_KEY = "starter"
GENERAL_KEY = "general"


DELETED_KEPT_S = 86_400.0
log = logging.getLogger(__name__)
PresetList = list[Preset]  # inside the class `list` is the method


class SaveOutcome(Struct, frozen=True):
    """``applied``: parameters that the next answer already uses; ``needs_reload``: those that need a reload."""

    preset: Preset
    applied: tuple[str, ...] = ()
    needs_reload: tuple[str, ...] = ()


class Presets:
    """One per app, cached in memory. Thread-safe. Listeners are called at every change."""

    def __init__(self, manager: ModelManager, database: Database, settings: Settings) -> None:
        self._manager = manager
        self._settings = settings
        self._database = database
        self.store = PresetStore(database, shipped_presets())
        self._saving = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._version = 0
        self._kept: tuple[int, PresetList, str] | None = None
        self.store.purge_deleted(time.time() - DELETED_KEPT_S)

    def list(self) -> PresetList:
        """The person's own presets by name, then the shipped ones in their order."""
        return [*self._read()[1]]

    def get(self, preset_id: str) -> Preset:
        found = self._known(preset_id)
        if found is None:
            raise PresetNotFound()
        return found

    def _known(self, preset_id: str) -> Preset | None:
        return next((preset for preset in self._read()[1] if preset.id == preset_id), None)

    def find(self, name: str) -> Preset:
        """By name (ignoring case), key of a shipped preset, or id. Raises PresetNotFound."""
        wanted, living = " ".join(name.split()).casefold(), self.list()
        for key in ("name", "shipped_key", "id"):
            for preset in living:
                if wanted and getattr(preset, key).casefold() == wanted:
                    return preset
        raise PresetNotFound()

    def active(self) -> Preset:
        """The activated preset; before the first activation the one for the starter model, or the general one."""
        return self._known(self._read()[2]) or self._default()

    def is_active(self, preset: Preset) -> bool:
        return self.active().id == preset.id

    def of_chat(self, chat: Chat) -> Preset:
        return self.chosen(chat.preset_id)

    def chosen(self, preset_id: str) -> Preset:
        """The own choice of a chat or notebook if it still exists, otherwise the active preset."""
        return self._known(preset_id) or self.active()

    def default_sampling(self, info: Inspection | None = None, mode: str = PLAIN) -> SamplingParams:
        return default_sampling(self._settings, info, mode)

    def sampling(
        self, preset: Preset, overrides: Mapping[str, Any], info: Inspection | None = None, mode: str = PLAIN
    ) -> SamplingParams:
        """The model's defaults in this mode, then the preset's values, then ``overrides``. Raises ``sampling_invalid``
        for an invalid value or name. The settings limit the length of an answer."""
        given = {**self.default_sampling(info, mode).to_dict(), **preset.sampling, **overrides}
        params = SamplingParams.from_dict(given)
        limit = self._settings.max_tokens_limit
        return replace(params, max_tokens=limit) if params.max_tokens > limit else params

    def start_state(self, chat: Chat) -> str | None:
        """For ``ModelManager.submit``: the chat's own state, otherwise its preset's."""
        return self.state_of(self.of_chat(chat)) if chat.state is None else chat.state

    def state_of(self, preset: Preset) -> str | None:
        """None is the state in use, which is the active preset's."""
        return None if self.is_active(preset) else preset.state

    # what a load would need

    def differences(self, preset: Preset) -> tuple[str, ...]:
        """Parameters that would require a reload of the loaded (or chosen) model, without those that the preset leaves
        open."""
        model, strategy = preset.model or None, preset.strategy or None
        if model is None and strategy is None and not preset.options:
            return ()
        status = self._manager.status()
        is_other_model = bool(model) and not self._is_model(preset.model, status.model_path or status.model)
        if status.phase in ("empty", "failed"):
            return ("model",) if is_other_model else ()
        try:
            return self._manager.reload_reasons(model, strategy, EngineOptions(**preset.options))
        except RoostError:  # it cannot be loaded at all; :meth:`problem` says why
            given = (("model", is_other_model), ("strategy", bool(strategy) and strategy != status.strategy))
            return tuple(name for name, is_other in given if is_other)

    def _is_model(self, name: str, path: str) -> bool:
        """Whether ``path`` is the file with this name; compares only file names if the library does not find it."""
        try:
            return str(self._manager.library.find(name)) == path
        except RoostError:
            return file_name(name) == file_name(path)

    def problem(self, preset: Preset) -> RoostError | None:
        """Why its model cannot be loaded here now, as far as names show it; None if it can."""
        try:
            if preset.model:
                self._manager.library.find(preset.model)
            if preset.state and preset.state != ZERO_STATE:
                self._manager.library.find_state(preset.state)
            if not is_automatic(preset.strategy):
                backend_for(preset.strategy)
        except RoostError as exc:
            return exc
        return None

    def choice(self, preset: Preset) -> dict[str, Any]:
        """The arguments of ``ModelManager.load`` for this preset."""
        return {
            "model": preset.model or None,
            "strategy": preset.strategy or self.usual_strategy(preset.model),
            "state": preset.state,
            "options": EngineOptions(**preset.options),
        }

    def usual_strategy(self, model: str) -> str | None:
        """For a preset that leaves it open: the operator's choice, by default ``auto``. None, which means no change,
        for the model in use."""
        usual = self._settings.strategy
        return usual if model or not is_automatic(usual) else None

    def resolved_strategy(self, model: str) -> str | None:
        """The strategy that :meth:`usual_strategy` becomes on this machine; None if unknown."""
        usual = self.usual_strategy(model)
        if usual is None or not is_automatic(usual):
            return usual
        return recommended_strategy(self._manager.library, model)

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after every change, in the thread that made it."""
        self._listeners.append(listener)

    def _read(self) -> tuple[int, PresetList, str]:
        """(version, all presets, id of the active one), cached, because a page asks for them many times. Data read
        during a change has the version before it, and is read again."""
        version, kept = self._version, self._kept
        if kept is None or kept[0] != version:
            with self._database.newest():
                kept = self._kept = (version, self.store.list(), self.store.active_id())
        return kept

    def _notify(self) -> None:
        self._version += 1
        for listener in self._listeners:
            listener()

    def _default(self) -> Preset:
        """Returns one of the two in any case, even if it was deleted."""
        chosen = file_name(self._manager.status().model_path)
        starter = shipped(STARTER_KEY)
        wanted = starter if chosen in ("", starter.model) else shipped(GENERAL_KEY)
        return self._known(wanted.id) or wanted

    def create(self, name: str, values: Mapping[str, Any] | None = None) -> Preset:
        """``values`` are flat fields, checked. Raises ``preset_invalid``, PresetNameTaken, ``too_many_presets``."""
        fields = checked_fields({**(values or {}), "name": name})
        made = self.store.create(**put(Preset("", ""), fields))
        self._notify()
        return made

    def duplicate(self, preset_id: str, name: str = "") -> Preset:
        wanted = checked_fields({"name": name})["name"] if name else ""
        made = self.store.duplicate(preset_id, wanted)
        self._notify()
        return made

    def rename(self, preset_id: str, name: str) -> Preset:
        renamed = self.store.rename(preset_id, checked_fields({"name": name})["name"])
        self._notify()
        return renamed

    def delete(self, preset_id: str) -> None:
        """:meth:`restore` can undo it for a day. Meanwhile, its chats use the active preset."""
        self.store.delete(preset_id)
        self._notify()

    def restore(self, preset_id: str) -> Preset:
        restored = self.store.restore(preset_id)
        self._notify()
        return restored

    def reset(self, preset_id: str) -> SaveOutcome:
        """Resets a shipped preset to its original values, like saving them."""
        shipped = self.store.shipped(preset_id)
        if shipped is None:
            raise PresetNotFound()
        return self._change(preset_id, lambda: self.store.reset(preset_id))

    def save(self, preset_id: str, changes: Mapping[str, Any], expected: float | None = None) -> SaveOutcome:
        """Saves flat fields, all or none; None removes an override. Raises ``preset_changed`` if the preset was saved
        after ``expected`` (its ``updated_at``; None: no check).

        Values that need no reload apply to the next answer of every chat with this preset. A new state in the active
        preset becomes the state in use; if it does not fit, it is refused and nothing is saved.
        """
        fields = checked_fields(changes)

        def update() -> Preset:
            return self.store.update(preset_id, expected, **put(self.store.get(preset_id), fields))

        return self._change(preset_id, update)

    def apply(self, preset_id: str) -> Preset:
        """Makes it the active preset and loads its model in the background, unless the running engine already matches.

        Errors that are known before loading are raised at once, and the previous preset stays active.
        """
        preset = self.store.get(preset_id)
        self._manager.load(**self.choice(preset))
        self.store.set_active(preset_id)
        self._notify()
        return preset

    def set_active(self, preset_id: str) -> Preset:
        """For every chat that uses the active preset; loads nothing, but uses its state if the running model fits."""
        preset = self.store.get(preset_id)
        if not self.differences(preset):
            self._use_state(preset)
        self.store.set_active(preset_id)
        self._notify()
        return preset

    def export_json(self, preset_ids: Sequence[str] = ()) -> str:
        """These presets, or all of a person's own and edited ones."""
        own = (preset for preset in self.list() if not preset.shipped_key or preset.is_edited)
        return files.write([self.get(name) for name in preset_ids] or own)

    def import_text(self, text: str) -> PresetList:
        """Imports the presets of a Roost or RWKV-Runner file, all or none. Raises ``preset_file_invalid``,
        ``preset_invalid``, ``too_many_presets``."""
        read = files.read if files.is_ours(text) else read_runner_presets
        return self.add(read(text))

    def begin(self) -> None:
        """Called at a server's start: activates the preset named in the settings, and makes the first request load the
        active preset's model, unless the settings name a model. Raises ``settings_invalid`` for an unknown name."""
        if self._settings.preset:
            self.store.set_active(self._named().id)
            self._notify()
        if not self._read()[2] or self._settings.model:
            return
        preset = self.active()
        problem = self.problem(preset)
        if problem is not None:
            log.warning("the active preset %r cannot be loaded: %s", preset.name, problem)
            return
        choice = self.choice(preset)
        self._manager.choose(**{**choice, "state": self._settings.state or preset.state})

    def _named(self) -> Preset:
        try:
            return self.find(self._settings.preset)
        except PresetNotFound as exc:
            known = ", ".join(preset.name for preset in self.list()[:20])
            reason = Text("reason.services.no_such_preset", known=known)
            raise RoostError("settings_invalid", name="preset", value=self._settings.preset, reason=reason) from exc

    def add(self, presets: Sequence[Preset]) -> PresetList:
        """Adds new presets, with unused names."""
        made = self.store.create_all(presets)
        self._notify()
        return made

    def _change(self, preset_id: str, change: Callable[[], Preset]) -> SaveOutcome:
        """Tries the new state inside the transaction: a refusal rolls the whole change back."""
        with self._saving, self._database.transaction():
            before = self.store.get(preset_id)
            is_active = self.active().id == preset_id
            after = change()
            names = changed_names(before, after)
            needs_reload = self.differences(after) if is_active else ()
            if is_active and "state" in names and "model" not in needs_reload:
                self._use_state(after)
            if is_active and "idle_unload_s" in names and not needs_reload:
                self._manager.load(options=EngineOptions(**after.options))
        self._notify()
        late = {name for name in names if BY_NAME[name].needs_reload} | set(needs_reload)
        late |= {"state"} if "model" in needs_reload else set()
        return SaveOutcome(after, tuple(name for name in names if name not in late), needs_reload)

    def _use_state(self, preset: Preset) -> None:
        status = self._manager.status()
        if preset.state or status.state:
            self._manager.apply_state(preset.state)
