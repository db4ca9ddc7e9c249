"""The `roost` command in a terminal; the model is tiny or fake, the process real."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.weights.make_checkpoints import write_checkpoint
from tests.wording import error_text, text
from webapp.chat.messages import ContentDelta, Finished, Waiting
from webapp.cli import chat, main, serve, with_default_command
from webapp.cli.options import output_file
from webapp.cli.parser import Parser
from webapp.cli.serve import check_folders
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import LiveTurn
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.database import Claim, Database

ROOT = Path(__file__).resolve().parent.parent.parent
SAYS_HELLO = "fake vocab=256 script=104,101,108,108,111"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny.safetensors", "7", n_layer=1, n_embd=64, vocab_size=256)
    return folder


@pytest.fixture
def places(models: Path, tmp_path: Path) -> list[str]:
    return ["--models", str(models), "--data", str(tmp_path)]


@pytest.mark.parametrize(
    "command",
    [
        ["logits", "--text", "x", "--out"],
        ["compose", "--out"],
        ["eval", "--transcripts"],
        ["bench", "tools", "--transcripts"],
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_reported_before_the_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ModelManager, "__init__", lambda *_: pytest.fail("the work began"))
    (tmp_path / "file").touch()
    for out, place in (("mistyped/out.mid", "mistyped"), (".", ""), ("file/out.mid", "file")):
        assert main([*command, str(tmp_path / out), "--data", str(tmp_path)]) == 2
        assert f"{tmp_path / place}: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_may_not_be_changed_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "kept.npy")
    (tmp_path / "kept.npy").touch()
    assert output_file(str(tmp_path / "new.npy")) == tmp_path / "new.npy"
    with pytest.raises(PermissionError):
        output_file(str(tmp_path / "kept.npy"))


def test_no_command_means_serve():
    assert with_default_command(["--port", "1"]) == ["serve", "--port", "1"]
    assert with_default_command([]) == ["serve"]
    assert with_default_command(["run", "-p", "x"]) == ["run", "-p", "x"]


def test_serve_takes_runners_flag_for_a_strategy():
    for flags, strategy in ((["--webgpu"], "webgpu"), (["--strategy", "webgpu nf4"], "webgpu nf4"), ([], None)):
        parser = Parser()
        serve.add_arguments(parser)
        assert parser.parse_args(flags).strategy == strategy


def test_serve_says_that_a_folder_of_models_is_missing(models, tmp_path, capsys):
    missing, default = tmp_path / "nowhere", Settings(data_dir=tmp_path)
    check_folders(Settings(models_dir=models, data_dir=tmp_path))
    check_folders(default)
    assert capsys.readouterr().out == ""
    check_folders(Settings(models_dir=missing, data_dir=tmp_path))
    check_folders(Settings(models_dir=models, extra_models_dirs=(missing,), data_dir=tmp_path))
    assert capsys.readouterr().out.count(str(missing)) == 2


def test_serve_takes_no_file_for_a_folder_of_models(models, tmp_path, capsys):
    assert main(["serve", "--models", str(models / "tiny.safetensors"), "--data", str(tmp_path)]) != 0
    assert "models_dir" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_run_prints_one_json_document(places, capsys):
    strategy = ["--strategy", SAYS_HELLO, "--temperature", "0", "--max-tokens", "3", "--seed", "7"]
    assert main(["run", "-m", "tiny.safetensors", "-p", "Hi", "--json", *strategy, *places]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["token_ids"]) == 3 and found["finish_reason"] == "length"
    assert found["stats"]["prompt_tokens"] == 2 and found["stats"]["seed"] == 7
    assert found["model"] == "tiny.safetensors" and found["strategy"] == SAYS_HELLO


def test_logits_are_written_after_the_last_token_or_after_each(places, tmp_path, capsys):
    out = tmp_path / "logits.npy"
    command = [
        "logits",
        "-m",
        "tiny.safetensors",
        "--strategy",
        "fake",
        "--tokens",
        "1,2,3",
        "--out",
        str(out),
        *places,
    ]
    assert main(command) == 0
    last = np.load(out)
    assert last.shape == (256,) and last.dtype == np.float32
    assert main([*command, "--all"]) == 0
    every = np.load(out)
    assert every.shape == (3, 256) and np.array_equal(every[-1], last)


def test_inspect_describes_a_file(models, capsys):
    assert main(["inspect", str(models / "tiny.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["architecture"] == "7" and found["config"]["n_embd"] == 64
    assert main(["inspect", str(models / "tiny.safetensors"), "--tensors"]) == 0
    assert "RWKV-7" in capsys.readouterr().out


def test_models_lists_the_folder(places, capsys):
    assert main(["models", *places]) == 0
    assert "tiny.safetensors" in capsys.readouterr().out
    assert main(["models", "--json", *places]) == 0
    assert "tiny.safetensors" in {row["name"] for row in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "no-such-file"],
        ["run", "-m", "no-such-model", "-p", "x"],
        ["run", "-m", "tiny.safetensors", "-p", "x", "--strategy", "banana"],
        ["run", "-m", "tiny.safetensors", "-p", "x", "--strategy", "fake", "--temperature", "99"],
        ["logits", "-m", "tiny.safetensors", "--strategy", "fake", "--tokens", "1,x", "--out", "o.npy"],
        ["logits", "-m", "tiny.safetensors", "--strategy", "fake", "--tokens", "999", "--out", "o.npy"],
        ["logits", "-m", "tiny.safetensors", "--strategy", "fake", "--tokens", "1", "--out", "no-such-folder/o.npy"],
        ["serve", "--port", "99999"],
        ["bench", "-m", "tiny.safetensors", "--sequences", "none"],
    ],
    ids=lambda command: " ".join(command[:1] + command[-2:]),
)
def test_a_mistake_is_one_line_with_the_way_out_and_exit_code_2(command, places, capsys):
    extra = [] if command[0] == "inspect" else places
    assert main([*command, *extra]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("roost: ") and "\n" not in line and "Traceback" not in line


def test_bench_ends_in_one_json_document(places, capsys):
    sizes = ["--tokens", "4", "--prompt-tokens", "8", "--repeat", "1", "--sequences", "1,2"]
    assert main(["bench", "-m", "tiny.safetensors", "--strategy", "fake vocab=256", *sizes, *places]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["sequences"] for row in found["runs"]] == [1, 2]
    assert all(row["decode_tokens_per_s"] > 0 for row in found["runs"])


def test_chat_answers_in_the_terminal(places, monkeypatch, capsys):
    lines = iter(["Good day", "/new", "Again", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert main(["chat", "-m", "tiny.safetensors", "--strategy", SAYS_HELLO, *places]) == 0
    assert capsys.readouterr().out.count("hello") == 2


def talk(monkeypatch, *lines):
    said = iter(lines)
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))


def test_a_chat_of_the_terminal_continues_later(places, tmp_path, monkeypatch, capsys):
    chat_command = ["chat", "-m", "tiny.safetensors", "--strategy", SAYS_HELLO, *places]
    for question in ("About birds", "About ships"):
        talk(monkeypatch, question, "/quit")
        assert main([*chat_command, "--temperature", "0.5"]) == 0
    talk(monkeypatch, "/quit")
    assert main([*chat_command]) == 0, "a chat in which nothing was said is none"
    capsys.readouterr()
    assert main(["chat", "--list", *places]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert ["ships" in listed[0], "birds" in listed[1], len(listed)] == [True, True, 2]
    for wanted in (["--resume", "BIRDS"], ["--resume", listed[1].split()[0]], ["--resume"]):
        talk(monkeypatch, "And more", "/quit")
        assert main([*chat_command, *wanted]) == 0
        shown = capsys.readouterr()
        assert "(About birds)" in shown.err and shown.out == "hello\n"
    database = Database(tmp_path / "roost.db")
    store = ChatStore(database)
    birds = next(chat for chat in store.list() if "birds" in chat.title)
    assert len(store.branch(birds.id)) == 8 and store.get(birds.id).sampling == {"temperature": 0.5}
    assert not store.get(birds.id).tools.is_on
    database.close()


def test_a_chat_that_is_not_there_cannot_continue(places, capsys):
    assert main(["chat", "-m", "tiny.safetensors", "--strategy", SAYS_HELLO, *places, "--resume", "whales"]) == 2
    assert "roost: " in capsys.readouterr().err


def test_neither_a_temporary_chat_nor_one_while_a_server_runs_leaves_anything(places, tmp_path, monkeypatch, capsys):
    chat_command = ["chat", "-m", "tiny.safetensors", "--strategy", SAYS_HELLO, *places]
    talk(monkeypatch, "Secret", "/quit")
    assert main([*chat_command, "--temporary"]) == 0
    assert not (tmp_path / "roost.db").exists() and "hello" in capsys.readouterr().out
    database = Database(tmp_path / "roost.db")
    claim = Claim(database.path)
    talk(monkeypatch, "Secret", "/quit")
    assert main(chat_command) == 0
    shown = capsys.readouterr()
    assert shown.out == "hello\n" and text("cli.chat.not_kept") in shown.err
    assert main([*chat_command, "--resume"]) == 2
    assert ChatStore(database).list() == []
    claim.release()
    database.close()


def test_run_reads_a_pipe_without_a_prompt(places, monkeypatch, capsys):
    command = ["run", "-m", "tiny.safetensors", "--strategy", SAYS_HELLO, "--max-tokens", "5", "--json", *places]
    for prompt in ([], ["-p", "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Once"))
        assert main([*command, *prompt]) == 0
        assert json.loads(capsys.readouterr().out)["prompt"] == "Once"
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(command) == 2
    assert error_text("prompt_empty")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("roost st", "states"),
        ("roost chat --tempo", "--temporary"),
        ("roost run -m ti", "tiny.safetensors"),
        ("roost completion pow", "powershell"),
    ],
)
def test_a_shell_gets_completions_of_a_line(line, offered, models, tmp_path):
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "ROOST_MODELS_DIR": str(models)}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
    done = subprocess.run([sys.executable, "-m", "webapp.cli"], cwd=ROOT, env={**os.environ, **asked}, timeout=60)
    assert offered in answer.read_text().split() and done.returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_each_shell_has_its_lines(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "_ARGCOMPLETE" in capsys.readouterr().out


def test_the_flower_ends_an_answer_of_a_g1h_in_run_and_in_chat(places, models, monkeypatch, capsys):
    script = ",".join(map(str, "blue.✿\nUser✿And the sea?".encode()))
    strategy = ["--strategy", f"fake vocab=256 script={script}"]
    for name, ends in (("rwkv7-g1h-0.1b-20260710-ctx10240", True), ("rwkv7-g1g-0.1b-20260523-ctx8192", False)):
        path = models / f"{name}.safetensors"
        write_checkpoint(path, "7", n_layer=1, n_embd=64, vocab_size=256)
        assert main(["run", "-m", path.name, "-p", "The sky is", "--json", *strategy, *places]) == 0
        text = json.loads(capsys.readouterr().out)["text"]
        assert (text == "blue.") is ends and ("And the sea?" in text) is not ends
        lines = iter(["The sky?", "/quit"])
        monkeypatch.setattr("builtins.input", lambda prompt, lines=lines: next(lines))
        assert main(["chat", "-m", path.name, *strategy, *places]) == 0
        assert ("And the sea?" in capsys.readouterr().out) is not ends


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_loading_line_is_gone_before_the_answer_and_never_in_a_log(is_terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    turn = LiveTurn("chat", "", "answer")
    turn.emit([Waiting("loading", 99, 100), ContentDelta("hello")])
    turn.finish(Finished("stop"))
    chat._print_turn(turn)
    shown = capsys.readouterr()
    assert shown.out == "hello\n"
    assert shown.err.split("\r") == (["", "loading 99 %", " " * len("loading 100 %"), ""] if is_terminal else [""])


def test_a_message_right_after_a_stopped_answer_is_answered(places, monkeypatch, capsys):
    lines = iter(["Good day", "Again", "/quit"])
    interrupts = iter([KeyboardInterrupt])
    print_turn = chat._print_turn

    def interrupted_once(turn):
        for interrupt in interrupts:
            raise interrupt
        print_turn(turn)

    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr(chat, "_print_turn", interrupted_once)
    assert main(["chat", "-m", "tiny.safetensors", "--strategy", f"{SAYS_HELLO} delay_ms=20", *places]) == 0
    shown = capsys.readouterr()
    assert "hello" in shown.out and "(stopped)" in shown.err


def test_a_terminal_without_the_characters_gets_escapes(places):
    strategy = ["--strategy", "fake vocab=256 script=196,160"]
    done = subprocess.run(
        [sys.executable, "-m", "webapp.cli", "run", "-m", "tiny.safetensors", "-p", "x", *strategy, *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("\\u")


def test_a_name_that_would_steer_the_terminal_is_spelled_out(capsys):
    assert main(["inspect", "no\x1b[31m\nsuch"]) == 2
    assert capsys.readouterr().err.startswith(r"roost: The file no\x1b[31m such")


def run_in_shell(command, places, **options):
    """`roost COMMAND` with redirections of a shell; ``{places}`` are the folders."""
    line = f"{shlex.quote(sys.executable)} -m webapp.cli {command.format(places=shlex.join(places))}"
    return subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_output_is_one_line(places):
    done = run_in_shell("models {places} >/dev/full", places)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("roost: No space left on device. ")


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_an_input_that_is_no_text_or_closed_is_no_fault(places):
    run = f"run -m tiny.safetensors --strategy {shlex.quote(SAYS_HELLO)} -p - {{places}}"
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [sys.executable, "-m", "webapp.cli", *shlex.split(run.format(places=shlex.join(places)))],
        cwd=ROOT, input=b"\xff\xfe", capture_output=True, timeout=60, env=strict,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith(b"hello")
    closed = run_in_shell(f"{run} <&-", places)
    assert closed.returncode == 2 and error_text("prompt_empty") in closed.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_while_the_commands_are_imported_ends_quietly():
    code = (
        "import os, signal, sys\n"
        "from webapp.cli import main\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'webapp.cli.parser':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(['--version']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize(
    "command",
    [
        [
            "run",
            "-m",
            "tiny.safetensors",
            "-p",
            "x",
            "--strategy",
            "fake delay_ms=50 vocab=256",
            "--max-tokens",
            "9999",
        ],
        ["serve", "--port", "0", "--no-browser", "--strategy", "fake"],
    ],
    ids=lambda command: command[0],
)
def test_ctrl_c_ends_quietly(command, places):
    process = subprocess.Popen(
        [sys.executable, "-m", "webapp.cli", *command, *places],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )
    assert process.stdout is not None
    process.stdout.read(1)  # it has started
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in errors
