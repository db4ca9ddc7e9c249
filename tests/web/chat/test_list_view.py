from datetime import datetime, timedelta

from tests.wording import says
from webapp.storage.records import ChatSummary
from webapp.web.chat.views import HITS, by_age, excerpt_parts


def test_chats_are_grouped_by_the_calendar_not_by_hours():
    now = datetime(2026, 3, 1, 0, 30)
    times = [now, now - timedelta(hours=1), now - timedelta(hours=26)]
    rows = [ChatSummary(str(i), "", 0, when.timestamp()) for i, when in enumerate(times)]
    found = {age: [row.id for row in group] for age, group in by_age(rows, now.timestamp()).items()}
    assert found == {"today": ["0"], "yesterday": ["1"], "earlier": ["2"]}


def test_an_excerpt_is_cut_at_its_matches():
    parts = excerpt_parts("a bird sings", ((2, 6),))
    assert parts == [("a ", False), ("bird", True), (" sings", False)]
    assert excerpt_parts("bird", ((0, 4),)) == [("bird", True)]


def test_a_search_that_finds_more_than_it_shows_says_so(roost):
    for number in range(HITS + 1):
        roost.store.create(title=f"Capercaillie {number}")
    found = roost.get("/chats?q=capercaillie", **{"HX-Request": "true"})
    assert says(found, "chat.list.found_newest", count=HITS) and found.count('class="hit"') == HITS
    one = roost.get(f"/chats?q=capercaillie+{HITS}", **{"HX-Request": "true"})
    assert says(one, "chat.list.found", count=1)
