"""Presets as page, API and command line use them: making, saving and applying them, and their files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.engine.engine_options import EngineOptions
from webapp.errors import Phrase, PresetNotFound, SettingsError
from webapp.manager.model_manager import ModelManager
from webapp.services.presets import files
from webapp.services.presets.fields import changed_names, checked_fields, put
from webapp.services.presets.parameters import BY_NAME
from webapp.services.presets.runner_files import read_runner_presets
from webapp.services.presets.shelf import PresetList, PresetShelf
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.presets import Preset

DELETED_KEPT_S = 86_400.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaveOutcome:
    """``applied``: parameters the next answer uses already; ``needs_reload``: what a load would have to change."""

    preset: Preset
    applied: tuple[str, ...] = ()
    needs_reload: tuple[str, ...] = ()


class Presets(PresetShelf):
    """One an app. Every method may be called from any thread; listeners hear of every change."""

    def __init__(self, manager: ModelManager, database: Database, settings: Settings) -> None:
        super().__init__(manager, database, settings)
        self._database = database
        self._saving = threading.Lock()
        self.store.purge_deleted(time.time() - DELETED_KEPT_S)

    def create(self, name: str, values: Mapping[str, Any] | None = None) -> Preset:
        """``values`` are flat fields, checked. PresetInvalid, PresetNameTaken, TooManyPresets."""
        fields = checked_fields({**(values or {}), "name": name})
        made = self.store.create(**put(Preset("", ""), fields))
        self._tell()
        return made

    def duplicate(self, preset_id: str, name: str = "") -> Preset:
        wanted = checked_fields({"name": name})["name"] if name else ""
        made = self.store.duplicate(preset_id, wanted)
        self._tell()
        return made

    def rename(self, preset_id: str, name: str) -> Preset:
        renamed = self.store.rename(preset_id, checked_fields({"name": name})["name"])
        self._tell()
        return renamed

    def delete(self, preset_id: str) -> None:
        """Undone by :meth:`restore` within a day. Chats that had it follow the active preset meanwhile."""
        self.store.delete(preset_id)
        self._tell()

    def restore(self, preset_id: str) -> Preset:
        restored = self.store.restore(preset_id)
        self._tell()
        return restored

    def reset(self, preset_id: str) -> SaveOutcome:
        """A shipped preset as it came; like saving those values."""
        shipped = self.store.shipped(preset_id)
        if shipped is None:
            raise PresetNotFound()
        return self._change(preset_id, lambda: self.store.reset(preset_id))

    def save(self, preset_id: str, changes: Mapping[str, Any], expected: float | None = None) -> SaveOutcome:
        """Saves flat fields, all or none; None takes an override back. PresetChanged when it was saved since
        ``expected`` (its ``updated_at``; None: whatever it was).

        What needs no reload holds for the next answer of every chat with this preset. A new state of the active preset
        becomes the state in use; one that does not fit is refused and nothing is saved.
        """
        fields = checked_fields(changes)

        def update() -> Preset:
            return self.store.update(preset_id, expected, **put(self.store.get(preset_id), fields))

        return self._change(preset_id, update)

    def apply(self, preset_id: str) -> Preset:
        """Makes it the active preset and loads its model (in the background), unless what runs serves it already.

        What can be told before loading is raised at once, and the former one stays active.
        """
        preset = self.store.get(preset_id)
        self._manager.load(**self.loading.choice(preset))
        self.store.set_active(preset_id)
        self._tell()
        return preset

    def set_active(self, preset_id: str) -> Preset:
        """For every chat that follows the active preset; loads nothing, but its state is used if it fits what runs."""
        preset = self.store.get(preset_id)
        if not self.differences(preset):
            self._use_state(preset)
        self.store.set_active(preset_id)
        self._tell()
        return preset

    def export_json(self, preset_ids: Sequence[str] = ()) -> str:
        """Of these, or of all of a person's own and edited ones."""
        found = [self.get(name) for name in preset_ids] if preset_ids else [p for p in self.list() if _is_own(p)]
        return files.write(found)

    def import_text(self, text: str) -> PresetList:
        """Presets of a file of ours or of RWKV-Runner, all or none. PresetFileInvalid, PresetInvalid,
        TooManyPresets."""
        read = files.read if files.is_ours(text) else read_runner_presets
        return self._import(read(text))

    def begin(self) -> None:
        """At the start of a server: the preset named by the settings becomes the active one, and the first request
        loads the active one's model, unless the settings name a model. SettingsError for a name that is none."""
        if self._settings.preset:
            self.store.set_active(self._named().id)
            self._tell()
        if not self._read()[2] or self._settings.model:
            return
        preset = self.active()
        problem = self.problem(preset)
        if problem is not None:
            log.warning("the active preset %r cannot be loaded: %s", preset.name, problem)
            return
        choice = self.loading.choice(preset)
        self._manager.choose(**{**choice, "state": self._settings.state or preset.state})

    def _named(self) -> Preset:
        try:
            return self.find(self._settings.preset)
        except PresetNotFound as exc:
            known = ", ".join(preset.name for preset in self.list()[:20])
            reason = Phrase("there is no such preset; there are {known}", known=known)
            raise SettingsError(name="preset", value=self._settings.preset, reason=reason) from exc

    def _import(self, presets: Sequence[Preset]) -> PresetList:
        made = self.store.create_all(presets)
        self._tell()
        return made

    def _change(self, preset_id: str, change: Callable[[], Preset]) -> SaveOutcome:
        """The new state is tried inside the transaction: refused, it takes the whole change back."""
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
        self._tell()
        late = {name for name in names if BY_NAME[name].needs_reload} | set(needs_reload)
        late |= {"state"} if "model" in needs_reload else set()
        return SaveOutcome(after, tuple(name for name in names if name not in late), needs_reload)

    def _use_state(self, preset: Preset) -> None:
        status = self._manager.status()
        if preset.state or status.state:
            self._manager.apply_state(preset.state)


def _is_own(preset: Preset) -> bool:
    return not preset.shipped_key or preset.is_edited
