"""A document dropped on the states page, the chat that starts from it, and the views of both states."""

import pytest

from tests.browser.acting import ask, expect
from tests.web.chat.running_roost import RunningRoost, fake_strategy
from tests.weights.make_checkpoints import write_checkpoint
from tests.wording import text

NAME = "roost-starter-v7.safetensors"


@pytest.fixture
def roost(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    write_checkpoint(folder / NAME, "7", n_layer=6, n_embd=192, head_size=64, vocab_size=65536)
    roost = RunningRoost(tmp_path / "data", fake_strategy(), models_dir=folder)
    yield roost
    roost.stop()


def test_a_document_is_dropped_read_and_begun_from_and_the_chats_state_is_looked_into(roost, visit, tmp_path):
    (tmp_path / "cats.md").write_text("# Cats\n\nThe cat is called Tom.")
    page = visit(f"{roost.url}/states")
    page.set_input_files("#bake-file", str(tmp_path / "cats.md"))
    page.locator("#bake form[action='/states/bake'] button").click()
    page.locator(".job[data-status=done]").wait_for()
    row = page.locator(".state-row", has_text="cats.safetensors")
    row.get_by_role("link", name=text("states.prefix.chat"), exact=True).first.click()
    page.wait_for_selector("#state option[value='cats.safetensors']:checked", state="attached")

    ask(page, "What is the cat called?")
    page.locator("#chat-state button").click()
    expect(page, "#state-view svg.heat").to_have_count(2)
    expect(page, "#state-view").to_have_attribute("data-layers", "6")
    page.select_option("#field-with", "cats.safetensors")
    page.locator(".state-compare button").click()
    page.get_by_text(text("states.view.apart", name="cats.safetensors")).first.wait_for()
