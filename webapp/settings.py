"""All settings of Roost in one table, and the function that reads them.

The table is the class :class:`Settings`: a field is a setting, its type defines the parsing of a value, the
:class:`Rule` in its type contains the range, and its help is ``setting.<name>`` in the catalogues. :data:`SETTINGS`
lists the same rows for the command line, which builds ``--help`` from them. The first existing value is used: command
line, environment (``ROOST_<NAME>``), config file (TOML, flat), default. Imports nothing heavy, so ``roost --help`` is
fast.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin

from msgspec import NODEFAULT, Struct, field
from msgspec.structs import fields, force_setattr

from webapp.errors import RoostError
from webapp.i18n import Text, system_reason

CONFIG_NAME = "roost.toml"
MIB = 1 << 20
DATABASE_NAME = "roost.db"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class Rule(Struct, frozen=True):
    """Which values a setting may have, as the metadata of its type. ``secret``: it is never shown."""

    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False


def default_data_dir() -> Path:
    """Where this system keeps a user's application data (XDG, Application Support or Local AppData)."""
    try:
        home = Path.home()
    except RuntimeError as exc:  # a container user without a home
        raise RoostError(
            "settings_invalid", name="data_dir", value="", reason=Text("reason.settings.no_home_folder")
        ) from exc
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "Roost"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "Roost"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "roost"


def default_models_dir(data_dir: Path) -> Path:
    """``models`` in the working directory or beside the checkout, if it exists; otherwise in the data folder."""
    for folder in (Path.cwd(), Path(__file__).resolve().parent.parent):
        if (folder / "models").is_dir() and folder.name != "site-packages":
            return folder / "models"
    return data_dir / "models"


class Origin(Struct, frozen=True):
    """Sources of the values. ``of``: "flag", "environment" or "file" for each setting that is not a default. ``path``:
    the config file, which need not exist."""

    path: Path
    of: Mapping[str, str]


class Settings(Struct, frozen=True):
    """All settings; parsed and within their ranges if made by :func:`load_settings`."""

    host: str = "127.0.0.1"
    port: Annotated[int, Rule(0, 65535)] = 8000
    data_dir: Path = field(default_factory=default_data_dir)
    models_dir: Path = Path()
    extra_models_dirs: tuple[Path, ...] = ()
    lan: bool = False
    token: Annotated[str, Rule(secret=True)] = ""
    allow_hosts: tuple[str, ...] = ()
    trusted_proxy: tuple[str, ...] = ()
    lan_name: bool = True
    base_path: str = ""
    tls: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    api_only: bool = False
    open_browser: bool = True
    language: Annotated[str, Rule(choices=("auto", "en", "zh"))] = "auto"
    model: str = ""
    strategy: str = "auto"
    adapter: str = ""
    adapter_alpha: Annotated[float, Rule(0, 1e6)] = 0.0
    adapter_start: str = ""
    state: str = ""
    preset: str = ""
    max_prompt_tokens: Annotated[int, Rule(1, 1 << 30)] = 65536
    max_tokens_limit: Annotated[int, Rule(1, 1 << 30)] = 102400
    max_queue: Annotated[int, Rule(0, 100_000)] = 512
    max_sequences: Annotated[int, Rule(1, 4096)] = 32
    prefill_chunk: Annotated[int, Rule(0, 65536)] = 0
    state_cache_bytes: Annotated[int, Rule(0, 1 << 50)] = 256 * MIB
    snapshot_limit_bytes: Annotated[int, Rule(0, 1 << 50)] = 4096 * MIB
    response_days: Annotated[float, Rule(0, 36_500)] = 30.0
    idle_unload_s: Annotated[float, Rule(0)] = 0.0
    swap_grace_s: Annotated[float, Rule(0)] = 5.0
    load_timeout_s: Annotated[float, Rule(0)] = 0.0
    load_anyway: bool = False
    stall_limit_s: Annotated[float, Rule(0)] = 60.0
    crash_tries: Annotated[int, Rule(1, 100)] = 3
    threads: Annotated[int, Rule(0, 4096)] = 0
    websocket_limit: Annotated[int, Rule(1, 5000)] = 100
    websockets_per_client: Annotated[int, Rule(1, 5000)] = 32
    ws_send_timeout_s: Annotated[float, Rule(0.1, 3600)] = 30.0
    connection_limit: Annotated[int, Rule(8, 20_000)] = 1024
    connections_per_client: Annotated[int, Rule(1, 20_000)] = 128
    http_threads: Annotated[int, Rule(4, 1000)] = 80
    requests_per_s: Annotated[float, Rule(0.001, 1e6)] = 50.0
    request_burst: Annotated[int, Rule(1, 1_000_000)] = 200
    max_body_bytes: Annotated[int, Rule(1024, 1 << 40)] = 64 * MIB
    api_streams: Annotated[int, Rule(1, 1000)] = 64
    api_streams_per_client: Annotated[int, Rule(1, 1000)] = 64
    api_max_body_bytes: Annotated[int, Rule(1024, 1 << 40)] = 16 * MIB
    api_max_choices: Annotated[int, Rule(1, 1024)] = 32
    api_strict_models: bool = False
    api_switch_models: bool = False
    guest_answers: Annotated[int, Rule(0, 100_000)] = 0
    guest_day_tokens: Annotated[int, Rule(0, 1 << 40)] = 0
    guest_answer_tokens: Annotated[int, Rule(0, 1 << 30)] = 0
    cors_origins: tuple[str, ...] = ()
    hub_url: str = ""
    catalogue_url: str = ""
    catalogue_sha256: str = ""
    tool_hosts: tuple[str, ...] = ()
    mcp_stdio: bool = True
    log_level: Annotated[str, Rule(choices=("debug", "info", "warning", "error"))] = "warning"
    log_file_bytes: Annotated[int, Rule(0, 1 << 40)] = 2 * MIB

    origin: Origin | None = None
    """Not a setting. None if neither file nor environment was read."""

    def __post_init__(self) -> None:
        if self.models_dir == Path():
            force_setattr(self, "models_dir", default_models_dir(self.data_dir))
        if self.host.startswith("[") and self.host.endswith("]"):  # an IPv6 address in brackets, as in a URL
            force_setattr(self, "host", self.host[1:-1])

    def __repr__(self) -> str:
        """Without secrets."""
        shown = (f"{row.name}={getattr(self, row.name)!r}" for row in SETTINGS.values() if not row.rule.secret)
        return f"Settings({', '.join(shown)})"

    @property
    def database_path(self) -> Path:
        """Chats, presets and all other stored data."""
        return self.data_dir / DATABASE_NAME

    @property
    def snapshot_dir(self) -> Path:
        """The stored states of chats, for all models."""
        return self.data_dir / "snapshots"

    @property
    def is_shared(self) -> bool:
        """True if other machines can reach the server; then everyone needs a token."""
        return self.lan or self.host not in LOOPBACK_HOSTS or bool(self.trusted_proxy)

    @property
    def has_tls(self) -> bool:
        """True if the server uses HTTPS, with a given or generated certificate."""
        return self.tls or bool(self.tls_cert)

    @property
    def listen_host(self) -> str:
        """The address to bind: every interface for ``lan``, unless a particular host was given."""
        return "0.0.0.0" if self.lan and self.host in LOOPBACK_HOSTS else self.host


