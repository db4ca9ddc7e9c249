"""Which format a file has, which files belong to one model, and what identifies their content.

The first bytes of a file decide its format, never its name; then its reader returns the table of contents. Checks in
this order, each with its own error: missing, directory, empty, unreadable, truncated, pickle with code, wrong
extension, unknown. Imports no torch and reads no tensor.

A folder may be one model, in Hugging Face's form: config.json, one or several safetensors files with an index, and
possibly a tokenizer, a chat template and sampling defaults. It is recognised by its file names alone
(:func:`is_model_folder`), without opening a file. The index and the other JSON files are untrusted and read with
limits.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from webapp.errors import FileMissing, WeightsError
from webapp.i18n import Text, system_reason
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

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter saved by Hugging Face's peft: a separate folder, which is not a model."""
MAX_JSON_BYTES = 8 << 20
"""An index of 20,000 tensors has 2 MB."""
MAX_SHARDS = 500
WEIGHTS = (".safetensors", ".st", ".pth", ".bin", ".gguf")
"""Extensions of the files in a folder that its digest covers."""
PIECES, PIECE_BYTES = 64, 1 << 16


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


def is_model_folder(names: Collection[str]) -> bool:
    """By the names of the files in the folder."""
    if any(index in names for index in INDEXES):
        return True
    return CONFIG in names and (any(whole in names for whole in WHOLE) or _single(names) is not None)


def is_model_folder_at(path: str | Path) -> bool:
    """False also if it is not a folder."""
    try:
        return is_model_folder(os.listdir(path))
    except (OSError, ValueError):
        return False


def weight_files(folder: Path) -> list[Path]:
    """The files with its tensors. Raises ``file_is_directory`` unless it is a model folder; ``file_truncated`` if a
    file is missing; WeightsError for an invalid index."""
    names = set(os.listdir(folder))
    index = next((name for name in INDEXES if name in names), None)
    if index is None:
        whole = next((name for name in WHOLE if name in names), None) or _single(names)
        if whole is None:
            raise WeightsError("file_is_directory", path=str(folder))
        return [folder / whole]
    shards = sorted({str(shard) for shard in index_of(folder, index).values()})
    missing = next((shard for shard in shards if shard not in names), None)
    if missing is not None:
        raise WeightsError(
            "file_truncated", path=str(folder), reason=Text("reason.weights.part_is_missing", name=missing)
        )
    return [folder / shard for shard in shards]


def _single(names: Collection[str]) -> str | None:
    """The only safetensors file in a folder, whatever its name; None if there are several."""
    found = [name for name in names if name.endswith(".safetensors") and not name.startswith(("adapter_", "."))]
    return found[0] if len(found) == 1 else None


def index_of(folder: Path, name: str) -> dict[str, str]:
    """Tensor -> file, from the index; only names of files directly in the folder."""
    found = read_json(folder / name).get("weight_map")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(file, str) and file and not {"/", "\\", "\0"} & set(file) for file in found.values())
        or len(set(found.values())) > MAX_SHARDS
    ):
        raise WeightsError(path=str(folder), reason=Text("reason.weights.index_makes_no_sense", name=name))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises WeightsError for anything else, or more than :data:`MAX_JSON_BYTES`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
        found = json.loads(raw) if len(raw) <= MAX_JSON_BYTES else None
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=system_reason(exc)) from exc
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WeightsError(path=str(path.parent), reason=Text("reason.weights.index_makes_no_sense", name=path.name))
    return found


def folder_stamp(folder: Path) -> tuple[int, int]:
    """Latest modification time of its files in ns, and the sum of their bytes. Raises OSError."""
    changed, size = 0, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and not entry.name.startswith("."):
                found = entry.stat()
                changed, size = max(changed, found.st_mtime_ns), size + found.st_size
    return changed, size


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Modification time in ns and size in bytes of a model's file or folder. Raises OSError."""
    found = os.stat(path)
    if os.path.isdir(path):
        return folder_stamp(Path(path))
    return found.st_mtime_ns, found.st_size


@lru_cache(32)
def content_digest(name: str, stamp: tuple[int, int]) -> str:
    """Digest of a model's bytes, independent of their location: 32 hex digits over sizes and :data:`PIECES` pieces (4
    MB) of each file of weights. Hashing 15 GB would take ten seconds; other models differ everywhere. OSError.

    Cached for each ``stamp`` (:func:`stamp_of`)."""
    path = Path(name)
    found = hashlib.blake2b(digest_size=16)
    files = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        found.update(f"\0{size}\0".encode())
        _update(found, file, size)
    return found.hexdigest()


def model_identity(path: Path, strategy: str, custom_cuda: bool, adapter: Mapping[str, object] | None = None) -> str:
    """Identifies everything that affects a loaded model's states: 32 hex digits over name, size, modification time and
    :data:`PIECES` pieces of its files and its adapter's (options as in ``LoadModel.adapter``). Hashing 15 GB would take
    ten seconds, and any change of a model changes its time or bytes everywhere. A path that is not a file counts by its
    name."""
    found = hashlib.blake2b(f"{strategy.split()}{custom_cuda}".encode(), digest_size=16)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if adapter and adapter["adapter_file"]:
        found.update(repr(sorted(adapter.items())).encode("utf-8", "surrogateescape"))
        merged, start = Path(str(adapter["adapter_file"])), str(adapter["adapter_start"])
        files += [merged, merged.with_name(PEFT_CONFIG), *([Path(start)] if start else [])]
    for file in files:
        found.update(file.name.encode("utf-8", "surrogateescape"))
        if not file.is_file():
            continue
        about = file.stat()
        found.update(f"\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        _update(found, file, about.st_size)
    return found.hexdigest()


def _update(digest: hashlib.blake2b, file: Path, size: int) -> None:
    """Adds :data:`PIECES` pieces, spread over the file."""
    with file.open("rb", buffering=0) as content:
        for piece in range(PIECES):
            content.seek(piece * size // PIECES)
            digest.update(content.read(PIECE_BYTES))
