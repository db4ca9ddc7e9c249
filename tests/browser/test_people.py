"""A household with four browsers: the owner, two guests with one link, and an account."""

import pytest

from tests.browser.acting import ask, expect, wait_ready
from tests.web.chat.running_roost import PAGE, RunningRoost, fake_strategy

CHATS = "#chat-list a[href^='/chat/']"
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def shared_roost(tmp_path, says):
    """A server that requires proof, like a shared one, with a given answer."""
    roost = RunningRoost(tmp_path / "data", fake_strategy("x"), token="a-token-for-tests")
    yield roost
    roost.stop()


def new_link(page, **form):
    """Created by the owner."""
    page.fill("#link-name", form.pop("name", ""))
    for name, value in form.items():
        page.select_option(f".link-form [name={name}]", value)
    page.click(".link-form button")
    page.wait_for_selector("#new-link .qr")
    return page.get_attribute("#new-link", "data-link")


def come_in(page, **form):
    for name, value in form.items():
        page.fill(f"[name={name}]", value)
    page.click("button")
    wait_ready(page)


def test_a_household_keeps_its_chats_apart_and_a_link_is_taken_back_at_once(shared_roost, visit, says):
    says(" Birds perch on wires.")
    url = shared_roost.url
    owner = visit(f"{url}/people")
    link = new_link(owner, name="Family", uses="5")
    anna, ben = (visit(link, is_owner=False, viewport=size) for size in (None, PHONE))
    come_in(anna, name="Anna")
    come_in(ben, name="Ben")
    carl = visit(new_link(owner, kind="user"), is_owner=False)
    come_in(carl, name="Carl", password="correct horse")
    home = visit(url, beside=owner)
    everybody = {"Anna": anna, "Ben": ben, "Carl": carl, "Owner": home}
    for name, page in everybody.items():
        ask(page, f"A question of {name}")
        page.wait_for_url(f"{url}/chat/*")
    for name, page in everybody.items():
        expect(page, CHATS).to_have_text([f"A question of {name}"])
        for other, theirs in everybody.items():
            chat, home = (page.request.get(address, headers=PAGE) for address in (theirs.url, url))
            assert chat.status == (200 if other == name else 404)
            for answer in (chat, home):
                assert (f"A question of {other}" in answer.text()) is (other == name)

    owner.goto(f"{url}/people")
    expect(owner, ".people > .row").to_have_count(4)
    expect(owner, ".people > .row >> nth=0").to_have_attribute("data-person", "owner")
    expect(owner, ".people > [data-person=guest]").to_have_count(2)
    expect(owner, ".people > [data-person=user]").to_have_count(1)
    anna.expected += ["WebSocket", "401"]
    ben.expected += ["WebSocket", "401"]
    owner.click("#links [data-invitation]:has-text('Family') [action$='/revoke'] button")
    owner.wait_for_selector("[data-revoked]")
    for page in (anna, ben):
        page.wait_for_selector("body:not(.is-live)")
        page.goto(url)
        page.wait_for_selector("[name=token]")
    expect(owner, "[data-revoked]").to_have_count(2)

    ask(carl, "Once more")
    carl.goto(f"{url}/people")
    carl.expected.append("401")
    carl.click("[action$='/people/leave'] button")
    carl.wait_for_selector("[name=token]")
    come_in(carl, name="carl", password="correct horse")
    expect(carl, CHATS).to_have_text(["A question of Carl"])
