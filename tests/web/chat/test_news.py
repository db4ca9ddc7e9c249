import threading
import time

import pytest

from webapp.web.chat import live
from webapp.web.chat.live import ChatNews, chat_topic
from webapp.web.chat.viewer import IDLE_WAIT_S, Viewer


def test_a_listener_hears_of_every_topic_until_it_is_forgotten():
    news, first, second = ChatNews(), [], []
    news.listen(first.append)
    news.listen(second.append)
    news.publish("mine")
    assert first == second == [("mine",)]
    news.forget(second.append)
    news.publish("mine", "other")
    assert (first, second) == ([("mine",), ("mine", "other")], [("mine",)])


def test_a_page_is_not_woken_by_news_for_other_pages(roost):
    with roost.app.test_request_context():
        viewer = Viewer(roost.app, "en", lambda text: None)
    viewer.open("", [])
    viewer._wake.clear()
    viewer._hear_news([chat_topic("another")])
    assert not viewer._wake.is_set()
    viewer._hear_news([chat_topic("another"), viewer.page.list_topic])
    assert viewer._wake.is_set()


def test_a_topic_has_another_number_after_each_publication():
    news = ChatNews()
    numbers = [news.number("mine")]
    for topics in (["mine"], ["other", "mine"]):
        news.publish(*topics)
        numbers.append(news.number("mine"))
    news.publish("other")
    assert len(set(numbers)) == 3 and news.number("mine") == numbers[-1]


def test_of_any_number_of_chats_the_last_are_remembered_and_none_is_missed(monkeypatch):
    monkeypatch.setattr(live, "MAX_TOPICS", 10)
    news = ChatNews()
    news.publish("old")
    seen_before = news.number("early")
    for number in range(100):
        news.publish(f"chat:{number}")
    assert len(news._numbers) == 10
    seen = news.number("old")
    news.publish("old")
    assert news.number("old") != seen and news.number("early") != seen_before


def test_due_news_of_the_list_do_not_wait_for_the_next_news(roost, monkeypatch):
    """Once, a page got them 15 s later: it had checked a moment before the list could be rendered again."""
    monkeypatch.setattr("webapp.web.chat.viewer.LIST_INTERVAL_S", IDLE_WAIT_S)
    with roost.app.test_request_context():
        viewer = Viewer(roost.app, "en", lambda text: None)
    assert viewer.idle_s == IDLE_WAIT_S, "it is not open"
    viewer.open("", [], has_list=True)
    assert viewer.idle_s == IDLE_WAIT_S
    viewer._list_rendered_at = time.monotonic() - IDLE_WAIT_S / 2
    viewer.page.news.publish(viewer.page.list_topic)
    assert 0 < viewer.idle_s <= IDLE_WAIT_S / 2
    viewer._list_rendered_at -= IDLE_WAIT_S
    assert viewer.idle_s == 0


def test_a_commands_frames_are_sent_even_if_updating_the_page_fails(roost, monkeypatch):
    sent = []
    with roost.app.test_request_context():
        viewer = Viewer(roost.app, "en", sent.append)
        telling = threading.Thread(target=viewer.frame, kwargs={"type": "accepted"})

        def show_chat():
            telling.start()
            # it waits for the lock; without the lock it would be finished, and its frame among the unsent ones
            telling.join(0.1)
            raise RuntimeError("the reading broke")

        monkeypatch.setattr(viewer, "_show_chat", show_chat)
        viewer.open("", [])
        with pytest.raises(RuntimeError), viewer._lock:
            viewer._bring_up_to_date()
        telling.join(60)
    assert '{"type": "accepted"}' in sent
