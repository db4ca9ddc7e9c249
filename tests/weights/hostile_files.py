"""Files that try to crash or freeze their reader or fill its memory, each a few kilobytes unless its size matters.

:data:`HOSTILE` maps a file's name to a function that returns its bytes. No reader may need a second for one of them,
and each gives a typed error. :data:`ODD` are unusual too, but can be described safely.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

END = b"."
PROTO = b"\x80\x02"
DICT = b"}"


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    if size < 256:
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    return b"\x8b" + struct.pack("<i", size) + value.to_bytes(size, "little", signed=True)


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + tuple_of(*arguments) + b"R"


def storage(key: str = "0", numel: int = 1, kind: str = "FloatStorage") -> bytes:
    return tuple_of(text("storage"), f"ctorch\n{kind}\n".encode(), text(key), text("cpu"), number(numel)) + b"Q"


def rebuild(version: str, *arguments: bytes) -> bytes:
    return call("torch._utils", f"_rebuild_tensor_{version}", *arguments)


def tensor(shape: Iterable[int] = (1,), strides: Iterable[int] = (1,), offset: int = 0, stored: bytes = b"") -> bytes:
    sizes = (tuple_of(*map(number, shape)), tuple_of(*map(number, strides)))
    return rebuild("v2", stored or storage(), number(offset), *sizes, b"\x89", DICT)


def table(items: dict[str, bytes]) -> bytes:
    return DICT + b"(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def pth(pickled: bytes, data: bytes = bytes(4), more: Iterable[tuple[str, bytes]] = (), packed: bool = False) -> bytes:
    """A zip with ``pickled`` (whose opcodes need no start and no end) and one storage."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", PROTO + pickled + END)
        archive.writestr("archive/data/0", data)
        for name, content in more:
            archive.writestr(name, content)
    return made.getvalue()


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: list[Any], begin: int = 0, end: int = 4, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def gguf(tensors: int, keys: int, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def gguf_text(value: str, length: int | None = None) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw


# Pickles


def _nested_tuple_key(depth: int) -> bytes:
    return DICT + b"K\x07K\x07\x86" + b"2\x86" * depth + b"N" + b"s"


def _colliding(count: int) -> bytes:
    return DICT + b"(" + b"".join(number(k * (2**61 - 1)) + b"N" for k in range(1, count)) + b"u"


def _list_copied_again_and_again() -> bytes:
    """A list of 40,000, converted to a ``torch.Size`` 40,000 times."""
    many = b"](" + b"K\x01" * 40_000 + b"eq\x01"
    return many + b"ctorch\nSize\nq\x02" + b"h\x02h\x01\x85R0" * 40_000


def _rebuilt_inside_rebuilt(depth: int) -> bytes:
    rebuild = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    return rebuild + b"q\x01" + b"h\x01N" * depth + b")" + b"\x87" * depth + b"R"


def _untyped(numel: int) -> bytes:
    """One float32 in a storage of this many bytes."""
    one = tuple_of(number(1))
    stored = storage(numel=numel, kind="UntypedStorage")
    return rebuild("v3", stored, b"K\0", one, one, b"\x89", DICT, b"ctorch\nfloat32\n", DICT)


def _names(count: int) -> bytes:
    one = b'"n%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return safetensors(b"{" + b",".join(one % n for n in range(count)) + b"}")


def _zip_of_many_members() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", PROTO + DICT + END)
        for index in range(30_000):
            archive.writestr(f"archive/data/{index}", b"")
    return made.getvalue()


def _same_bytes_twice() -> bytes:
    """Two members whose directory entries point to the same place."""
    raw = bytearray(pth(table({"a": tensor(), "b": tensor(stored=storage("1"))}), more=[("archive/data/1", bytes(4))]))
    entries = [at for at in range(len(raw)) if raw.startswith(b"PK\x01\x02", at)]
    raw[entries[2] + 42 : entries[2] + 46] = raw[entries[1] + 42 : entries[1] + 46]
    return bytes(raw)


def _two_of_one_name() -> bytes:
    raw = pth(table({"a": tensor()}), more=[("archive/data/1", bytes(4))])
    return raw.replace(b"archive/data/1", b"archive/data/0")


def _directory(change: Callable[[bytearray, int], None]) -> bytes:
    """A good file with a changed last record; ``change`` gets the file and the record's position."""
    raw = bytearray(pth(table({"a": tensor()})))
    change(raw, raw.rindex(b"PK\x05\x06"))
    return bytes(raw)


def _huge_directory(raw: bytearray, record: int) -> None:
    raw[record + 10 : record + 12] = b"\xff\xff"
    raw[record + 12 : record + 20] = b"\xff\xff\xff\x7f" * 2


def _locator_to_nowhere(raw: bytearray, record: int) -> None:
    raw[record:record] = b"PK\x06\x07" + struct.pack("<IQI", 0, 2**62, 1)


def _changed(name: bytes, value: bytes) -> bytes:
    """A tensor whose description is set again after it was checked."""
    return table({"blocks.0.att.time_state": tensor() + DICT + text(name) + value + b"sb"})


SMALL = 2**31 - 1
PICKLES: dict[str, Callable[[], bytes]] = {
    "key-nested-tuple": lambda: pth(_nested_tuple_key(70)),
    "key-colliding-numbers": lambda: pth(_colliding(30_000)),
    "key-huge-number": lambda: pth(DICT + number(1 << 1_000_000) + b"Ns"),
    "key-a-tensor": lambda: pth(DICT + tensor() + b"Ns"),
    "key-a-list": lambda: pth(DICT + b"]Ns"),
    "number-of-a-megabyte": lambda: pth(table({"a": tensor((1 << 8_000_000, 3), (1, 1))})),
    "number-of-many-digits": lambda: pth(DICT + text("a") + b"I" + b"7" * 4000 + b"\ns"),
    "number-with-a-negative-length": lambda: pth(b"\x8b" + struct.pack("<i", -5)),
    "steps-without-end": lambda: pth(b"K\x010" * 5_000_000),
    "marks-without-end": lambda: pth(b"(" * 3_000_000),
    "lists-inside-lists": lambda: pth(b"](" * 1_000_000),
    "doubled-a-hundred-times": lambda: pth(b"]" + b"2\x86" * 100),
    "list-copied-again-and-again": lambda: pth(_list_copied_again_and_again()),
    "rebuilt-inside-rebuilt": lambda: pth(_rebuilt_inside_rebuilt(30_000)),
    "text-that-claims-4-gb": lambda: pth(b"X" + struct.pack("<I", 2**32 - 1)),
    "text-that-claims-2-62": lambda: pth(b"\x8d" + struct.pack("<Q", 2**62)),
    "bytes-that-claim-2-63": lambda: pth(b"\x8e" + struct.pack("<Q", 2**63)),
    "array-of-bytes": lambda: pth(b"\x96" + struct.pack("<Q", 2**40)),
    "line-without-end": lambda: pth(b"V" + b"a" * 2_000_000),
    "memo-of-nothing": lambda: pth(b"j" + struct.pack("<I", 2**32 - 1)),
    "memo-before-anything": lambda: pth(b"q\x00"),
    "memo-below-zero": lambda: pth(b"]p-7\n"),
    "nothing-at-all": lambda: pth(b""),
    "pops-of-nothing": lambda: pth(b"0" * 1000),
    "opcode-of-no-one": lambda: pth(b"\xfe"),
    "extension-registry": lambda: pth(b"\x82\x01"),
    "outer-buffer": lambda: pth(b"\x97"),
    "changed-shape": lambda: pth(_changed(b"shape", tuple_of(*map(number, (64, 64, 64))))),
    "changed-strides": lambda: pth(_changed(b"strides", tuple_of(number(4096)))),
    "changed-storage": lambda: pth(table({"a": storage() + DICT + text("numel") + number(2**40) + b"sb"})),
    "changed-tuple": lambda: pth(b")" + DICT + b"b"),
    "changed-function": lambda: pth(b"ctorch._utils\n_rebuild_tensor_v2\n" + DICT + b"b"),
    "offset-below-zero": lambda: pth(table({"a": tensor(offset=-4)})),
    "stride-below-zero": lambda: pth(table({"a": tensor((2,), (-1,))}), bytes(8)),
    "size-below-zero": lambda: pth(table({"a": tensor((-1,))})),
    "stride-of-zero": lambda: pth(table({"a": tensor((SMALL, SMALL), (0, 0))})),
    "zero-beside-giants": lambda: pth(table({"a": tensor((0, SMALL, SMALL, SMALL), (1, 1, 1, 1))})),
    "a-thousand-dimensions": lambda: pth(table({"a": tensor([1] * 1000, [1] * 1000)})),
    "offset-beyond": lambda: pth(table({"a": tensor(offset=2**62)})),
    "shape-of-texts": lambda: pth(
        table({"a": call("torch._utils", "_rebuild_tensor_v2", storage(), b"K\0", b"N", b"N")})
    ),
    "storage-larger-than-its-data": lambda: pth(table({"a": tensor((9,), stored=storage(numel=9))})),
    "storage-of-2-62": lambda: pth(table({"a": tensor((2**60,), stored=storage(numel=2**62))})),
    "storage-below-zero": lambda: pth(table({"a": tensor(stored=storage(numel=-1))})),
    "storage-named-by-a-path": lambda: pth(table({"a": tensor(stored=storage("../../etc/passwd"))})),
    "storage-named-by-a-megabyte": lambda: pth(table({"a": tensor(stored=storage("7" * 1_000_000))})),
    "storage-that-is-none": lambda: pth(text("hello") + b"Q"),
    "storage-of-a-list": lambda: pth(tuple_of(b"]", b"]", b"]", b"]", b"]") + b"Q"),
    "untyped-odd-bytes": lambda: pth(table({"a": _untyped(numel=3)})),
    "one-storage-for-everyone": lambda: pth(
        table({f"t{n}": tensor((4000,), stored=storage(numel=4000)) for n in range(4000)}), bytes(16_000)
    ),
    "name-of-ten-thousand": lambda: pth(table({"n" * 10_000: tensor()})),
    "name-that-clears-the-screen": lambda: pth(table({"\x1b[2J": tensor()})),
    "name-of-half-a-character": lambda: pth(DICT + text(b"\xed\xa0\x80") + tensor() + b"s"),
    "quantised-tensor": lambda: pth(table({"a": call("torch._utils", "_rebuild_qtensor", storage())})),
    "a-list-of-tensors": lambda: pth(b"](" + tensor() + tensor() + b"e"),
    "a-program": lambda: pth(table({"a": call("os", "system", text("true"))})),
    "a-program-by-inst": lambda: pth(b"(" + text("true") + b"iposix\nsystem\n"),
    "a-program-by-obj": lambda: pth(b"(csubprocess\nPopen\n" + text("true") + b"o"),
    "a-program-by-stack-global": lambda: pth(b"\x8c\x08builtins\x8c\x04eval\x93" + tuple_of(text("1")) + b"R"),
    "an-object": lambda: pth(b"c__main__\nModel\n)\x81" + DICT + b"b"),
}
ZIPS: dict[str, Callable[[], bytes]] = {
    "zip-bomb": lambda: pth(b"K\x010" * 20_000_000, packed=True),
    "zip-of-many-members": _zip_of_many_members,
    "zip-entries-overlap": _same_bytes_twice,
    "zip-two-of-one-name": _two_of_one_name,
    "zip-huge-directory": lambda: _directory(_huge_directory),
    "zip-locator-to-nowhere": lambda: _directory(_locator_to_nowhere),
    "zip-two-roots": lambda: pth(table({"a": tensor()}), more=[("other/data.pkl", PROTO + DICT + END)]),
    "zip-only-an-end": lambda: b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(18),
}
SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "names-a-million": lambda: _names(1_000_000),
    "names-30000": lambda: _names(30_000),
    "tables-a-million": lambda: safetensors(b"{" + b'"":{},' * 1_000_000 + b'"a":{}}'),
    "length-2-63": lambda: safetensors(b"{}", length=2**63),
    "length-2-40": lambda: safetensors(b"{}" + bytes(99), length=2**40),
    "length-0": lambda: safetensors(b"{}", length=0),
    "nested-lists": lambda: safetensors(b'{"a":' + b"[" * 100_000),
    "nested-tables": lambda: safetensors(b'{"a":' * 100_000),
    "nested-in-metadata": lambda: safetensors(b'{"__metadata__":' + b'{"a":' * 5000 + b"1" + b"}" * 5001),
    "number-of-a-million-digits": lambda: safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b"]}}"),
    "not-a-number": lambda: safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "infinite": lambda: safetensors(b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}', bytes(4)),
    "key-twice": lambda: safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        bytes(4),
    ),
    "field-twice": lambda: safetensors(b'{"a":{"dtype":"F32","shape":[1],"shape":[9],"data_offsets":[0,4]}}', bytes(4)),
    "half-a-character": lambda: safetensors(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "name-with-a-bell": lambda: safetensors({"\a": entry([1])}, bytes(4)),
    "overlapping": lambda: safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "all-in-one-place": lambda: safetensors({f"n{n}": entry([250_000], 0, 10**6) for n in range(900)}, bytes(10**6)),
    "offsets-turned": lambda: safetensors({"a": entry([1], 4, 0)}, bytes(4)),
    "offset-below-zero": lambda: safetensors({"a": entry([1], -4, 0)}, bytes(4)),
    "offset-beyond": lambda: safetensors({"a": entry([1], 2**60, 2**60 + 4)}, bytes(4)),
    "shape-beyond": lambda: safetensors({"a": entry([2**32, 2**32])}, bytes(4)),
    "zero-beside-giants": lambda: safetensors({"a": entry([0, 2**62, 2**62], 0, 0)}),
    "true-for-a-size": lambda: safetensors({"a": entry([True])}, bytes(4)),
    "shape-a-text": lambda: safetensors({"a": {"dtype": "F32", "shape": "12", "data_offsets": [0, 4]}}, bytes(4)),
    "dtype-a-list": lambda: safetensors({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "a-thousand-dimensions": lambda: safetensors({"a": entry([1] * 1000)}, bytes(4)),
    "utf-16": lambda: safetensors('{"a":1}'.encode("utf-16")),
}
GGML: dict[str, Callable[[], bytes]] = {
    "counts-2-63.gguf": lambda: gguf(2**63, 2**63),
    "tensors-2-40.gguf": lambda: gguf(2**40, 0),
    "keys-a-million.gguf": lambda: gguf(1, 10**6, bytes(10**6)),
    "text-that-claims-2-62.gguf": lambda: gguf(1, 1, gguf_text("a", 2**62) + bytes(99)),
    "key-of-a-megabyte.gguf": lambda: gguf(1, 1, gguf_text("k" * 10**6) + bytes(99)),
    "list-of-2-60.gguf": lambda: gguf(1, 1, gguf_text("a") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(99)),
    "numbers-2-60.gguf": lambda: gguf(1, 1, gguf_text("a") + struct.pack("<IIQ", 9, 6, 2**60) + bytes(99)),
    "lists-inside-lists.gguf": lambda: gguf(1, 1, gguf_text("a") + struct.pack("<I", 9) + bytes([9, 0, 0, 0]) * 99),
    "value-of-no-type.gguf": lambda: gguf(1, 1, gguf_text("a") + struct.pack("<I", 77) + bytes(99)),
    "version-77.gguf": lambda: gguf(1, 0, bytes(99), version=77),
    "sizes-below-zero.bin": lambda: b"fmgg" + struct.pack("<5i", 101, -1, -1, -1, 0) + bytes(99),
    "sizes-of-2-31.bin": lambda: b"fmgg" + struct.pack("<5i", 101, SMALL, SMALL, SMALL, 0) + bytes(99),
}
HOSTILE: dict[str, Callable[[], bytes]] = {
    **{f"{name}.pth": make for name, make in {**PICKLES, **ZIPS}.items()},
    **{f"{name}.safetensors": make for name, make in SAFETENSORS.items()},
    **GGML,
    "bare-nested-key.pth": lambda: PROTO + _nested_tuple_key(70) + END,
    "bare-steps.pth": lambda: PROTO + b"K\x010" * 2_000_000 + END,
    "bare-program.pth": lambda: PROTO + call("nt", "system", text("true")) + END,
}

ODD: dict[str, Callable[[], bytes]] = {
    "empty-table.pth": lambda: pth(DICT),
    "numbers-for-keys.pth": lambda: pth(DICT + b"K\x01Ns" + text("a") + tensor() + b"s"),
    "a-table-inside-itself.pth": lambda: pth(DICT + b"q\x00" + text("a") + b"h\x00s"),
    "a-class-as-a-value.pth": lambda: pth(table({"a": tensor(), "b": b"csome.where\nConfig\n)\x81" + DICT + b"b"})),
    "metadata-of-a-megabyte.safetensors": lambda: safetensors({"__metadata__": {"a": "x" * 10**6}}),
    "no-tensors.safetensors": lambda: safetensors(b"{}"),
}
