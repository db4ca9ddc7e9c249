"""Files are read in a separate process: the same results and errors, and no file crashes or freezes the caller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from tests.errors import raises_code
from tests.waiting import is_gone, wait_until
from tests.weights.hostile_files import HOSTILE
from tests.weights.make_checkpoints import write_checkpoint, write_state, write_tensors
from webapp.engine.state import ModelConfig
from webapp.errors import FileMissing, FileReadingFailed, RoostError
from webapp.i18n import say
from webapp.weights import file_reader, reader_process
from webapp.weights.convert.conversion import plan_for
from webapp.weights.convert.plan import ConversionOptions
from webapp.weights.file_reader import FileReader, Limits, ReaderProcess
from webapp.weights.inspection import inspect
from webapp.weights.state_file import merged_state, open_state, read_state_file
from webapp.weights.state_sheet import sheet_of

# Operations that no file can trigger; they simulate errors in a reader.
BOOT = """
import sys; sys.path[:] = sys.argv[1:]
import ctypes, os, time
from webapp.weights import reader_process

def crash(path): os.kill(os.getpid(), 11)
def crash_once(path, mark):
    if not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), 9)
    return 7
def spin(path):
    while True: pass
def hold_the_lock(path): ctypes.PyDLL(None).sleep(1000)
def sleep(path): time.sleep(1000)
def fill(path): return len(bytearray(10 ** 10))
def talk(path):
    print("a library's chatter")
    return 7
def stumble(path): raise KeyError("a fault")
def flood(path): return bytes(1 << 25)

