"""A household in four browsers: the owner, two guests by one link, and an account."""

import pytest

from tests.browser.acting import ask, until_true, wait_ready
from tests.web.chat.running_roost import RunningRoost, fake_strategy

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def shared_roost(tmp_path, says):
    """One that asks for proof, as a shared one does; it says what it is told to."""
    roost = RunningRoost(tmp_path / "data", fake_strategy("x"), token="a-token-for-tests")
    yield roost
    roost.stop()


def new_link(page, **form):
    """As the owner makes it."""
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


def titles(page):
    return [title.strip() for title in page.locator("#chat-list a[href^='/chat/']").all_inner_texts()]


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

    addresses = {}
    for name, page in everybody.items():
        page.goto(url)
        wait_ready(page)
        until_true(page, lambda page=page: len(titles(page)) == 1)
        assert titles(page) == [f"A question of {name}"]
        addresses[name] = page.get_attribute("#chat-list a[href^='/chat/']", "href")
    for name, page in everybody.items():
        page.expected.append("404")
        for other, address in addresses.items():
            page.goto(url + address)
            assert (f"A question of {other}" in page.content()) is (other == name)
        page.goto(url + addresses[name])
        wait_ready(page)

    owner.goto(f"{url}/people")
    rows = owner.locator(".people > .row")
    kinds = [rows.nth(place).get_attribute("data-person") for place in range(rows.count())]
    assert kinds[0] == "owner" and sorted(kinds[1:]) == ["guest", "guest", "user"]
    anna.expected += ["WebSocket", "401"]
    ben.expected += ["WebSocket", "401"]
    owner.click("#links [data-invitation]:has-text('Family') [action$='/revoke'] button")
    owner.wait_for_selector("[data-revoked]")
    for page in (anna, ben):
        page.wait_for_selector("body:not(.is-live)")
        page.goto(url)
        page.wait_for_selector("[name=token]")
    assert owner.locator("[data-revoked]").count() == 2

    assert carl.locator("body.is-live").count() == 1
    ask(carl, "Once more")
    carl.goto(f"{url}/people")
    carl.expected.append("401")
    carl.click("[action$='/people/leave'] button")
    carl.wait_for_selector("[name=token]")
    come_in(carl, name="carl", password="correct horse")
    assert titles(carl) == ["A question of Carl"]
