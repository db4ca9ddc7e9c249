"""A new page is a blueprint, a template, a row of PAGES, a row of the roles and its texts; nothing else refers to
it."""

import re

import pytest
from flask import Blueprint
from jinja2 import ChoiceLoader, DictLoader

from tests.web.apps import open_app
from webapp.i18n import translation
from webapp.settings import Settings
from webapp.web import app as app_module
from webapp.web.chat.live import ChatContext
from webapp.web.kit.page import PageContext, current_page, render_page
from webapp.web.roles import ENDPOINTS, Role

BASE = "http://127.0.0.1"
TEMPLATE = '{% extends "pages.html" %}{% block page %}<h1 data-toys>{{ page_title }}</h1>{% endblock %}'


@pytest.fixture
def client(monkeypatch, tmp_path):
    blueprint = Blueprint("toys", __name__, url_prefix="/toys")
    blueprint.get("")(index)
    monkeypatch.setattr(app_module, "PAGES", (*app_module.PAGES, (blueprint, "toys.title", "boxes")))
    monkeypatch.setitem(ENDPOINTS, "toys.index", Role.GUEST)
    for locale, word in (("en", "Toys"), ("zh", "玩具")):
        monkeypatch.setitem(translation.catalogue().texts[locale], "toys.title", word)
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path, strategy="fake")
    with open_app(settings) as app:
        app.jinja_env.loader = ChoiceLoader([app.jinja_env.loader, DictLoader({"toys/page.html": TEMPLATE})])
        yield app.test_client()


def index():
    return render_page("toys/page.html", {"page_title": current_page().t("toys.title")})


def test_a_new_page_is_in_the_shell_and_in_every_rail(client):
    for locale, word in (("en", "Toys"), ("zh", "玩具")):
        page = client.get(f"/toys?lang={locale}", base_url=BASE).get_data(as_text=True)
        assert f"<h1 data-toys>{word}</h1>" in page
        for path in ("/", "/presets"):
            shown = client.get(f"{path}?lang={locale}", base_url=BASE).get_data(as_text=True)
            assert 'href="/toys"' in shown and word in shown


def test_a_browser_asks_for_no_script_style_or_icon_again(client):
    page = client.get("/toys", base_url=BASE).get_data(as_text=True)
    files = set(re.findall(r'"(/static/[^"#]+)', page))
    assert {path.rpartition(".")[2] for path in files} >= {"css", "js", "svg"}
    kept = {path: client.get(path, base_url=BASE).headers["Cache-Control"] for path in files}
    assert {path: told for path, told in kept.items() if "immutable" not in told} == {}


def test_without_a_row_of_the_roles_it_is_the_owners(client, monkeypatch):
    assert client.get("/toys", base_url=BASE).status_code == 200
    monkeypatch.delitem(ENDPOINTS, "toys.index")
    assert client.get("/toys", base_url=BASE).status_code == 403


def test_a_page_has_every_service_it_names_and_none_hides_what_is_its_own(client):
    services = set(client.application.extensions)
    assert set(PageContext.__annotations__) - services == set()
    assert services & set(dir(ChatContext)) == set()
