"""Setup for all tests."""

import contextlib
import gc
import importlib
import os
import socket
import sqlite3
import sys
import tempfile
from pathlib import Path
from types import CodeType

import pytest
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Rule

from webapp.storage import database as storage
from webapp.storage.backups import copies_of
from webapp.storage.database import Database
from webapp.storage.migrations import MIGRATIONS

# The terminal's language is the developer's; most tests expect English, and tests of Chinese set it.
os.environ["ROOST_LANG"] = "en"

# The models are tiny and several workers share the cores, so threads of torch and BLAS wait for each other, also in
# engine processes. One thread each made tests/starter/test_batches.py 11 times faster on two busy cores (67 to 6 s).
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As in an engine on a CPU; otherwise each load of an RWKV-7 would compile it for half a second.
os.environ.setdefault("PYTORCH_JIT", "0")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Otherwise each worker rewrites the assertions of 240 modules again (9 s), and each program that a test starts compiles
# itself.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers() -> int:
    """Two more than the number of cores, because tests with a browser or processes wait half of the time; at most four,
    because many start processes themselves."""
    return min(4, (os.cpu_count() or 1) + 2)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """The plugin that counts failures over all workers is queried before each test in two small packets, of which the
    second waits 40 ms for the acknowledgement of the first: 5 minutes in 8,000 tests."""
    if counts := getattr(getattr(config, "failures_db", None), "sock", None):
        counts.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def pytest_sessionstart(session: pytest.Session) -> None:
    """All workers import the same modules first, and in a fresh checkout each would rewrite the assertions of all of
    them (9 s of CPU time). So each first imports a share of its own, and then finds the others' shares done."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args != session.config.getini("testpaths"):
        return
    number, folder = int(worker["workerid"][2:]), Path(__file__).parent
    for path in sorted(folder.rglob("test_*.py"))[number :: worker["workercount"]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # collection will report it
            importlib.import_module(".".join(path.relative_to(folder.parent).with_suffix("").parts))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules imported so far stay, so full garbage collections can ignore them. With torch each one took 0.2 s, and
    every load of a model and every test that counts leftovers runs several. Those during the imports took 1 s."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


@pytest.fixture(autouse=True, scope="module")
def keep_what_earlier_files_left() -> None:
    """The clients of the API and the fuzzer leave 400,000 objects. Each full collection looked at all of them, a
    quarter of the processor time of tests/web."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def backends_are_asked_again() -> None:
    """A test may have replaced backends, packages or drivers; clears the cached answers."""
    if strategy := sys.modules.get("webapp.services.strategy"):
        strategy.forget_answers()


@pytest.fixture
def database(tmp_path: Path):
    from webapp.storage.database import Database

    database = Database(tmp_path / "roost.db")
    yield database
    database.close()


@pytest.fixture
def store(database):
    """The chats of ``database``."""
    from webapp.storage.chats import ChatStore

    return ChatStore(database)


@pytest.fixture
def start(tmp_path: Path):
    """start(strategy) -> a separate RunningRoost, stopped afterwards."""
    from tests.web.chat.running_roost import RunningRoost

    started = []

    def start(strategy):
        started.append(RunningRoost(tmp_path / "data", strategy))
        return started[-1]

    yield start
    for roost in started:
        if roost.is_running:
            roost.stop()


class CompiledOnce(BytecodeCache):
    """Caches compiled templates by name and source, because tests create hundreds of apps."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self._codes[bucket.key, bucket.checksum] = bucket.code


Flask.jinja_options = {"bytecode_cache": CompiledOnce()}


def compile_builder_once(rule: Rule, append_unknown: bool = True):
    """The same for URL builders: compiling the 150 URLs of an app took 0.08 of the 0.1 s for creating it."""
    key = (tuple(rule._trace), repr(rule.defaults), append_unknown)
    if key not in _builders:
        _builders[key] = _compile_builder(rule, append_unknown)
    return _builders[key]


_builders: dict = {}
_compile_builder, Rule._compile_builder = Rule._compile_builder, compile_builder_once


def compile_once(rule: Rule) -> None:
    """Parsing the 270 URLs took half of the rest."""
    key = (rule.rule, rule.subdomain, rule.host, rule.merge_slashes, repr(rule.defaults))
    if key in _compiled:
        known, builders = _compiled[key]
        vars(rule).update(known, **{name: builder.__get__(rule) for name, builder in builders.items()})
        return
    _compile(rule)
    known = {name: getattr(rule, name) for name in ("arguments", "_converters", "_parts", "_trace")}
    _compiled[key] = known, {name: getattr(rule, name).__func__ for name in ("_build", "_build_unknown")}


_compiled: dict = {}
_compile, Rule.compile = Rule.compile, compile_once


def copy_the_first(database: Database) -> None:
    """Copies an empty database instead of creating its tables, which took three quarters of the time. Not if a test
    needs other tables, sees each statement, or had a database there before."""
    path = database.path
    is_plain = storage.MIGRATIONS is MIGRATIONS and database._trace is None and path.parent.is_dir()
    if is_plain and not path.exists() and not Path(f"{path}-wal").exists() and not copies_of(path):
        if not _first:
            _first.append(b"")  # the next one is created normally
            with tempfile.TemporaryDirectory() as folder:
                Database(Path(folder, "roost.db")).close()
                _first[0] = Path(folder, "roost.db").read_bytes()
        if _first[0]:
            with contextlib.suppress(OSError):  # reported as usual
                path.touch(mode=0o600)
                path.write_bytes(_first[0])
                return
    _prepare_file(database)


_first: list[bytes] = []
_prepare_file, Database._prepare_file = Database._prepare_file, copy_the_first


def open_without_sync(database: Database) -> sqlite3.Connection:
    """The tests' databases need not survive a power failure: syncing took 15 ms for each that is made and closed. Not
    if a test sees each statement."""
    connection = _open(database)
    if database._trace is None:
        connection.execute("PRAGMA synchronous = OFF")
    return connection


_open, Database._open = Database._open, open_without_sync
