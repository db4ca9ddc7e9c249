"""The cache of file data: valid until a file changes, with a limited number of tensors."""

from pathlib import Path

import pytest

from tests.weights.make_checkpoints import write_checkpoint
from webapp.errors import WeightsError
from webapp.manager.library import SeenFiles
from webapp.weights.inspection import inspect

PATHS = [Path(f"{name}.pth") for name in "abcd"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return inspect_new(tmp_path_factory.mktemp("files"))


def inspect_new(folder, name="x.safetensors"):
    write_checkpoint(folder / name, "7", n_layer=1, n_embd=64, vocab_size=256)
    return inspect(folder / name)


def test_a_file_is_remembered_until_it_changes(found):
    seen = SeenFiles()
    seen.put(PATHS[0], (1, 1), found)
    assert seen.get(PATHS[0], (1, 1)) is found and seen.get(PATHS[0], (2, 1)) is None


def test_what_was_not_asked_for_longest_goes_first(found):
    seen = SeenFiles(most_tensors=2 * len(found.tensors))
    for path in PATHS[:2]:
        seen.put(path, (1, 1), found)
    seen.get(PATHS[0], (1, 1))
    seen.put(PATHS[2], (1, 1), found)
    assert [path in seen for path in PATHS] == [True, False, True, False]


def test_a_file_seen_again_counts_once(found):
    seen = SeenFiles(most_tensors=2 * len(found.tensors))
    for stamp in range(5):
        seen.put(PATHS[0], (stamp, 1), found)
    seen.put(PATHS[1], (1, 1), found)
    seen.forget(lambda path: path == PATHS[1])
    seen.put(PATHS[2], (1, 1), found)
    assert [path in seen for path in PATHS] == [True, False, True, False]


def test_the_newest_is_kept_however_large_and_errors_weigh_nothing(found):
    seen = SeenFiles(most_tensors=1)
    seen.put(PATHS[0], (1, 1), WeightsError("file_empty", path="a"))
    seen.put(PATHS[1], (1, 1), found)
    assert seen.get(PATHS[1], (1, 1)) is found


def test_models_of_one_family_share_the_names_and_shapes_of_their_tensors(tmp_path):
    one, other = inspect_new(tmp_path, "a.safetensors"), inspect_new(tmp_path, "b.pth")
    names = {info.name: info for info in other.tensors}
    assert all(info.name is names[info.name].name and info.shape is names[info.name].shape for info in one.tensors)
