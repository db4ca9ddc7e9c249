"""What a preset means for the model: whether what runs serves it, and how it is loaded."""

from __future__ import annotations

from typing import Any

from webapp.engine.engine_options import EngineOptions
from webapp.engine.registry import backend_for, is_automatic
from webapp.errors import RoostError
from webapp.manager.manager import ModelManager
from webapp.manager.target import ZERO_STATE
from webapp.settings import Settings
from webapp.storage.presets import Preset


class PresetLoading:
    """Asks the manager, changes nothing."""

    def __init__(self, manager: ModelManager, settings: Settings) -> None:
        self._manager = manager
        self._settings = settings

    def differences(self, preset: Preset) -> tuple[str, ...]:
        """Parameters for which what is loaded (or chosen, while nothing is) would have to be loaded anew; what the
        preset leaves open is none of them."""
        model, strategy = preset.model or None, preset.strategy or None
        if model is None and strategy is None and not preset.options:
            return ()
        status = self._manager.status()
        is_other_model = bool(model) and file_name(preset.model) != file_name(status.model_path or status.model)
        if status.phase in ("empty", "failed"):
            return ("model",) if is_other_model else ()
        try:
            return self._manager.reload_reasons(model, strategy, EngineOptions(**preset.options))
        except RoostError:  # it cannot be loaded at all, which :meth:`problem` says
            given = (("model", is_other_model), ("strategy", bool(strategy) and strategy != status.strategy))
            return tuple(name for name, is_other in given if is_other)

    def problem(self, preset: Preset) -> RoostError | None:
        """Why its model cannot be loaded here and now, as far as that can be told from names; None: it can."""
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
        """For a preset that leaves it open: the operator's, which is ``auto`` unless he chose one. None, as it is, for
        the model in use."""
        usual = self._settings.strategy
        return usual if model or not is_automatic(usual) else None

    def resolved_strategy(self, model: str) -> str | None:
        """What :meth:`usual_strategy` comes to on this machine; None where that cannot be told."""
        usual = self.usual_strategy(model)
        if usual is None or not is_automatic(usual):
            return usual
        from webapp.services.strategy.choice import recommended_strategy  # brings psutil, which a start does without

        return recommended_strategy(self._manager.library, model)


def file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
