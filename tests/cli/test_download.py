"""`roost download` with a local hub."""

from __future__ import annotations

import json

import pytest

from tests.services.downloads.hub_server import HubServer, answer
from tests.services.library.library_folder import good_bytes, tree
from webapp.cli import main


@pytest.fixture
def hub():
    hub = HubServer({"tiny.safetensors": good_bytes()})
    yield hub
    hub.close()


@pytest.fixture
def download(hub, tmp_path, capsys):
    """download(*arguments) -> (exit code, stdout, stderr)."""

    def download(*arguments):
        places = ("--models", str(tmp_path / "models"), "--data", str(tmp_path / "data"), "--hub-url", hub.url)
        code = main(["download", *arguments, *places])
        said = capsys.readouterr()
        return code, said.out, said.err

    (tmp_path / "models").mkdir()
    return download


def test_a_file_of_a_repository_is_downloaded(download, tmp_path):
    code, out, _ = download("someone/models/tiny.safetensors", "--json")
    assert code == 0 and json.loads(out)["name"] == "tiny.safetensors"
    assert tree(tmp_path / "models") == ["tiny.safetensors"]


def test_a_failure_names_its_code_and_the_same_command_continues(download, hub, tmp_path):
    hub.behaviours = [lambda handler: hub.send(handler, cut=40_000), answer(403)]
    code, _, err = download("someone/models/tiny.safetensors")
    assert code != 0 and "127.0.0.1" in err
    assert download("someone/models/tiny.safetensors")[0] == 0
    assert hub.requests[-1][1]["range"] == "bytes=40000-"
    assert tree(tmp_path / "models") == ["tiny.safetensors"]


def test_a_wrong_checksum_keeps_nothing(download, tmp_path):
    assert download("someone/models/tiny.safetensors", "--sha256", "0" * 64)[0] != 0
    assert "tiny.safetensors" not in tree(tmp_path / "models")


@pytest.mark.parametrize("sha256", ["0" * 63, "g" * 64])
def test_an_invalid_checksum_is_refused_before_the_download(download, hub, sha256):
    code, _, err = download("someone/models/tiny.safetensors", "--sha256", sha256)
    assert code == 2 and sha256 in err and hub.requests == []


def test_without_a_name_it_lists_and_contacts_no_host(download, hub):
    code, out, _ = download()
    assert code == 0 and "rwkv7-g1k-1.5b-20260930-ctx25600.pth" in out and hub.requests == []
    listed = json.loads(download("--json")[1])
    assert "rwkv7-g1k-1.5b-20260930-ctx25600.pth" in [row["file"] for row in listed] and hub.requests == []
