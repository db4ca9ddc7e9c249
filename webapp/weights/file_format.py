"""Detects the format of a file from its first bytes, never from its name, and reads its table of contents.

Checks in this order, each with its own error: missing, directory, empty, unreadable, truncated, pickle with code, wrong
extension, unknown. Imports no torch and reads no tensor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from msgspec.structs import replace

from webapp.errors import FileMissing, WeightsError
from webapp.i18n import Text, system_reason
from webapp.weights.model_folder import is_model_folder_at, weight_files
from webapp.weights.tensor_info import MAX_TENSORS, FileContents, StoredTensor

SMALLEST_FILE_BYTES = 10  # a safetensors file without tensors: 8 bytes of length and {}

READERS = {
    "pth": "pth_archive:read_pth",
    "safetensors": "safetensors_header:read_safetensors",
    "ggml-bin": "ggml_header:read_ggmf",
    "gguf": "ggml_header:read_gguf",
    "pickle": "pth_archive:read_legacy_pth",
    "npy": "state_sheet:read_npy",
}
"""Module and function in this package, imported for the first such file: the web process reads no files itself."""

FORMAT_NAMES = {
    "pth": Text("reason.weights.pytorch_checkpoint"),
    "safetensors": "safetensors",
    "ggml-bin": Text("reason.weights.rwkv_cpp_model"),
    "gguf": "GGUF",
    "npy": Text("reason.weights.numpy_array"),
}

# The first is recommended. web-rwkv calls safetensors .st; state files of either format may be called .state.
EXTENSIONS = {
    "pth": (".pth", ".pt", ".state"),
    "safetensors": (".safetensors", ".st", ".state"),
    "ggml-bin": (".bin",),
    "gguf": (".gguf",),
    "npy": (".npy", ".state"),
}


def read_contents(path: Path, any_name: bool = False) -> FileContents:
    """The table of contents of a file, or of the files in a model's folder. ``any_name`` allows any extension (for a
    download that has not been renamed yet)."""
    if is_model_folder_at(path):
        return _read_folder(path)
    check_readable(path)
    try:
        contents = _reader(sniff(path))(path)
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=system_reason(exc)) from exc
    if not any_name:
        _check_extension(path, contents.format)
    return contents


def _reader(kind: str) -> Callable[[Path], FileContents]:
    module, _, name = READERS[kind].partition(":")
    found: Callable[[Path], FileContents] = getattr(import_module(f"webapp.weights.{module}"), name)
    return found


def _read_folder(folder: Path) -> FileContents:
    """All its files combined, in the order of their names."""
    try:
        files = weight_files(folder)
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(folder), reason=system_reason(exc)) from exc
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    contents = None
    for number, file in enumerate(files):
        contents = read_contents(file, any_name=True)
        if contents.format not in ("safetensors", "pth"):
            raise WeightsError(path=str(folder), reason=Text("reason.weights.part_holds_no_weights", name=file.name))
        twice = next((name for name in contents.tensors if name in tensors), None)
        if twice is not None:
            raise WeightsError(path=str(folder), reason=Text("reason.weights.two_files_hold", name=twice))
        tensors |= {name: replace(stored, file=number) for name, stored in contents.tensors.items()}
        metadata |= {key: value for key, value in contents.metadata.items() if key != "_strategy"}
        if len(tensors) > MAX_TENSORS:
            raise WeightsError(path=str(folder), reason=Text("reason.weights.too_many_tensors", limit=MAX_TENSORS))
    assert contents is not None  # an index names one file at least
    return FileContents(contents.format, tensors, metadata, tuple(files), is_published_form=False)


def check_readable(path: Path) -> None:
    """Raises FileMissing, ``file_is_directory``, ``file_empty`` or ``file_unreadable``."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as exc:  # ValueError: a NUL in the name
        raise FileMissing(path=str(path)) from exc
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=system_reason(exc)) from exc
    if stat.S_ISDIR(found.st_mode):
        raise WeightsError("file_is_directory", path=str(path))
    if not stat.S_ISREG(found.st_mode):
        raise WeightsError(
            "file_unreadable", path=str(path), reason=Text("reason.weights.is_not_an_ordinary_file")
        )  # opening a pipe would hang
    if found.st_size == 0:
        raise WeightsError("file_empty", path=str(path))
    try:
        path.open("rb").close()
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=system_reason(exc)) from exc


def sniff(path: Path) -> str:
    """A key of :data:`READERS`; raises ``file_truncated`` or ``unknown_format``."""
    with path.open("rb") as file:
        head = file.read(16)
    if len(head) < SMALLEST_FILE_BYTES:
        raise WeightsError(
            "file_truncated", path=str(path), reason=Text("reason.weights.only_bytes_are_there", found=len(head))
        )
    if head.startswith(b"PK\x03\x04"):
        return "pth"
    if head.startswith(b"fmgg"):
        return "ggml-bin"
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    # The reader reports an absurd length; 2**48 distinguishes a length from text.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**48:
        return "safetensors"
    if head[0] == 0x80 and head[1] in (2, 3, 4, 5):  # the PROTO opcode of a pickle, or a header of 640 bytes above
        return "pickle"
    raise WeightsError("unknown_format", path=str(path))


def _check_extension(path: Path, file_format: str) -> None:
    allowed = EXTENSIONS[file_format]
    if path.suffix.lower() not in allowed:
        raise WeightsError(
            "wrong_extension",
            path=str(path),
            extension=path.suffix or Text("reason.weights.without_an_extension"),
            found=FORMAT_NAMES[file_format],
            expected=allowed[0],
        )