reader_process.OPERATIONS |= {
    f.__name__: f for f in (crash, crash_once, spin, hold_the_lock, sleep, fill, talk, stumble, flood)
}
reader_process.GRACE_S = 0.5
reader_process.main()
"""


@pytest.fixture
def process(monkeypatch):
    monkeypatch.setattr(file_reader, "BOOT", BOOT)
    made = ReaderProcess()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path):
    write_checkpoint(tmp_path / "m.pth", "7")
    return tmp_path / "m.pth"


def ask(reader, operation, path, *arguments, limits=None, answer=int):
    return reader._ask(answer, operation, path, arguments, limits or Limits(0.3))


def ended(pid):
    """Waits for its end; also for a child process that has not been waited for."""
    wait_until(lambda: is_gone(pid))
    return True


def test_the_answers_are_those_of_the_readers(tmp_path, file):
    reader = FileReader()
    assert reader.inspect(file) == inspect(file)
    for name in ("m.st", "odd name é中.safetensors"):
        write_checkpoint(tmp_path / name, "6", time_state=True)
        assert reader.inspect(tmp_path / name) == inspect(tmp_path / name)
    write_state(tmp_path / "s.pth")
    config = ModelConfig("7", 2, 128, 128, 512, 2, 64, 256)
    digest, values = reader.read_state(tmp_path / "s.pth", config)
    expected = read_state_file(tmp_path / "s.pth", config)
    np.testing.assert_array_equal(np.frombuffer(values, np.float32), expected.layers.ravel())
    assert digest == expected.digest
    assert reader.state_sheet(tmp_path / "s.pth") == sheet_of(open_state(tmp_path / "s.pth"))
    options = ConversionOptions()
    assert reader.planned_bytes(file, "st", options) == plan_for(file, "st", options).total_bytes
    reader.copy_out(tmp_path / "m.st", tmp_path / "out.safetensors", "a note")
    assert open_state(tmp_path / "out.safetensors").digest == merged_state(tmp_path / "m.st").digest
    parts = [(tmp_path / "s.pth", "s", 1.0), (None, "-", 3.0)]
    reader.blend(parts, tmp_path / "blend.safetensors", "a note")
    np.testing.assert_allclose(open_state(tmp_path / "blend.safetensors").layers, expected.layers / 4, atol=1e-7)


@pytest.mark.parametrize("arrays", [{}, {"emb.weight": np.zeros((2, 2), np.float32)}], ids=["nothing", "no model"])
def test_the_reason_can_still_be_said_in_another_language(tmp_path, arrays):
    write_tensors(tmp_path / "m.pth", arrays)
    found, expected = FileReader().inspect(tmp_path / "m.pth"), inspect(tmp_path / "m.pth")
    assert found == expected and say(found.reason, "zh") == say(expected.reason, "zh") != str(expected.reason)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_errors_are_those_of_the_readers(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name]())
    with pytest.raises(RoostError) as expected:
        inspect(tmp_path / name)
    with pytest.raises(RoostError) as caught:
        FileReader().inspect(tmp_path / name)
    assert (caught.value.code, str(caught.value)) == (expected.value.code, str(expected.value))


def test_a_path_is_named_as_it_was_given(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    reader = FileReader()
    assert reader.inspect("m.pth").path == "m.pth"
    with pytest.raises(FileMissing) as caught:
        reader.inspect("none.pth")
    assert caught.value.params["path"] == "none.pth"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
def test_a_name_of_bytes_that_are_no_text(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.pth")
    write_checkpoint(tmp_path / "m.pth", "7")
    os.rename(tmp_path / "m.pth", name)
    assert FileReader().inspect(name).kind == "model"
    Path(name).write_bytes(HOSTILE["a-program.pth"]())
    with raises_code("unsafe_pickle"):
        FileReader().inspect(name)


def test_a_mismatch_is_reported_with_its_words(tmp_path):
    write_state(tmp_path / "s.pth", n_layer=3)
    with raises_code("state_mismatch") as caught:
        FileReader().read_state(tmp_path / "s.pth", ModelConfig("7", 2, 128, 128, 512, 2, 64, 256))
    assert (caught.value.params["what"].key, caught.value.params["found"]) == ("states.mismatch.layers", "3")


def test_a_process_that_was_killed_is_started_again(process, file):
    reader = FileReader(process=process)
    reader.inspect(file)
    before = process.pid
    os.kill(before, signal.SIGKILL)
    assert reader.inspect(file).kind == "model" and process.pid != before


@pytest.mark.parametrize(
    "operation, key",
    [
        ("crash", "reason.weights.reader_ended"),
        ("spin", "reason.weights.reading_took_too_long"),
        ("fill", "reason.weights.reading_took_too_much_memory"),
        ("flood", "reason.weights.reader_ended"),
    ],
)
def test_a_file_that_crashes_the_reader_is_reported_and_remembered(
    process, file, tmp_path, monkeypatch, operation, key
):
    monkeypatch.setattr(file_reader, "WAITING_FACTOR", 1000)  # so that CPU time is the limit, also on a busy machine
    memory = tmp_path / "memory.json"
    reader = FileReader(memory, process)
    for _ in range(2):
        with pytest.raises(FileReadingFailed) as caught:
            ask(reader, operation, file, limits=Limits(0.3 if operation == "spin" else 60))
        assert caught.value.params["reason"].key == key and caught.value.params["path"] == str(file)
    with pytest.raises(FileReadingFailed):  # also after a restart, and for every operation on the file
        FileReader(memory, process).inspect(file)
    assert FileReader(memory, process).inspect(file, again=True).kind == "model"
    assert FileReader(memory, process).inspect(file).kind == "model"


def test_a_standstill_is_not_remembered_across_restarts(process, file, tmp_path):
    reader = FileReader(tmp_path / "memory.json", process)
    with pytest.raises(FileReadingFailed) as caught:
        ask(reader, "sleep", file)
    assert caught.value.params["reason"].key == "reason.weights.reading_stood_still"
    with pytest.raises(FileReadingFailed):
        reader.inspect(file)
    assert FileReader(tmp_path / "memory.json", process).inspect(file).kind == "model"


def test_a_death_by_accident_is_tried_again(process, file, tmp_path):
    assert ask(FileReader(process=process), "crash_once", file, str(tmp_path / "mark")) == 7


def test_the_others_are_read_after_one_that_failed(process, file, tmp_path):
    write_checkpoint(tmp_path / "other.st", "6")
    reader = FileReader(process=process)
    with pytest.raises(FileReadingFailed):
        ask(reader, "crash", file)
    assert reader.inspect(tmp_path / "other.st").kind == "model"


def test_a_file_that_changed_is_read_again(process, file, tmp_path):
    reader = FileReader(tmp_path / "memory.json", process)
    with pytest.raises(FileReadingFailed):
        ask(reader, "crash", file)
    write_checkpoint(file, "6")
    assert reader.inspect(file).config.architecture == "6"


def test_what_a_library_prints_does_not_disturb_the_answers(process, file):
    assert ask(FileReader(process=process), "talk", file, limits=Limits()) == 7


def test_a_fault_of_ours_is_a_typed_error_about_the_file(process, file):
    with pytest.raises(RoostError) as caught:
        ask(FileReader(process=process), "stumble", file, limits=Limits())
    assert (caught.value.code, caught.value.params["path"]) == ("file_error", str(file))


def test_many_threads_at_once(process, tmp_path):
    for index in range(6):
        write_checkpoint(tmp_path / f"{index}.st", "7", n_layer=index + 1)
    reader = FileReader(process=process)
    found = []

    def read(index):
        found.append((index, reader.inspect(tmp_path / f"{index}.st").config.n_layer))

    threads = [threading.Thread(target=read, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(index, index + 1) for index in range(6)]


@pytest.mark.parametrize("busy", ["", "sleep", "spin", "hold_the_lock"])
def test_it_ends_with_the_process_that_asked(file, busy):
    """Killed without a message, also during a request, also while the request holds Python's lock."""
    code = f"""
import sys, threading
from webapp.weights import file_reader
file_reader.BOOT = {BOOT!r}
reader = file_reader.FileReader()
reader.inspect({str(file)!r})
limits = file_reader.Limits(0.5)
if {busy!r}:
    threading.Thread(target=reader._ask, args=(int, {busy!r}, {str(file)!r}, (), limits), daemon=True).start()
print(reader._process.pid, flush=True)
sys.stdin.read()
"""
    asker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(asker.stdout.readline())
    assert psutil.pid_exists(pid)
    time.sleep(0.3)  # the thread's request is running
    asker.kill()
    asker.communicate()
    assert ended(pid)


