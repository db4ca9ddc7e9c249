"""Real model and state files with seeded damage: flipped bits, removed, moved or repeated pieces, extreme numbers,
opcodes inserted into the pickle and values into the header. Each is inspected and read by the reader process, and every
tensor that it still claims to have is read in this process, which a view beyond the file would crash.

    python -m tests.acceptance.file_mutations --count 2000 --seed 1

Prints one JSON document: how many were read and refused, by code; crashes of the reader process; files that took too
long or too much memory; the slowest file in seconds. Exits with 1 if there was a crash or such a file.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import random
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.weights.hostile_files import number, text
from tests.weights.make_checkpoints import write_checkpoint, write_state
from webapp.errors import FileReadingFailed, RoostError
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.file_reader import FileReader, ReaderProcess

FAULT = "its reader failed ({error})"
NAMES = ("model.pth", "model.safetensors", "web-rwkv.st", "state.pth", "state.safetensors")
EXTREMES = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
# Whole and incomplete instructions; each changes the stack in another way.
OPCODES = [
    *(bytes([code]) for code in b"(.012NQR])abdehjlopqrstu}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x95"),
    *(number(value) for value in (0, -1, 64, 2**31, 2**62, 2**63, 2**70, -(2**63))),
    *(text(value) for value in ("", "storage", "0", "1", "cpu", "shape", "blocks.0.att.time_state", "x" * 300)),
    b"ctorch\nFloatStorage\n",
    b"ctorch\nUntypedStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nSize\n",
    b"cposix\nsystem\n",
    b"csome\nThing\n",
    b"}X\x05\0\0\0shape(K@K@K@tsb",
]
JSON_VALUES = ("-1", "0", "4", "1e9", "true", "null", "[]", "{}", '"F32"', "NaN", str(2**63), str(2**64), "9" * 5000)


def write_originals(folder: Path) -> None:
    write_checkpoint(folder / "model.pth", "7", n_embd=64)
    write_checkpoint(folder / "model.safetensors", "6", n_embd=64, time_state=True)
    write_checkpoint(folder / "web-rwkv.st", "5.2", n_embd=64)
    write_state(folder / "state.pth", dtype="bfloat16")
    write_state(folder / "state.safetensors")


def mutated(name: str, original: bytes, rng: random.Random) -> bytes:
    """One to four changes."""
    own = _splice_pickle if name.endswith(".pth") else _splice_header
    changes: list[Callable[[bytes, random.Random], bytes]] = [_flip, _cut, _repeat, _extreme, own, own]
    data = original
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(changes)(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """Headers, pickles and directories are chosen more often than the values between them."""
    edge = min(len(data), 6000)
    return rng.choice((rng.randrange(edge), len(data) - 1 - rng.randrange(edge), rng.randrange(len(data))))


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    """Removes the end or a piece in the middle; never everything."""
    start = max(16, _place(data, rng))
    return data[:start] if rng.random() < 0.5 else data[:start] + data[start + rng.choice((1, 4, 64, 5000)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    piece = data[start : start + rng.choice((1, 8, 100, 3000))]
    at = _place(data, rng)
    return data[:at] + piece + data[at:]


def _extreme(data: bytes, rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    value = rng.choice(EXTREMES) & ((1 << 8 * size) - 1)
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def _splice_pickle(data: bytes, rng: random.Random) -> bytes:
    """Changes ``data.pkl`` and writes a new zip around it; a file that is no longer a zip is unchanged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:
        return data
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            if name.endswith("data.pkl") and content:
                at = rng.randrange(len(content))
                piece = b"".join(rng.choices(OPCODES, k=rng.choice((1, 2, 5))))
                content = content[:at] + piece + content[at + rng.choice((0, 0, 1, len(piece))) :]
            archive.writestr(name, content)
    return made.getvalue()


def _splice_header(data: bytes, rng: random.Random) -> bytes:
    """Changes a value in the JSON and corrects the length."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    places = list(re.finditer(rb'[0-9]+|"[A-Z0-9_]+"|\[[0-9,]*\]', header[: 1 << 16]))
    if not places:
        return data
    found = rng.choice(places)
    header = header[: found.start()] + rng.choice(JSON_VALUES).encode() + header[found.end() :]
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


@dataclass
class Outcome:
    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    reader_ends: int = 0
    given_up: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    views: int = 0


def run(folder: Path, count: int, seed: int, kept: Path | None = None) -> Outcome:
    """``kept``: a folder for the files that took too long or too much memory."""
    write_originals(folder)
    originals = {name: (folder / name).read_bytes() for name in NAMES}
    process = ReaderProcess()
    reader = FileReader(process=process)
    outcome = Outcome()
    try:
        reader.inspect(folder / NAMES[0])
        pid = process.pid
        for index in range(count):
            rng = random.Random(f"{seed}-{index}")
            name = NAMES[index % len(NAMES)]
            path = folder / f"mutated-{name}"
            path.write_bytes(mutated(name, originals[name], rng))
            begin = time.monotonic()
            _read(reader, path, outcome)
            outcome.slowest_s = max(outcome.slowest_s, time.monotonic() - begin)
            if process.pid != pid:
                outcome.reader_ends, pid = outcome.reader_ends + 1, process.pid
                outcome.given_up.append(f"{seed}-{index} {name}")
                if kept is not None:
                    (kept / f"{seed}-{index}-{name}").write_bytes(path.read_bytes())
    finally:
        process.close()
    return outcome


def _read(reader: FileReader, path: Path, outcome: Outcome) -> None:
    try:
        found = reader.inspect(path)
        outcome.codes[found.kind] += 1
        if found.kind == "state":
            reader.state_sheet(path)
            outcome.codes["state read"] += 1
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.names():
                checkpoint.array(name).tobytes()
                outcome.views += 1
    except FileReadingFailed as exc:
        outcome.codes[exc.code] += 1
        outcome.given_up.append(str(exc))
    except RoostError as exc:
        outcome.codes[exc.code] += 1
        if getattr(exc.params.get("reason"), "template", "") == FAULT or exc.code == "internal_error":
            outcome.given_up.append(str(exc))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the files the reader gave up on")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), options.count, options.seed, options.keep)
    told = {**vars(outcome), "files": options.count, "seconds": round(time.monotonic() - begin, 1)}
    print(json.dumps(told))
    return int(bool(outcome.reader_ends or outcome.given_up))


if __name__ == "__main__":
    sys.exit(main())
