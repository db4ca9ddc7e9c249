"""Error codes are rows of a table; errors are raised with the class that an ``except`` catches."""

import ast
import json
import pickle

import pytest

from tests.sources import MODULES, ROOT, nodes_of
from webapp import errors
from webapp.errors import (
    ROWS,
    ConversionError,
    FileMissing,
    OutOfMemory,
    RoostError,
    WeightsError,
    as_roost_error,
    error_from_dict,
)
from webapp.i18n import Text

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RoostError)}


def test_an_error_is_raised_as_the_class_of_its_row():
    for path in MODULES:
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                kind, code = KINDS[node.func.id], node.args[0]
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                if isinstance(code, ast.Constant):
                    assert code.value in ROWS, f"{place}: {code.value} is no code"
                    assert ROWS[code.value].kind is kind, f"{place}: {code.value} is raised as {kind.__name__}"


def test_every_row_is_used():
    nodes = [node for path in MODULES if path.name != "errors.py" for node in nodes_of(path)]
    for node in nodes_of(ROOT / "webapp" / "errors.py"):  # besides the table, codes that its classes use
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cls":
            nodes += node.args
    written = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    of_classes = {kind.code for kind in KINDS.values()}
    assert set(ROWS) - written - of_classes == set()


def test_a_class_exists_only_if_something_catches_it():
    caught: set[str] = set()
    for path in MODULES:
        for node in nodes_of(path):
            if isinstance(node, ast.ExceptHandler) and node.type:
                caught |= {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
                "isinstance",
                "suppress",
            ):
                caught |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    assert set(KINDS) - caught == set()


@pytest.mark.parametrize(
    "error",
    [
        RoostError("turn_running"),
        FileMissing("state_not_found", path="x.pth"),
        WeightsError("file_truncated", path="x", reason=Text("states.mismatch.layer_name", layer=3)),
        ConversionError("conversion_no_space", path="x", needed="2 GB", free="1 GB"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_crosses_a_pipe(error):
    by_dict = error_from_dict(json.loads(json.dumps(error.to_dict())))
    for again in (by_dict, pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error) and (again.code, again.params) == (error.code, error.params)
        assert (again.message, again.hint, again.status) == (error.message, error.hint, error.status)


def test_an_unknown_code_keeps_its_sentence():
    error = error_from_dict({"code": "of_a_later_version", "message": "It is late."})
    assert error.code == "internal_error" and error.params == {"reason": "It is late."}


def test_another_programs_exception_is_wrapped():
    assert isinstance(as_roost_error(MemoryError()), OutOfMemory)
    assert as_roost_error(ValueError("x")).params == {"reason": "ValueError: x"}
    error = RoostError("turn_running")
    assert as_roost_error(error) is error


def test_the_same_error_with_another_value():
    error = FileMissing("state_not_found", path="/data/x.pth").with_params(path="x.pth")
    assert type(error) is FileMissing and error.code == "state_not_found" and error.params == {"path": "x.pth"}
