"""What the presets pages need of the app, in one hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask

from webapp.errors import RoostError
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.services.presets.presets import Presets
from webapp.services.states import StateLibrary
from webapp.services.strategy.hardware import Hardware, probe
from webapp.settings import Settings
from webapp.storage.presets import Preset
from webapp.storage.tools import ToolStore
from webapp.web.presets.builder_view import Ground
from webapp.web.presets.files_view import find_inspection
from webapp.web.presets.fit_view import FitMaker
from webapp.weights.inspection import Inspection


@dataclass(frozen=True)
class House:
    presets: Presets
    manager: ModelManager
    settings: Settings
    states: StateLibrary
    tools: ToolStore

    @property
    def library(self) -> ModelLibrary:
        return self.manager.library

    def inspection(self, model: str) -> Inspection | None:
        """Of the named model; "" is whichever is chosen. None when it is not here or cannot be read."""
        if model:
            return find_inspection(self.library, model)
        try:
            return self.manager.model_info()
        except RoostError:
            return None

    def hardware(self) -> Hardware:
        return probe(self.settings.models_dir)

    def ground(self, model: str) -> Ground:
        automatic = self.presets.loading.usual_strategy(model) or self.manager.status().strategy
        return Ground(self.inspection(model), self.hardware(), automatic, FitMaker(self.settings, self.manager))

    def defaults(self, preset: Preset, model: str | None = None) -> Mapping[str, Any]:
        """Sampling where the preset says nothing, for the model it would run."""
        found = self.inspection(preset.model if model is None else model)
        return self.presets.default_sampling(found.parameters if found else 0).to_dict()


def house_of(app: Flask) -> House:
    extensions = app.extensions
    return House(
        extensions["presets"],
        extensions["model_manager"],
        extensions["settings"],
        extensions["states"],
        ToolStore(extensions["database"]),
    )
