"""How an engine is set up besides its model and strategy: plain data, kept in presets and sent with a load."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from webapp.errors import InvalidOption
from webapp.i18n import Text

MOST_THREADS = 4096
MOST_PREFILL_CHUNK = 65536
MOST_ALPHA = 1e6
ADAPTER = ("adapter_file", "adapter_alpha", "adapter_start")
NEEDS_RELOAD = ("threads", "prefill_chunk", "custom_cuda", "tokenizer", *ADAPTER)
"""What an engine takes at its load only; ``idle_unload_s`` counts at once."""


@dataclass(frozen=True)
class EngineOptions:
    """``threads``: processor threads. ``prefill_chunk``: prompt tokens read per step. ``idle_unload_s``: seconds
    without a request before the model is unloaded, 0 is never. ``custom_cuda``: the backend's own CUDA kernels.
    ``tokenizer``: ``world``, ``byte`` or a vocabulary file. ``adapter_file``: a LoRA or the like, merged into the model
    while it is loaded; ``adapter_alpha`` the alpha of its training where the file does not say it, ``adapter_start``
    what a PiSSA training began with.

    0 (``idle_unload_s``: None, ``tokenizer``: "") leaves it to the server's settings, and those to the backend or the
    model; without an ``adapter_file`` there is none. InvalidOption when out of range.
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
        _check_whole("threads", self.threads, MOST_THREADS)
        _check_whole("prefill_chunk", self.prefill_chunk, MOST_PREFILL_CHUNK)
        seconds = self.idle_unload_s
        if seconds is not None and not (_is_number(seconds) and math.isfinite(seconds) and seconds >= 0):
            raise InvalidOption(name="idle_unload_s", value=repr(seconds), allowed=Text("reason.engine.seconds"))
        if not isinstance(self.custom_cuda, bool):
            raise InvalidOption(
                name="custom_cuda", value=repr(self.custom_cuda), allowed=Text("reason.engine.true_or_false")
            )
        if not isinstance(self.tokenizer, str):
            raise InvalidOption(
                name="tokenizer", value=repr(self.tokenizer), allowed=Text("reason.engine.name_of_a_vocabulary")
            )
        for name in ("adapter_file", "adapter_start"):
            if not isinstance(getattr(self, name), str):
                raise InvalidOption(
                    name=name, value=repr(getattr(self, name)), allowed=Text("reason.engine.name_of_an_adapter")
                )
        alpha = self.adapter_alpha
        if not (_is_number(alpha) and 0 <= alpha <= MOST_ALPHA):
            bounds = Text("reason.engine.number_between", least=0, most=MOST_ALPHA)
            raise InvalidOption(name="adapter_alpha", value=repr(alpha), allowed=bounds)

    def over(self, defaults: EngineOptions) -> EngineOptions:
        """These, and ``defaults`` where they leave it open."""
        return EngineOptions(
            threads=self.threads or defaults.threads,
            prefill_chunk=self.prefill_chunk or defaults.prefill_chunk,
            idle_unload_s=defaults.idle_unload_s if self.idle_unload_s is None else self.idle_unload_s,
            custom_cuda=self.custom_cuda or defaults.custom_cuda,
            tokenizer=self.tokenizer or defaults.tokenizer,
            adapter_file=self.adapter_file,
            adapter_alpha=self.adapter_alpha,
            adapter_start=self.adapter_start,
        )

    def with_adapter(self, file: str, alpha: float = 0.0, start: str = "") -> EngineOptions:
        """The same with this adapter in place of any other; none for ""."""
        return replace(self, adapter_file=file, adapter_alpha=alpha, adapter_start=start)

    def reload_differences(self, other: EngineOptions) -> tuple[str, ...]:
        """Names of what an engine loaded with ``other`` would have to be loaded again for."""
        return tuple(name for name in NEEDS_RELOAD if getattr(self, name) != getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EngineOptions:
        """From :meth:`to_dict`'s form or any subset of it; InvalidOption for an unknown name."""
        check_names(data, [field.name for field in fields(cls)])
        return cls(**data)


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """InvalidOption for a name that is not ``known``."""
    for name in given:
        if name not in known:
            allowed = Text("reason.engine.one_of", names=", ".join(known))
            raise InvalidOption(name=name, value=Text("reason.engine.given"), allowed=allowed)


def _check_whole(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidOption(
            name=name, value=repr(value), allowed=Text("reason.engine.whole_number_between", least=0, most=most)
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
