import threading
import time

from webapp.web.chat.news import ChatNews


def test_a_waiter_wakes_for_its_topic_only():
    news, woken = ChatNews(), threading.Event()
    seen = {"mine": news.number("mine")}
    thread = threading.Thread(target=lambda: (news.wait(seen, 60), woken.set()))
    thread.start()
    news.publish("other")
    assert not woken.wait(0.1)
    news.publish("mine")
    assert woken.wait(30)
    thread.join()


def test_what_came_before_the_wait_is_not_missed():
    news = ChatNews()
    seen = {"mine": news.number("mine")}
    news.publish("mine")
    began = time.monotonic()
    news.wait(seen, 60)
    assert time.monotonic() - began < 30
