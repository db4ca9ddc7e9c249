import os
import subprocess
import sys

import pytest

from tests.errors import raises_code
from webapp.errors import StorageError
from webapp.storage.database import Claim

HOLDER = """
import sys
from pathlib import Path
from webapp.storage.database import Claim
claim = Claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_at_a_time(tmp_path):
    first = Claim(tmp_path / "roost.db")
    with raises_code("data_folder_in_use") as caught:
        Claim(tmp_path / "roost.db")
    assert caught.value.params["path"] == str(tmp_path)
    first.release()
    first.release()
    Claim(tmp_path / "roost.db").release()


def test_a_killed_process_holds_it_no_longer(tmp_path):
    path = tmp_path / "roost.db"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd()) as holder:
        assert holder.stdout.readline().strip() == b"held"
        with raises_code("data_folder_in_use"):
            Claim(path)
        holder.kill()
        holder.wait()
        Claim(path).release()


def test_a_folder_that_is_not_there_is_another_error(tmp_path):
    with pytest.raises(StorageError) as caught:
        Claim(tmp_path / "no" / "roost.db")
    assert caught.value.code != "data_folder_in_use"
