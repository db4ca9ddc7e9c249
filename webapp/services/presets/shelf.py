"""The presets there are, kept in memory: which is active, which a chat has, and what an answer takes from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from webapp.engine.sampling_params import SamplingParams
from webapp.errors import PresetNotFound, RoostError
from webapp.manager.model_manager import ModelManager
from webapp.services.presets.defaults import default_sampling
from webapp.services.presets.loading import PresetLoading, file_name
from webapp.services.presets.shipped import GENERAL_KEY, STARTER_KEY, shipped, shipped_presets
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.presets import Preset, PresetStore
from webapp.storage.records import Chat

PresetList = list[Preset]  # inside the class `list` is the method


class PresetShelf:
    """Changes nothing. Whoever does, through :attr:`store`, has to call ``_tell`` afterwards."""

    def __init__(self, manager: ModelManager, database: Database, settings: Settings) -> None:
        self._manager = manager
        self._settings = settings
        self.store = PresetStore(database, shipped_presets())
        self.loading = PresetLoading(manager, settings)
        self._listeners: list[Callable[[], None]] = []
        self._version = 0
        self._kept: tuple[int, PresetList, str] | None = None

    def list(self) -> PresetList:
        """A person's own by name, then the shipped ones in their order."""
        return [*self._read()[1]]

    def get(self, preset_id: str) -> Preset:
        for preset in self._read()[1]:
            if preset.id == preset_id:
                return preset
        raise PresetNotFound()

    def find(self, name: str) -> Preset:
        """By name (in any case), by the key of a shipped one, or by id. PresetNotFound."""
        wanted = " ".join(name.split()).casefold()
        living = self.list()
        for matches in (_has_name, _has_key, _has_id):
            for preset in living:
                if matches(preset, wanted):
                    return preset
        raise PresetNotFound()

    def active(self) -> Preset:
        """The one made active; before that the one for the starter model, or the general one for any other."""
        try:
            return self.get(self._read()[2])
        except PresetNotFound:
            return self._default()

    def is_active(self, preset: Preset) -> bool:
        return self.active().id == preset.id

    def of_chat(self, chat: Chat) -> Preset:
        """The chat's own choice while it exists, else the active preset."""
        if chat.preset_id:
            try:
                return self.get(chat.preset_id)
            except PresetNotFound:
                pass
        return self.active()

    def default_sampling(self, parameters: int = 0) -> SamplingParams:
        return default_sampling(self._settings, parameters)

    def sampling(self, preset: Preset, overrides: Mapping[str, Any], parameters: int = 0) -> SamplingParams:
        """Defaults, then the preset's, then ``overrides``; InvalidSampling for a value or name that cannot be. An
        answer is no longer than the setting allows."""
        given = {**self.default_sampling(parameters).to_dict(), **preset.sampling, **overrides}
        params = SamplingParams.from_dict(given)
        limit = self._settings.max_tokens_limit
        return replace(params, max_tokens=limit) if params.max_tokens > limit else params

    def start_state(self, chat: Chat) -> str | None:
        """For ``ModelManager.submit``: the chat's own state, else its preset's; None is the state in use, which is
        the active preset's."""
        if chat.state is not None:
            return chat.state
        preset = self.of_chat(chat)
        return None if self.is_active(preset) else preset.state

    def differences(self, preset: Preset) -> tuple[str, ...]:
        return self.loading.differences(preset)

    def problem(self, preset: Preset) -> RoostError | None:
        return self.loading.problem(preset)

    def listen(self, listener: Callable[[], None]) -> None:
        """Called after every change, in the thread that made it."""
        self._listeners.append(listener)

    def _read(self) -> tuple[int, PresetList, str]:
        """(version, all presets, id of the active one), kept in memory: a page asks for them many times. What was read
        while something changed bears the version before it, and is read again."""
        version, kept = self._version, self._kept
        if kept is None or kept[0] != version:
            kept = self._kept = (version, self.store.list(), self.store.active_id())
        return kept

    def _tell(self) -> None:
        self._version += 1
        for listener in self._listeners:
            listener()

    def _default(self) -> Preset:
        """Whatever was deleted: one of the two is always there to answer with."""
        chosen = file_name(self._manager.status().model_path)
        starter = shipped(STARTER_KEY)
        wanted = starter if chosen in ("", starter.model) else shipped(GENERAL_KEY)
        try:
            return self.get(wanted.id)
        except PresetNotFound:
            return wanted


def _has_name(preset: Preset, wanted: str) -> bool:
    return preset.name.casefold() == wanted


def _has_key(preset: Preset, wanted: str) -> bool:
    return bool(wanted) and preset.shipped_key == wanted


def _has_id(preset: Preset, wanted: str) -> bool:
    return preset.id == wanted
