"""One table, four sources, and an error with the setting's name."""

from pathlib import Path

import pytest

from tests.errors import keys_in, raises_code
from webapp import settings as settings_module
from webapp.i18n import translate
from webapp.settings import SETTINGS, Settings, load_settings


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def load(data_dir, overrides=None, environ=None, config=None):
    data_dir.mkdir(exist_ok=True)
    path = None
    if config is not None:
        path = data_dir / "given.toml"
        path.write_text(config, encoding="utf-8")
    return load_settings({"data_dir": data_dir, **(overrides or {})}, environ or {}, path)


def test_every_row_has_a_sentence_of_help_and_a_default_in_range():
    for row in SETTINGS.values():
        help_text = translate(f"setting.{row.name}", "en")
        assert help_text.endswith(".") and len(help_text) > 15, row.name
        if row.default is not None:
            row.check(row.default)


def test_defaults_are_private_to_this_machine(data_dir):
    settings = load(data_dir)
    assert (settings.listen_host, settings.port, settings.is_shared) == ("127.0.0.1", 8000, False)
    assert settings.strategy == "auto" and settings.max_body_bytes == 64 << 20


def test_command_line_beats_environment_beats_file_beats_default(data_dir):
    config = "port = 1\nmax_queue = 2\nthreads = 3\n"
    environ = {"ROOST_PORT": "11", "ROOST_MAX_QUEUE": "12"}
    settings = load(data_dir, {"port": "21"}, environ, config)
    assert (settings.port, settings.max_queue, settings.threads, settings.crash_tries) == (21, 12, 3, 3)


def test_none_and_empty_variables_are_not_given(data_dir):
    settings = load(data_dir, {"port": None}, {"ROOST_PORT": "", "ROOST_TOKEN": ""})
    assert (settings.port, settings.token) == (8000, "")


def test_the_file_in_the_data_folder_is_found(data_dir):
    data_dir.mkdir()
    (data_dir / "roost.toml").write_text(
        'language = "zh"\nallow_hosts = ["my.example"]\nlan = true\n', encoding="utf-8"
    )
    settings = load(data_dir)
    assert (settings.language, settings.allow_hosts, settings.lan) == ("zh", ("my.example",), True)


def test_the_environment_can_name_the_file(data_dir, tmp_path):
    path = tmp_path / "else where.toml"
    path.write_text("port = 4000", encoding="utf-8")
    assert load(data_dir, environ={"ROOST_CONFIG": str(path)}).port == 4000


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("lan", "yes", True),
        ("open_browser", "0", False),
        ("state_cache_bytes", "512 MiB", 512 << 20),
        ("state_cache_bytes", "2g", 2 << 30),
        ("swap_grace_s", "2.5", 2.5),
        ("allow_hosts", "a.example, b.example", ("a.example", "b.example")),
        ("data_dir", "~/somewhere", Path.home() / "somewhere"),
    ],
)
def test_text_is_read_by_type(name, text, value):
    assert SETTINGS[name].read(text) == value


@pytest.mark.parametrize(
    "name, value",
    [
        ("port", "70000"), ("port", "-1"), ("port", "80.5"), ("port", "eight"), ("port", True), ("port", None),
        ("swap_grace_s", "nan"), ("swap_grace_s", -1), ("lan", "maybe"), ("lan", 2), ("language", "fr"),
        ("token", "short"), ("token", "with space in it"), ("token", "ünïcödé-token"), ("allow_hosts", 5),
        ("strategy", "cpu\nfp32"), ("data_dir", ""), ("http_threads", 1), ("requests_per_s", 0),
    ],
)  # fmt: skip
def test_a_value_out_of_range_names_the_setting(name, value):
    with raises_code("settings_invalid") as caught:
        SETTINGS[name].read(value)
    assert caught.value.params["name"] == name and keys_in(caught.value)


def test_a_bad_token_is_not_shown():
    with raises_code("settings_invalid") as caught:
        SETTINGS["token"].read("hunter2")
    assert "hunter2" not in str(caught.value) and "hunter22" not in repr(Settings(token="hunter22"))


def test_an_unknown_key_names_the_nearest(data_dir):
    with raises_code("settings_invalid", key="reason.settings.no_such_setting_did_you_mean", close="max_queue"):
        load(data_dir, config="max-queues = 3")
    with raises_code("settings_invalid", key="reason.settings.no_such_setting"):
        load(data_dir, {"qwertz": 1})


@pytest.mark.parametrize("content", ["port = ", "port = [", "[port]\na = 1", "\x00"])
def test_a_broken_file_is_a_typed_error(data_dir, content):
    with raises_code("settings_invalid"):
        load(data_dir, config=content)


def test_a_missing_or_binary_file_is_a_typed_error(data_dir, tmp_path):
    data_dir.mkdir()
    with raises_code("settings_invalid", name="config"):
        load_settings({"data_dir": data_dir}, {}, tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with raises_code("settings_invalid", name="config"):
        load_settings({"data_dir": data_dir}, {}, tmp_path / "binary.toml")


def test_models_are_looked_for_here_first(data_dir, monkeypatch, tmp_path):
    monkeypatch.setattr(settings_module, "__file__", str(tmp_path / "site-packages" / "webapp" / "settings.py"))
    assert load(data_dir).models_dir == data_dir / "models"
    (tmp_path / "models").mkdir()
    assert load(data_dir).models_dir == tmp_path / "models"
    assert load(data_dir, {"models_dir": "/m"}).models_dir == Path("/m").absolute()


@pytest.mark.parametrize(
    "given, listens",
    [({"lan": True}, "0.0.0.0"), ({"lan": True, "host": "10.0.0.5"}, "10.0.0.5"), ({"host": "0.0.0.0"}, "0.0.0.0")],
)
def test_an_address_others_can_reach_counts_as_shared(given, listens):
    settings = Settings(**given)
    assert settings.is_shared and settings.listen_host == listens


def test_an_ipv6_address_may_be_written_as_in_a_url(data_dir):
    settings = load(data_dir, {"host": "[::1]"})
    assert settings.host == "::1" and not settings.is_shared


@pytest.mark.parametrize("system, part", [("win32", "Roost"), ("darwin", "Application Support"), ("linux", "share")])
def test_the_data_folder_is_the_systems_own(monkeypatch, system, part):
    monkeypatch.setattr(settings_module.sys, "platform", system)
    assert part in settings_module.default_data_dir().parts


def test_folders_come_as_text_or_as_a_list(tmp_path):
    folders = (tmp_path / "a", tmp_path / "b")
    text = ",".join(map(str, folders))
    config = tmp_path / "roost.toml"
    config.write_text(f"extra_models_dirs = {[str(folder) for folder in folders]}")
    assert load_settings({"extra_models_dirs": text}, {}, None).extra_models_dirs == folders
    assert load_settings({}, {"ROOST_EXTRA_MODELS_DIRS": text}, None).extra_models_dirs == folders
    assert load_settings({}, {}, config).extra_models_dirs == folders
    assert load_settings({}, {"ROOST_EXTRA_MODELS_DIRS": ""}, None).extra_models_dirs == ()
    relative = load_settings({"extra_models_dirs": "llm"}, {}, None).extra_models_dirs
    assert relative == (Path.cwd() / "llm",)
