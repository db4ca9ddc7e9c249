"""The models page in a browser: files are uploaded in slices, the page follows the folder, actions can be undone."""

import pytest

from tests.browser.acting import expect, until, until_true
from tests.services.library.library_folder import good_bytes, torn_bytes
from tests.web.chat.running_roost import RunningRoost
from tests.wording import error_text, text


@pytest.fixture
def roost(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "here.safetensors").write_bytes(good_bytes())
    roost = RunningRoost(tmp_path / "data", "fake", models_dir=folder, max_body_bytes=len(good_bytes()) // 3)
    roost.folder = folder
    yield roost
    roost.stop()


def row(page, name):
    return page.locator(".model-row", has_text=name)


def choose(page, path):
    page.set_input_files("#models-files", str(path))


def test_a_file_is_uploaded_in_slices_although_one_is_lost(roost, visit, tmp_path):
    (tmp_path / "new.safetensors").write_bytes(good_bytes())
    page = visit(f"{roost.url}/models")
    page.expected.append("Failed to load resource")
    sent = []

    def one_is_lost(route):
        sent.append(route.request.url)
        route.abort() if len(sent) == 2 else route.continue_()

    page.route("**/models/uploads/*", one_is_lost)
    choose(page, tmp_path / "new.safetensors")
    page.get_by_text("new.safetensors uploaded.").wait_for()
    row(page, "new.safetensors").get_by_role("button", name="Load new.safetensors").wait_for()
    assert (roost.folder / "new.safetensors").read_bytes() == good_bytes()  # it is listed when it is complete
    assert len(sent) >= 7 and sent[1] == sent[2]


def test_what_is_refused_says_why_and_what_is_cancelled_leaves_nothing(roost, visit, tmp_path):
    (tmp_path / "half.safetensors").write_bytes(torn_bytes())
    (tmp_path / "new.safetensors").write_bytes(good_bytes())
    page = visit(f"{roost.url}/models")
    page.expected.append("Failed to load resource")
    choose(page, tmp_path / "half.safetensors")
    page.get_by_text(error_text("file_truncated", path="half.safetensors", reason="")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.route("**/models/uploads/*offset=*", lambda route: route.abort())
    choose(page, tmp_path / "new.safetensors")
    page.get_by_text(text("models.upload.retrying")).wait_for()
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.get_by_role("button", name="Cancel").click()
    expect(page, "#uploads").to_be_hidden()
    until_true(page, lambda: [path.name for path in roost.folder.iterdir()] == ["here.safetensors"])


def test_a_folder_is_uploaded_as_one_model_chosen_or_dropped(roost, visit, tmp_path):
    folder = tmp_path / "RWKV7-tiny"
    (folder / ".cache").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(good_bytes())
    (folder / ".cache" / "junk.safetensors").write_bytes(b"x")
    page = visit(f"{roost.url}/models")
    page.set_input_files("#models-folder", str(folder))
    row(page, "RWKV7-tiny").get_by_role("button", name="Load RWKV7-tiny").wait_for()
    assert sorted(path.name for path in (roost.folder / "RWKV7-tiny").iterdir()) == ["config.json", "model.safetensors"]


def test_the_page_follows_the_folder_and_the_model(roost, visit):
    page = visit(f"{roost.url}/models")
    (roost.folder / "copied.safetensors").write_bytes(good_bytes())
    row(page, "copied.safetensors").wait_for()
    row(page, "copied.safetensors").get_by_role("button", name="Load").click()
    row(page, "copied.safetensors").get_by_text(text("models.phase.loaded")).wait_for()
    page.locator("#strip", has_text="copied.safetensors").wait_for()
    row(page, "copied.safetensors").get_by_role("button", name="Unload").click()
    row(page, "copied.safetensors").get_by_role("button", name="Load copied.safetensors").wait_for()


def test_deleted_and_taken_back_with_the_keyboard(roost, visit):
    page = visit(f"{roost.url}/models")
    row(page, "here.safetensors").get_by_role("button", name=text("models.menu", name="here.safetensors")).focus()
    page.keyboard.press("Enter")
    until(page, "document.activeElement.closest('.row-menu')")  # the open menu has the focus
    page.get_by_role("button", name="Delete").focus()
    page.keyboard.press("Enter")
    page.get_by_text(text("models.said.deleted", name="here.safetensors")).wait_for()
    row(page, "here.safetensors").wait_for(state="detached")
    assert not (roost.folder / "here.safetensors").exists()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text(text("models.said.restored", name="here.safetensors")).wait_for()
    assert (roost.folder / "here.safetensors").read_bytes() == good_bytes()


def test_imported_by_path_from_the_dialog(roost, visit, tmp_path):
    (tmp_path / "far.safetensors").write_bytes(good_bytes())
    page = visit(f"{roost.url}/models")
    page.get_by_role("button", name=text("models.import.button")).click()
    page.get_by_label(text("models.import.path")).fill(str(tmp_path / "none.pth"))
    page.get_by_role("button", name="Import", exact=True).click()
    page.get_by_text(error_text("file_not_found", path=str(tmp_path / "none.pth"))).wait_for()
    page.get_by_label(text("models.import.path")).fill(str(tmp_path / "far.safetensors"))
    page.get_by_role("button", name="Import", exact=True).click()
    row(page, "far.safetensors").wait_for()
    page.locator("#import-dialog").wait_for(state="hidden")


def test_tensors_come_when_a_block_is_opened(roost, visit):
    page = visit(f"{roost.url}/models/here.safetensors")
    page.get_by_text("Block 0").click()
    page.get_by_text("blocks.0.att.key.weight").wait_for()