def read_bool(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).strip().lower() in words:
        return words[str(value).strip().lower()]
    raise ValueError(Text("reason.settings.must_be_true_or_false"))


def read_int(value: Any) -> int:
    """A whole number; text may end in K, M or G (with or without iB), powers of 1024."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([+-]?\d{1,18})\s*(?:([kmg])(?:i?b)?)?\s*", value, re.IGNORECASE)
        if match:
            return int(match[1]) << (10 * " kmg".index((match[2] or " ").lower()))
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(Text("reason.common.must_be_a_whole_number"))


def read_float(value: Any) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(Text("reason.common.must_be_a_number"))


def read_text(value: Any) -> str:
    if isinstance(value, str) and value.isprintable():
        return value
    raise ValueError(Text("reason.common.must_be_one_line_of_text"))


def read_path(value: Any) -> Path:
    if isinstance(value, (str, Path)) and str(value):
        return Path(value).expanduser().absolute()
    raise ValueError(Text("reason.settings.must_name_a_folder"))


def read_list(value: Any) -> tuple[str, ...]:
    """A list, or text with commas between the items."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise ValueError(Text("reason.settings.must_be_a_list_of_names"))
    return tuple(read_text(part).strip() for part in parts if part)


def read_paths(value: Any) -> tuple[Path, ...]:
    """A list of folders, or text with commas between them."""
    parts = [value] if isinstance(value, Path) else read_list(value)
    return tuple(read_path(part) for part in parts)


READERS: dict[Any, Callable[[Any], Any]] = {
    bool: read_bool,
    int: read_int,
    float: read_float,
    str: read_text,
    Path: read_path,
    tuple[str, ...]: read_list,
    tuple[Path, ...]: read_paths,
}