def test_it_ends_when_the_asking_process_ends_by_itself(file):
    code = f"""
from webapp.weights.file_reader import FileReader
reader = FileReader()
reader.inspect({str(file)!r})
print(reader._process.pid)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert ended(int(done.stdout)) and done.stderr == ""


def test_neither_side_imports_what_it_does_not_need(file):
    code = f"""
import json, sys
from webapp.weights.file_reader import FileReader
FileReader().inspect({str(file)!r})
print(json.dumps([name for name in ("torch", "numpy", "safetensors") if name in sys.modules]))
"""
    assert json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) == []
    code = "import sys, webapp.weights.reader_process; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"False"


@pytest.mark.parametrize("architecture", ["4", "5.2", "6", "7"])
def test_a_plan_imports_no_torch(tmp_path, architecture):
    """It would take more time and memory than any header."""
    write_checkpoint(tmp_path / "m.pth", architecture)
    code = f"""
import sys
from webapp.weights.convert.conversion import plan_for
from webapp.weights.convert.plan import ConversionOptions
for target in ("st", "fast"):
    plan_for({str(tmp_path / "m.pth")!r}, target, ConversionOptions("cpu fp32"))
print("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"False"


def test_requests_and_replies_are_plain_data():
    request = reader_process.Request("inspect_file", [b"/a", False], 1.0, 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=reader_process.Request) == request


FIRST_AT_ONCE = """
import sys, threading
import msgspec
from webapp.weights.file_reader import decoded
sys.setswitchinterval(1e-6)
names = [f"name{number}" for number in range(20)]
data = msgspec.msgpack.encode({name: dict.fromkeys(names, 1) for name in names})
for _ in range(20):
    inner = msgspec.defstruct("Inner", [(name, int) for name in names])
    outer = msgspec.defstruct("Outer", [(name, inner) for name in names])
    threads = [threading.Thread(target=decoded, args=(data, outer)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_two_pages_that_ask_for_the_first_time_at_once_do_not_crash_the_server():
    """They did: msgspec analyses a type at first use, and another thread saw it incomplete."""
    assert subprocess.run([sys.executable, "-c", FIRST_AT_ONCE]).returncode == 0


def test_models_are_read_while_a_document_takes_long(file):
    reader = FileReader()
    with ThreadPoolExecutor(1) as pool, reader._documents._lock:
        assert pool.submit(reader.inspect, file).result(60).kind == "model"
