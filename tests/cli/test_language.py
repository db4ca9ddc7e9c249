"""The terminal uses the user's language, and no text exists only in English."""

from __future__ import annotations

import argparse
import ast
import io
import json
import locale
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.weights.make_checkpoints import write_checkpoint
from tests.wording import text
from webapp.cli import main
from webapp.cli.parser import COMMANDS, columns_of, pad, wrap
from webapp.i18n.terminal import VARIABLES, terminal_locale

ROOT = Path(__file__).resolve().parents[2]
CLI = ROOT / "webapp" / "cli"


@pytest.fixture
def said(monkeypatch, capsys):
    """said("zh", *arguments) -> (exit code, standard output, standard error)."""

    def run(language: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("ROOST_LANG", language)
        try:
            code = main(arguments)
        except SystemExit as end:  # argparse, after help or an error
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"ROOST_LANG": "zh"}, "zh"),
        ({"ROOST_LANG": "zh_TW.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"ROOST_LANG": "en", "LC_ALL": "zh_CN.UTF-8"}, "en"),
        ({"ROOST_LANG": "", "LC_ALL": "", "LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_MESSAGES": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"ROOST_LANG": "fr"}, "en"),
    ],
    ids=str,
)
def test_the_first_variable_decides(variables, found, monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, variables.get(name, ""))
    assert terminal_locale() == found


@pytest.mark.parametrize(
    ("name", "found"),
    [("Chinese (Simplified)_China", "zh"), ("zh_CN", "zh"), ("English_United States", "en"), (None, "en")],
)
def test_without_variables_the_system_decides(name, found, monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(locale, "getlocale", lambda: (name, "cp936"))
    assert terminal_locale() == found


@pytest.mark.parametrize(("encoding", "found"), [("cp1252", "en"), ("ascii", "en"), ("gbk", "zh"), ("utf-8", "zh")])
def test_an_output_without_chinese_characters_gets_english(encoding, found, monkeypatch):
    monkeypatch.setenv("ROOST_LANG", "zh")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert terminal_locale() == found


def test_the_help_is_in_both_languages(said):
    code, english, _ = said("en", "--help")
    assert code == 0 and english.startswith("usage: roost ") and text("cli.chat.about") in english
    code, chinese, _ = said("zh", "--help")
    assert code == 0 and chinese.startswith("用法: roost ") and text("cli.chat.about", "zh") in chinese
    about = {name: re.findall(rf"^    {name}\s+(.+)$", chinese, re.MULTILINE) for name in COMMANDS}
    assert all(len(lines) == 1 and is_chinese(lines[0]) for lines in about.values()), about


@pytest.mark.parametrize(
    "command", [[name] for name in COMMANDS] + [["models", "rename"], ["bench", "tools"]], ids=" ".join
)
def test_no_line_of_help_is_english_in_chinese(command, said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, _ = said("zh", *command, "--help")
    about = shown.split("\n\n", 1)[1].splitlines()  # without the usage
    assert code == 0 and max(map(columns_of, about)) <= 80
    assert not [line for line in about if line.endswith(".") or line.startswith(("options", "positional"))]
    assert is_chinese(shown) and "\ufffd" not in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inspect", "没有"], "roost: 找不到文件 没有。请检查文件名；`roost models` 会列出 Roost 能找到的模型。\n"),
        (["serve", "--port", "99999"], "roost: 设置项 port 不能是 '99999'：不能大于 65535。`roost serve --help`"),
        (["serve", "--config", "gone.toml"], "roost: 设置项 config 不能是 'gone.toml'：找不到该文件或文件夹。"),
        (["logits", "--tokens", "1,x", "--out", "o", "--data", "{data}"], "roost: 请求无效：--tokens '1,x' 不是"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_and_its_way_out_are_said_in_chinese(arguments, told, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, line = said("zh", *(argument.format(data=tmp_path) for argument in arguments))
    assert (code, out, line.count("\n")) == (2, "", 1) and line.startswith(told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["completion"], "缺少必需的参数：shell"),
        (["inspect", "a", "--banana"], "无法识别的参数：--banana"),
        (["banana"], "没有 'banana' 这个选项（可选："),
        (["run", "-p", "x", "--top-k", "x"], "参数 --top-k：'x' 不是有效的 int 值"),
        (["run", "-p"], "需要一个值"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_argparse_finds_wrong_is_said_in_chinese(arguments, told, said):
    code, _, error = said("zh", *arguments)
    assert code == 2 and error.startswith("用法: roost") and told in error


def test_argparse_is_left_as_it_was(said):
    before = argparse._
    said("zh", "--help")
    assert argparse._ is before


def test_what_programs_read_is_the_same_in_both_languages(said, tmp_path):
    write_checkpoint(tmp_path / "tiny.safetensors", "7", n_layer=1, n_embd=64, vocab_size=256)
    path, places = str(tmp_path / "tiny.safetensors"), ["--models", str(tmp_path), "--data", str(tmp_path)]
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for command in (["inspect", path, "--json"], ["models", "--json", *places], ["states", "list", "--json", *places]):
        assert said("zh", *command) == said("en", *command)
        assert json.loads(said("zh", *command)[1]) is not None
    assert "架构               RWKV-7\n" in said("zh", "inspect", path)[1]
    assert (
        "1 x 64，" in said("zh", "models", *places)[1] and "torn.safetensors 不完整" in said("zh", "models", *places)[1]
    )


def test_the_columns_fit_chinese_text():
    assert columns_of("头 x 2") == 6 and pad("架构", 6) == "架构  "
    assert wrap("每个请求都必须携带的令牌；使用 --lan 时", 12) == ["每个请求都必", "须携带的令", "牌；使用", "--lan 时"]
    assert [line for line in wrap("（一二三四五）。", 8) if line[0] in "）。"] == []


def spoken(path: Path):
    """The texts that a parser's help and a module's prints get."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            asked = getattr(node.func, "id", getattr(node.func, "attr", ""))
            yield from (word.value for word in node.keywords if word.arg in ("help", "description", "title", "epilog"))
            yield from node.args if asked in ("print", "_say", "write", "add_argument_group") else ()


def literals(node: ast.expr):
    """The texts in it, without arguments of calls, keys and data."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not isinstance(node, (ast.Call, ast.Subscript, ast.Dict)):
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


def test_no_help_and_no_print_is_a_literal_in_english():
    found = [
        f"{path.name}:{node.lineno}: {text}"
        for path in sorted(CLI.glob("*.py"))
        for node in spoken(path)
        for text in literals(node)
        if any(char.isalpha() for char in text.replace("roost", ""))
    ]
    assert found == []


def test_the_help_imports_nothing_heavy():
    code = (
        "import sys; from webapp.cli.parser import build_parser; build_parser('--help').format_help();"
        "print(sorted({'torch', 'numpy', 'psutil', 'flask', 'webapp.engine'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
