"""Roost below a path, behind a proxy that removes the path or does not."""

import json
import re
import urllib.error
import urllib.request

import pytest

from tests.errors import raises_code
from tests.web.chat.running_roost import RunningRoost, fake_strategy
from webapp.resources import resource_dir
from webapp.web.peer import TrustedProxies

BASE = "/roost"
LINK = re.compile(r'(?:href|src|action|formaction|hx-get|hx-post|hx-put|hx-delete|ws-connect)="(/[^"]*)"')
PAGES = [
    "/",
    "/presets",
    "/presets/new",
    "/models",
    "/states",
    "/tools",
    "/tools/new",
    "/tools/servers",
    "/tools/bench",
    "/measure",
    "/docs",
]
PAGES += ["/jobs", "/convert", "/people", "/status/strip", "/nothing-here"]


@pytest.fixture(scope="module")
def roost(tmp_path_factory):
    roost = RunningRoost(tmp_path_factory.mktemp("roost"), fake_strategy(), base_path=BASE)
    yield roost
    roost.stop()


def page_of(roost, path):
    try:
        return roost.get(path)
    except urllib.error.HTTPError as exc:
        return exc.read().decode()


@pytest.mark.parametrize("prefix", ["", BASE])
def test_every_link_of_every_page_is_below_the_path(roost, prefix):
    chat_id = roost.answered("See [this](/models)")
    for path in (*PAGES, f"/chat/{chat_id}"):
        links = LINK.findall(page_of(roost, prefix + path))
        astray = [link for link in links if not link.startswith(BASE + "/") or link.startswith(BASE + BASE)]
        assert (path, astray) == (path, [])
    assert f'data-base="{BASE}"' in roost.get(prefix + "/")


def test_redirects_and_typed_text_stay_right(roost):
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *given):
            return None

    opener = urllib.request.build_opener(Stay)
    body = b"do=send&chat=&text=href%3D%22%2Fmodels%22"
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(roost.request("/chat/do", body, Origin=roost.url))
    place = caught.value.headers["Location"]
    assert place.startswith(f"{BASE}/chat/")
    assert 'href="/models"' in roost.get(place).replace("&#34;", '"')


@pytest.mark.parametrize("prefix", ["", BASE])
def test_a_body_for_the_api_has_the_apis_limit_whether_or_not_the_path_is_cut_off(tmp_path, prefix):
    roost = RunningRoost(tmp_path, fake_strategy(), base_path=BASE, max_body_bytes=20_000)
    # more than arrives with the headers, so that its size is checked before it has arrived
    body = json.dumps({"content": "word " * 100_000}).encode()
    with urllib.request.urlopen(roost.request(f"{prefix}/tokenize", body, Content_Type="application/json")) as answer:
        assert len(json.loads(answer.read())["tokens"]) >= 100_000
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(roost.request(f"{prefix}/chat/do", body, Origin=roost.url))
    assert caught.value.code == 413
    roost.stop()


def test_without_a_path_links_are_as_they_were(tmp_path):
    roost = RunningRoost(tmp_path, fake_strategy())
    page = roost.get("/")
    roost.stop()
    assert 'data-base=""' in page and 'href="/models"' in page and 'ws-connect="/ws/chat"' in page


@pytest.mark.parametrize("path", ["roost", "/a b", "//x", "/../x", "/a?b"])
def test_what_is_no_path_is_refused(path):
    with raises_code("settings_invalid"):
        TrustedProxies((), path)


def test_scripts_ask_for_addresses_below_the_path():
    static = resource_dir("static")
    for path in (static / "chat.js", *static.glob("js/*.js")):
        code = re.sub(r"^ *//.*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        astray = [found[0] for found in re.finditer(r"""(?<!at\()["'`]/[a-z][^"'`]*""", code)]
        assert (path.name, astray) == (path.name, [])