class Setting(Struct, frozen=True):
    """One row: the help in ``--help`` and the parsing of a value from any source. ``kind`` is a key of READERS."""

    name: str
    kind: Any
    default: Any
    rule: Rule

    def read(self, value: Any) -> Any:
        """The typed value; raises ``settings_invalid`` with the reason."""
        try:
            read = READERS[self.kind](value)
            self.check(read)
        except ValueError as exc:
            shown = "…" if self.rule.secret else value
            raise RoostError("settings_invalid", name=self.name, value=shown, reason=reason_of(exc)) from exc
        return read

    def check(self, value: Any) -> None:
        rule = self.rule
        if rule.choices and value not in rule.choices:
            raise ValueError(Text("reason.common.must_be_one_of", names=", ".join(rule.choices)))
        # Written as "not >=" so that NaN is refused too.
        if rule.at_least is not None and not value >= rule.at_least:
            raise ValueError(Text("reason.settings.must_be_at_least", least=rule.at_least))
        if rule.at_most is not None and not value <= rule.at_most:
            raise ValueError(Text("reason.settings.must_be_at_most", most=rule.at_most))
        if rule.secret and value and not re.fullmatch(r"[A-Za-z0-9._~+/=-]{8,200}", value):
            raise ValueError(Text("reason.settings.token_form"))


def reason_of(exc: ValueError) -> Text | str:
    """The argument of the exception; a Text is kept, because ``str`` would make plain text."""
    return exc.args[0] if exc.args and isinstance(exc.args[0], Text) else str(exc)


def _setting(name: str, kind: Any, default: Any) -> Setting:
    """The two folders have the default None: it is computed when needed, not at import."""
    kind, rule = (kind.__origin__, *kind.__metadata__) if get_origin(kind) is Annotated else (kind, Rule())
    return Setting(name, kind, None if default in (NODEFAULT, Path()) else default, rule)


SETTINGS = {row.name: _setting(row.name, row.type, row.default) for row in fields(Settings) if row.name != "origin"}


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_path: str | Path | None = None,
) -> Settings:
    """Settings from command line ``overrides`` (None counts as not given), environment, config file and defaults.

    Without ``config_path``, the file is ``$ROOST_CONFIG``, or ``roost.toml`` in the data folder if it exists.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    environment = _from_environment(environ)
    chosen = {**environment, **_checked(given)}
    path = config_path or environ.get("ROOST_CONFIG")
    found = Path(path) if path else (chosen.get("data_dir") or default_data_dir()) / CONFIG_NAME
    from_file = read_config(found) if path or found.is_file() else {}
    of = {
        **dict.fromkeys(from_file, "file"),
        **dict.fromkeys(environment, "environment"),
        **dict.fromkeys(given, "flag"),
    }
    return Settings(**{**from_file, **chosen}, origin=Origin(found, of))


def change_config(path: Path, name: str, value: str | None) -> None:
    """Writes one value to the TOML file at ``path``, or removes it (None); the rest of the file is not changed. Takes
    effect at the next start. Raises ``settings_invalid`` for an invalid value or file."""
    import tomlkit  # keeps comments and order

    read = None if value is None else SETTINGS[name].read(value)
    if path.exists():
        read_config(path)  # raises if the file is invalid
        document = tomlkit.parse(path.read_text(encoding="utf-8"))
    else:
        document = tomlkit.document()
    if read is None:
        document.pop(name, None)
    else:
        document[name] = [str(part) for part in read] if isinstance(read, tuple) else _plain(read)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = path.with_name(path.name + ".new")
    try:
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            out.write(tomlkit.dumps(document))  # only its owner may read it: it may contain the token
        written.replace(path)
    except OSError as exc:
        raise RoostError("settings_invalid", name="config", value=str(path), reason=system_reason(exc)) from exc


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """An empty variable counts as not set, because shells and container files often leave such variables."""
    named = {name: environ.get(f"ROOST_{name.upper()}") for name in SETTINGS}
    return _checked({name: value for name, value in named.items() if value})


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values:
        if name not in SETTINGS:
            raise RoostError("settings_invalid", name=name, value=values[name], reason=_unknown(name))
    return {name: SETTINGS[name].read(value) for name, value in values.items()}


def _unknown(name: str) -> Text:
    close = difflib.get_close_matches(name.lower().replace("-", "_"), SETTINGS, n=1)
    if not close:
        return Text("reason.settings.no_such_setting")
    return Text("reason.settings.no_such_setting_did_you_mean", close=close[0])


def read_config(path: Path) -> dict[str, Any]:
    """The checked values of a TOML file. Raises ``settings_invalid`` if it cannot be read or has an unknown key."""
    try:
        return _checked(parse_toml(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise RoostError("settings_invalid", name="config", value=str(path), reason=system_reason(exc)) from exc
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError both are
        raise RoostError("settings_invalid", name="config", value=str(path), reason=str(exc)) from exc


def parse_toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10; remove when 3.11 is the oldest supported version
        import tomli as tomllib
    return dict(tomllib.loads(text))
