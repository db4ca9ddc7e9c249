"""The settings of an engine besides its model and strategy: plain data, stored in presets and sent with a load."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from webapp.errors import InvalidOption
from webapp.i18n import Text

MOST_THREADS = 4096
MOST_PREFILL_CHUNK = 65536
MOST_ALPHA = 1e6
ADAPTER = ("adapter_file", "adapter_alpha", "adapter_start")
NEEDS_RELOAD = ("threads", "prefill_chunk", "custom_cuda", "tokenizer", *ADAPTER)
"""These take effect only with a new load; ``idle_unload_s`` takes effect at once."""


@dataclass(frozen=True)
class EngineOptions:
    """``threads``: CPU threads. ``prefill_chunk``: prompt tokens per step. ``idle_unload_s``: seconds without a request
    before the model is unloaded; 0 means never. ``custom_cuda``: the backend's own CUDA kernels. ``tokenizer``:
    ``world``, ``byte`` or a vocabulary file. ``adapter_file``: a LoRA or similar, merged into the model while it loads.
    ``adapter_alpha``: the alpha of its training if the file does not contain it. ``adapter_start``: the initial weights
    of a PiSSA training.

    0 (``idle_unload_s``: None, ``tokenizer``: "") means the server's settings decide, then the backend or the model.
    Without ``adapter_file`` there is no adapter. Raises InvalidOption for a value out of range.
    """

    threads: int = 0
    prefill_chunk: int = 0
    idle_unload_s: float | None = None
    custom_cuda: bool = False
    tokenizer: str = ""
    adapter_file: str = ""
    adapter_alpha: float = 0.0
    adapter_start: str = ""

    def __post_init__(self) -> None:
        for name, most in (("threads", MOST_THREADS), ("prefill_chunk", MOST_PREFILL_CHUNK)):
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
            self._require(name, is_whole, Text("reason.engine.whole_number_between", least=0, most=most))
        seconds, alpha = self.idle_unload_s, self.adapter_alpha
        is_time = seconds is None or (_is_number(seconds) and math.isfinite(seconds) and seconds >= 0)
        self._require("idle_unload_s", is_time, Text("reason.engine.seconds"))
        self._require("custom_cuda", isinstance(self.custom_cuda, bool), Text("reason.engine.true_or_false"))
        self._require("tokenizer", isinstance(self.tokenizer, str), Text("reason.engine.name_of_a_vocabulary"))
        for name in ("adapter_file", "adapter_start"):
            self._require(name, isinstance(getattr(self, name), str), Text("reason.engine.name_of_an_adapter"))
        is_alpha = _is_number(alpha) and 0 <= alpha <= MOST_ALPHA
        self._require("adapter_alpha", is_alpha, Text("reason.engine.number_between", least=0, most=MOST_ALPHA))

    def _require(self, name: str, is_fine: bool, allowed: Text) -> None:
        if not is_fine:
            raise InvalidOption(name=name, value=repr(getattr(self, name)), allowed=allowed)

    def over(self, defaults: EngineOptions) -> EngineOptions:
        """These options, with ``defaults`` for what they leave open; an adapter never comes from the defaults."""
        names = ("threads", "prefill_chunk", "custom_cuda", "tokenizer")
        given = {name: getattr(self, name) or getattr(defaults, name) for name in names}
        idle_s = defaults.idle_unload_s if self.idle_unload_s is None else self.idle_unload_s
        return replace(self, idle_unload_s=idle_s, **given)

    def with_adapter(self, file: str, alpha: float = 0.0, start: str = "") -> EngineOptions:
        """The same options with this adapter instead of any other; "" for none."""
        return replace(self, adapter_file=file, adapter_alpha=alpha, adapter_start=start)

    def reload_differences(self, other: EngineOptions) -> tuple[str, ...]:
        """The names of the options that require a reload of an engine that was loaded with ``other``."""
        return tuple(name for name in NEEDS_RELOAD if getattr(self, name) != getattr(other, name))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
