"""The page and its fragment use the same context, in the user's language."""

import pytest
from flask import Flask
from jinja2 import DictLoader

from webapp.settings import Settings
from webapp.web.kit import page

TEMPLATES = {
    "page.html": "<html lang={{ locale }}>{% include '_part.html' %}</html>",
    "_part.html": "<p id=part>{{ t('nav.chat') }} {{ name }}</p>",
}


@pytest.fixture
def app():
    app = Flask("fragments-test")
    app.jinja_loader = DictLoader(TEMPLATES)
    page.install(app, Settings())
    app.add_url_rule("/", "page", lambda: page.render_page("page.html", {"name": "ada"}, "_part.html"))
    app.add_url_rule("/only", "only", lambda: page.render_page("page.html", {"name": "<b>"}, status=422))
    return app


def test_a_browser_gets_the_page(app):
    response = app.test_client().get("/")
    assert response.text == "<html lang=en><p id=part>Chat ada</p></html>"
    assert {"HX-Request", "Accept-Language", "Cookie"} <= set(response.vary)


def test_htmx_gets_the_fragment(app):
    assert app.test_client().get("/", headers={"HX-Request": "true"}).text == "<p id=part>Chat ada</p>"


@pytest.mark.parametrize("header", ["HX-Boosted", "HX-History-Restore-Request"])
def test_htmx_gets_the_page_when_it_swaps_all(app, header):
    response = app.test_client().get("/", headers={"HX-Request": "true", header: "true"})
    assert response.text.startswith("<html")


def test_a_page_without_fragment_stays_whole_and_escapes(app):
    response = app.test_client().get("/only", headers={"HX-Request": "true"})
    assert response.status_code == 422 and "<html" in response.text and "&lt;b&gt;" in response.text


def test_half_a_character_pair_from_a_file_breaks_no_page(app):
    app.add_url_rule("/half", "half", lambda: page.render_page("page.html", {"name": "a\ud800"}))
    assert "Chat a\ufffd<" in app.test_client().get("/half").text


def test_a_chosen_language_is_remembered(app):
    client = app.test_client()
    assert "聊天" in client.get("/?lang=zh").text
    assert "聊天" in client.get("/", headers={"Accept-Language": "en"}).text
    assert "Chat" in client.get("/?lang=en").text and "Chat" in client.get("/?lang=xx").text


def test_the_browsers_language(app):
    assert "聊天" in app.test_client().get("/", headers={"Accept-Language": "zh-CN,zh"}).text


def test_a_thread_without_a_request_renders_for_a_known_reader(app):
    with app.app_context():
        assert "聊天" in page.render_fragment("_part.html", {"name": "x"}, locale="zh")
        assert "Chat" in page.render_fragment("_part.html", {"name": "x"})


def test_commands_in_an_errors_words_are_code_and_nothing_else_is_html():
    assert page.commands("`roost models` lists <b>") == "<code>roost models</code> lists &lt;b&gt;"
    assert page.commands("a ` alone") == "a ` alone"
