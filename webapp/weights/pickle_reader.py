"""Reads the pickle inside a .pth with our own interpreter, which only describes objects and never runs code.

Python's unpickler imports and calls whatever a file names, hashes arbitrary keys, and lets a file modify existing
objects. Here only the opcodes of a state dict are supported. Values are None, numbers, texts, tuples, lists, dicts with
text keys, and the immutable records of :mod:`.torch_values`. A class or function that is not part of a tensor becomes
:class:`Inert`: nothing is imported or called, and its content is dropped.

Limits: every number below. They are far above those of any released model's checkpoint, and limit the worst file to
less than a second and some tens of megabytes. Opcodes: Lib/pickletools.py in CPython.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.torch_values import Damaged, Inert, NamesProgram, build, call, named, storage_of

MAX_STEPS = 500_000
"""Opcodes. A checkpoint needs about 40 per tensor; a 14B model has about 1,600 tensors."""
MAX_MARKS = 200
"""Maximum nesting of open lists, tuples and dicts."""
MAX_TEXT_BYTES = 1 << 20
MAX_NUMBER_BYTES = 16
MAX_LINE_BYTES = 4096
STOP = ord(".")


def read_pickle(path: Path, data: bytes, start: int = 0) -> tuple[Any, int]:
    """The object that begins at byte ``start``, with tensors as descriptions, and the position after it.

    Raises ``unsafe_pickle`` if it names a program (``torch_values.PROGRAM_MODULES``); WeightsError if it is damaged, or
    larger or deeper than any checkpoint."""
    reader = _Reader(data, start)
    try:
        return reader.read(), reader.position
    except NamesProgram as exc:
        raise WeightsError(
            "unsafe_pickle", path=str(path), reason=Text("reason.weights.it_names", name=exc.args[0])
        ) from None
    except Damaged as exc:
        raise _damaged(path, exc.args[0]) from None
    except (struct.error, IndexError):  # an opcode's argument or its values on the stack are missing
        raise _damaged(path, Text("reason.weights.ends_in_the_middle")) from None
    except UnicodeDecodeError:
        raise _damaged(path, Text("reason.weights.text_in_it_is_not_utf")) from None


class _Reader:
    """``stack`` is the innermost open list, tuple or dict; ``marks`` are the incomplete ones around it."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.position = start
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        data, opcodes = self.data, _OPCODES
        for _ in range(MAX_STEPS):
            opcode = data[self.position]
            self.position += 1
            if opcode == STOP:
                return self.stack[-1]
            try:
                action = opcodes[opcode]
            except KeyError:
                raise Damaged(Text("reason.weights.unknown_instruction", code=opcode)) from None
            action(self)
        raise Damaged(Text("reason.weights.too_many_instructions", limit=MAX_STEPS))

    def take(self, size: int) -> bytes:
        begin, end = self.position, self.position + size
        if end > len(self.data):
            raise Damaged(Text("reason.weights.ends_in_the_middle"))
        self.position = end
        return self.data[begin:end]

    def number(self, form: struct.Struct) -> int:
        value: int = form.unpack_from(self.data, self.position)[0]
        self.position += form.size
        return value

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_LINE_BYTES)
        if end < 0:
            raise Damaged(Text("reason.weights.line_of_it_has_no_end"))
        raw = self.data[self.position : end]
        self.position = end + 1
        return raw.decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def recall(self, index: int) -> None:
        try:
            self.stack.append(self.memo[index])
        except KeyError:
            raise Damaged(Text("reason.weights.broken_reference")) from None

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise Damaged(Text("reason.weights.nested_too_deep"))
        self.marks.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """All values since the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found


def _damaged(path: Path, error: Text | str) -> WeightsError:
    return WeightsError(path=str(path), reason=Text("reason.weights.damaged_directory", error=error))


# Opcodes


def _set_items(target: Any, items: list[Any]) -> None:
    """Alternating keys and values. Entries with a number as key (an optimizer's) are dropped. Other keys are refused,
    because a key must be hashed, and hashing a tuple or a huge number can be made as slow as an attacker likes."""
    if isinstance(target, Inert):
        return
    if type(target) is not dict or len(items) % 2:
        raise Damaged(Text("reason.weights.table_in_it_has_no_keys"))
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is str:
            target[key] = value
        elif type(key) is not int or not -(2**63) <= key < 2**63:
            raise Damaged(Text("reason.weights.key_in_it_is_no_text"))


def _append(target: Any, items: Sequence[Any]) -> None:
    if type(target) is list:
        target.extend(items)
    elif not isinstance(target, Inert):
        raise Damaged(Text("reason.weights.append_to_no_list"))


def _text(reader: _Reader, size: int) -> None:
    """A text. One of more than a megabyte is neither a name nor a setting, and is dropped."""
    raw = reader.take(size)
    reader.push(raw.decode() if size <= MAX_TEXT_BYTES else Inert("text"))


def _bytes(reader: _Reader, size: int) -> None:
    reader.take(size)
    reader.push(Inert("bytes"))


def _long(reader: _Reader, size: int) -> None:
    if not 0 <= size <= MAX_NUMBER_BYTES:
        raise Damaged(Text("reason.weights.number_too_large"))
    reader.push(int.from_bytes(reader.take(size), "little", signed=True))


def _decimal(reader: _Reader) -> None:
    """INT and LONG of the oldest protocol, in which ``01`` and ``00`` are True and False."""
    line = reader.line()
    if line in ("00", "01"):
        reader.push(line == "01")
    elif re.fullmatch(r"-?[0-9]{1,38}L?", line):
        reader.push(int(line.rstrip("L")))
    else:
        raise Damaged(Text("reason.weights.number_too_large"))


def _float(reader: _Reader) -> None:
    try:
        reader.push(float(reader.line()))
    except ValueError:
        raise Damaged(Text("reason.weights.bad_number")) from None


def _quoted(reader: _Reader) -> None:
    line = reader.line()
    if len(line) < 2 or line[0] not in "'\"" or line[-1] != line[0] or "\\" in line:
        reader.push(Inert("text"))
    else:
        reader.push(line[1:-1])


def _named(reader: _Reader, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise Damaged(Text("reason.weights.name_not_text"))
    reader.push(named(module, name))


def _stack_global(reader: _Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    _named(reader, module, name)


def _inst(reader: _Reader) -> None:
    module, name = reader.line(), reader.line()
    reader.push(call(named(module, name), tuple(reader.items())))


def _obj(reader: _Reader) -> None:
    function, *arguments = reader.items() or [None]
    reader.push(call(function, tuple(arguments)))


def _reduce(reader: _Reader) -> None:
    arguments, function = reader.stack.pop(), reader.stack.pop()
    reader.push(call(function, arguments))


def _new_object(reader: _Reader) -> None:
    """NEWOBJ: a new object of an unknown class, or an empty one of a known class."""
    arguments, function = reader.stack.pop(), reader.stack.pop()
    reader.push(call(function, arguments))


def _new_object_ex(reader: _Reader) -> None:
    reader.stack.pop()  # keyword arguments
    _new_object(reader)


def _build_top(reader: _Reader) -> None:
    state = reader.stack.pop()
    build(reader.stack[-1], state)


def _set_one(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _set_items(reader.stack[-1], [key, value])


def _set_many(reader: _Reader) -> None:
    items = reader.items()
    _set_items(reader.stack[-1], items)


def _append_one(reader: _Reader) -> None:
    value = reader.stack.pop()
    _append(reader.stack[-1], (value,))


def _append_many(reader: _Reader) -> None:
    items = reader.items()
    _append(reader.stack[-1], items)


def _new_table(reader: _Reader) -> None:
    found: dict[str, Any] = {}
    _set_items(found, reader.items())
    reader.push(found)


def _tuple_of(count: int) -> Callable[[_Reader], None]:
    def action(reader: _Reader) -> None:
        if len(reader.stack) < count:
            raise Damaged(Text("reason.weights.ends_in_the_middle"))
        reader.stack[-count:] = [tuple(reader.stack[-count:])]

    return action


def _drop_items(reader: _Reader) -> None:
    """A set is dropped, because its members would have to be hashed."""
    reader.items()


def _frozen_set(reader: _Reader) -> None:
    reader.items()
    reader.push(Inert("frozenset"))


def _pop(reader: _Reader) -> None:
    if reader.stack:
        reader.stack.pop()
    else:
        reader.items()


# A quarter of a model's pickle is LONG_BINPUT, and most of the rest are the following opcodes; these avoid a function
# call.


def _put_word(reader: _Reader) -> None:
    position = reader.position
    reader.memo[U4.unpack_from(reader.data, position)[0]] = reader.stack[-1]
    reader.position = position + 4


def _put_byte(reader: _Reader) -> None:
    reader.memo[reader.data[reader.position]] = reader.stack[-1]
    reader.position += 1


def _put_next(reader: _Reader) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _put_line(reader: _Reader) -> None:
    reader.memo[_index(reader)] = reader.stack[-1]


def _get_byte(reader: _Reader) -> None:
    reader.recall(reader.data[reader.position])
    reader.position += 1


def _byte(reader: _Reader) -> None:
    reader.stack.append(reader.data[reader.position])
    reader.position += 1


def _tuple(reader: _Reader) -> None:
    found = tuple(reader.stack)
    reader.stack = reader.marks.pop()
    reader.stack.append(found)


U1, U2, U4, U8, I4, F8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q", "<i", ">d"))
_OPCODES: dict[int, Callable[[_Reader], None]] = {
    ord(code): action
    for code, action in {
        "\x80": lambda reader: reader.take(1),  # PROTO
        "\x95": lambda reader: reader.take(8),  # FRAME
        "(": _Reader.mark,
        "0": _pop,
        "1": lambda reader: reader.items(),
        "2": lambda reader: reader.push(reader.stack[-1]),
        # values
        "N": lambda reader: reader.push(None),
        "\x88": lambda reader: reader.push(True),
        "\x89": lambda reader: reader.push(False),
        "I": _decimal,
        "L": _decimal,
        "J": lambda reader: reader.push(reader.number(I4)),
        "K": _byte,
        "M": lambda reader: reader.push(reader.number(U2)),
        "\x8a": lambda reader: _long(reader, reader.number(U1)),
        "\x8b": lambda reader: _long(reader, reader.number(I4)),
        "F": _float,
        "G": lambda reader: reader.push(reader.number(F8)),
        "S": _quoted,
        "T": lambda reader: _text(reader, reader.number(U4)),
        "U": lambda reader: _text(reader, reader.number(U1)),
        "V": lambda reader: reader.push(reader.line()),
        "X": lambda reader: _text(reader, reader.number(U4)),
        "\x8c": lambda reader: _text(reader, reader.number(U1)),
        "\x8d": lambda reader: _text(reader, reader.number(U8)),
        "B": lambda reader: _bytes(reader, reader.number(U4)),
        "C": lambda reader: _bytes(reader, reader.number(U1)),
        "\x8e": lambda reader: _bytes(reader, reader.number(U8)),
        "\x96": lambda reader: _bytes(reader, reader.number(U8)),
        # lists, tuples, dicts, sets
        "]": lambda reader: reader.push([]),
        "l": lambda reader: reader.push(list(reader.items())),
        "a": _append_one,
        "e": _append_many,
        ")": lambda reader: reader.push(()),
        "t": _tuple,
        "\x85": _tuple_of(1),
        "\x86": _tuple_of(2),
        "\x87": _tuple_of(3),
        "}": lambda reader: reader.push({}),
        "d": _new_table,
        "s": _set_one,
        "u": _set_many,
        "\x8f": lambda reader: reader.push(Inert("set")),
        "\x90": _drop_items,
        "\x91": _frozen_set,
        # the memo
        "p": _put_line,
        "q": _put_byte,
        "r": _put_word,
        "\x94": _put_next,
        "g": lambda reader: reader.recall(_index(reader)),
        "h": _get_byte,
        "j": lambda reader: reader.recall(reader.number(U4)),
        # classes, functions, objects, storages
        "c": lambda reader: _named(reader, reader.line(), reader.line()),
        "\x93": _stack_global,
        "i": _inst,
        "o": _obj,
        "R": _reduce,
        "\x81": _new_object,
        "\x92": _new_object_ex,
        "b": _build_top,
        "Q": lambda reader: reader.push(storage_of(reader.stack.pop())),
    }.items()
}


def _index(reader: _Reader) -> int:
    line = reader.line()
    if not re.fullmatch(r"[0-9]{1,10}", line):
        raise Damaged(Text("reason.weights.broken_reference"))
    return int(line)
