"""The server's log: limited in size, without secrets, and clients cannot fill it."""

import logging
import stat
import sys
from pathlib import Path

import pytest

from webapp.cli.serve import LOG_NAME, OLDER_FILES, WARNINGS_AT_ONCE, SafeFormatter, ServerLog
from webapp.settings import Settings

TOKEN = "a-token-for-tests"
log = logging.getLogger("webapp.test_logs")


@pytest.fixture
def kept(tmp_path):
    """Starts a log and returns a function that reads everything written to its files."""
    root = logging.getLogger()
    level = root.level

    def begin(*secrets, data_dir=tmp_path, **settings):
        ServerLog(Settings(data_dir=data_dir, **settings)).keep(*secrets)
        return lambda: "".join(path.read_text("utf-8") for path in sorted(tmp_path.glob(f"{LOG_NAME}*")))

    yield begin
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, SafeFormatter)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def test_it_stays_within_its_size(kept, tmp_path):
    kept(log_file_bytes=2000, log_level="info")
    for number in range(1000):
        log.info("line %d", number)
    sizes = [path.stat().st_size for path in Path(tmp_path).glob(f"{LOG_NAME}*")]
    assert len(sizes) == OLDER_FILES + 1 and max(sizes) <= 2000
    assert "line 999" in (tmp_path / LOG_NAME).read_text()


def test_no_file_is_written_for_a_size_of_0(kept, tmp_path):
    kept(log_file_bytes=0)
    log.error("a fault")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_only_the_owner_reads_it(kept, tmp_path):
    kept()
    assert stat.S_IMODE((tmp_path / LOG_NAME).stat().st_mode) == 0o600


def test_no_secret_is_written(kept, capsys):
    read = kept("made-up-at-the-start", token=TOKEN)
    log.warning("%s and made-up-at-the-start", TOKEN)
    log.warning("GET /?token=another&x=1 Cookie: roost_token_8000=third; Authorization: Bearer fourth")
    try:
        raise ValueError(f"X-Api-Key: fifth of {TOKEN}")
    except ValueError:
        log.exception("failed")
    for written in (read(), capsys.readouterr().err):
        assert "GET /?token=…&x=1" in written and "ValueError" in written
        assert not [word for word in (TOKEN, "made-up", "another", "third", "fourth", "fifth") if word in written]


def test_the_same_warning_does_not_fill_it(kept, monkeypatch):
    read = kept()
    for number in range(1000):
        if number == 999:
            monkeypatch.setattr("webapp.web.peer.time.monotonic", lambda: 1e9)  # much later
        log.warning("again %d", number)
    log.warning("another")
    lines = read().splitlines()
    assert len(lines) == WARNINGS_AT_ONCE + 2
    assert "again 999 (and 989 more like this)" in lines[-2] and "another" in lines[-1]


def test_a_file_that_cannot_be_written_is_said_and_no_reason_to_stop(kept, tmp_path, capsys):
    kept(data_dir=tmp_path / "missing")
    log.warning("still logged")
    assert "missing" in (written := capsys.readouterr().err) and "still logged" in written
