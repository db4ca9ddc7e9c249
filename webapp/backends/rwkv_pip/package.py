"""The package's module ``rwkv.model``, executed anew for each model with the switches that model needs.

The switches are environment variables read at import, and the RWKV-7 class keeps its device and precision in module
globals; a copy per model lets models of any version and precision live side by side and leaves ``os.environ`` alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

log = logging.getLogger(__name__)
_copies = itertools.count(1)


def import_package(switches: Mapping[str, str]) -> ModuleType:
    """A fresh copy of ``rwkv.model``; undo it with :func:`forget_package`."""
    spec = importlib.util.find_spec("rwkv.model")
    assert spec is not None and spec.origin is not None, "availability() comes first"
    name = f"rwkv_model_copy_{next(_copies)}"
    copy_spec = importlib.util.spec_from_file_location(name, spec.origin)
    assert copy_spec is not None and copy_spec.loader is not None
    module = importlib.util.module_from_spec(copy_spec)
    module.__dict__["print"] = _log_print
    sys.modules[name] = module  # TorchScript looks functions up by module name
    with _environment(switches), _scripting(switches["RWKV_JIT_ON"] == "1"):
        copy_spec.loader.exec_module(module)
    # Read again while it constructs and runs.
    module.__dict__["os"] = SimpleNamespace(environ={**os.environ, **switches}, name=os.name, path=os.path)
    # It collects after every layer, 0.1 s each time with torch loaded, where reference counts have freed all already.
    module.__dict__["gc"] = SimpleNamespace(collect=lambda: 0)
    return module


def forget_package(module: ModuleType) -> None:
    sys.modules.pop(module.__name__, None)


@contextlib.contextmanager
def torch_load_returns(file_name: str, weights: dict[str, Any]) -> Iterator[None]:
    """Inside, ``torch.load`` of ``file_name`` (which need not exist) is ``weights``, once; else it is what it was."""
    import torch

    original: Callable[..., Any] = torch.load
    once = [weights]
    del weights  # the package copies the dict of RWKV-5.1 to 6; this one would keep the first embedding alive

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        return once.pop() if file == file_name else original(file, *args, **kwargs)

    setattr(torch, "load", load)  # noqa: B010  as an assignment mypy holds it to torch's whole signature
    try:
        yield
    finally:
        setattr(torch, "load", original)  # noqa: B010


@contextlib.contextmanager
def _environment(switches: Mapping[str, str]) -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _scripting(is_on: bool) -> Iterator[None]:
    """The RWKV-7 part of the package compiles with TorchScript whatever ``RWKV_JIT_ON`` says; off means off here."""
    import torch

    names = ("ScriptModule", "script_method", "script")
    saved = {name: getattr(torch.jit, name) for name in names}
    if not is_on:
        for name, plain in zip(names, (torch.nn.Module, _identity, _identity), strict=True):
            setattr(torch.jit, name, plain)
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(torch.jit, name, value)


def _identity(function: Any) -> Any:
    return function


def _log_print(*values: Any, end: str = "\n", **_: Any) -> None:
    text = " ".join(map(str, values)).strip()
    if text:
        log.debug("rwkv: %s", text)
