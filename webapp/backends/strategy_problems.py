"""Why a strategy is refused: every reason by its code, in English; ``strategy.problem.<code>`` of the catalogues says
the same in each language (a test holds the English one to this table). Imports no torch."""

from __future__ import annotations

from typing import Any, NoReturn

from webapp.errors import BackendUnavailable, StrategyError

EXAMPLES = "Examples: `cpu fp32`, `cpu bf16`, `cuda fp16`, `cuda fp16i8 *20 -> cpu fp32`."
CPU_INSTEAD = "Use `cpu fp32`, or `cpu bf16` for half the memory."

PROBLEMS = {
    "not_a_part": ("'{part}' is not `device precision *layers`", EXAMPLES),
    "too_long": ("it is longer than {limit} characters", "Write one part a device, joined by `->`."),
    "part_empty": ("a part of it is empty", EXAMPLES),
    "no_such_int": ("the rwkv package has no {int}", "Use i8: `{device} {dtype}i8`."),
    "no_layer": ("`{part}` holds no layer", "Leave this part out."),
    "cpu_streams": ("only layers of a GPU can be streamed", "Leave out the `+` of `{part}`."),
    "two_streams": ("only one part can stream", "Keep the `+` in one part."),
    "too_many_layers": (
        "it places {placed} layers",
        "This model has {n_layer} layers and the head: give out {total} in all.",
    ),
    "none_left": ("no layer is left for `{part}`", "Leave `{part}` out, or give the others fewer layers."),
    "v7_split": ("the rwkv package cannot split RWKV-7 between devices or precisions", "Use `{plain}`."),
    "v7_int8": (
        "the rwkv package has no int8 for RWKV-7",
        "Use `{device} bf16` (2 bytes a weight), a smaller model, or RWKV-6, which has int8.",
    ),
    "v7_stream": ("the rwkv package cannot stream the layers of RWKV-7", "Use `{plain}` or `cpu bf16`."),
    "v7_layers": ("the rwkv package cannot place single layers of RWKV-7", "Use `{plain}`."),
    "v7_device": ("the rwkv package runs RWKV-7 on cpu and cuda, not on {device}", CPU_INSTEAD),
    "converted_for": ("the file was converted for `{converted}`", "Load it with `{converted}`."),
    "kernels_need_pth": (
        "the rwkv package compiles its CUDA kernels for .pth files only",
        "Convert the model to .pth, or turn the kernels off.",
    ),
    "package_missing": ("the Python package {package} is not installed", "pip install {package}"),
    "no_driver": ("no NVIDIA (or AMD ROCm) driver is there", CPU_INSTEAD),
    "torch_without_gpu": (
        "the installed torch {version} was built without GPU support",
        "Install one with it: {command}",
    ),
    "no_gpu_found": ("torch {version} finds no GPU it can use", CPU_INSTEAD),
    "gpu_index": ("torch finds {count} GPU(s), counted from 0", CPU_INSTEAD),
    "not_apple": ("it is not a Mac with Apple silicon", CPU_INSTEAD),
    "no_mps": ("torch {version} has no MPS here", CPU_INSTEAD),
    "no_directml": ("the package torch-directml is not installed", CPU_INSTEAD),
}
"""Reason and way out."""


def refuse(strategy: str, problem: str, **params: Any) -> NoReturn:
    """Raises StrategyError."""
    raise StrategyError(strategy=strategy, **_described(problem, params))


def unavailable(backend: str, problem: str, **params: Any) -> NoReturn:
    """Raises BackendUnavailable."""
    raise BackendUnavailable(backend=backend, **_described(problem, params))


def _described(problem: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an error. The ``_key`` ones name the same texts in the catalogues."""
    reason, way_out = (text.format(**params) for text in PROBLEMS[problem])
    key = f"strategy.problem.{problem}"
    keys = {"reason_key": f"{key}.reason", "way_out_key": f"{key}.way_out"}
    return {"reason": reason, "way_out": way_out, **keys, **{name: str(value) for name, value in params.items()}}
