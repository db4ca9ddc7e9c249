"""The page for an old link or a mistyped address: the shell, in the user's language, with a link back."""

import json
import urllib.error
import urllib.request

import pytest

from tests.wording import text


def refused(roost, path, **headers):
    with pytest.raises(urllib.error.HTTPError) as caught:
        roost.get(path, **headers)
    return caught.value.code, caught.value.read().decode()


@pytest.mark.parametrize("path", ["/nothing/here", "/chat/gone", "/chat/gone/export.md", "/status/load"])
def test_a_page_that_is_not_there_keeps_the_shell_and_leads_back(roost, path):
    code, page = refused(roost, path)
    assert code in (404, 405)
    assert 'class="rail"' in page and 'id="strip"' in page and 'class="button button-main" href="/"' in page


def test_it_speaks_chinese(roost):
    _, page = refused(roost, "/nothing/here", **{"Accept-Language": "zh"})
    assert text("page.not_found", "zh") in page and text("page.not_found") not in page


def test_a_program_gets_the_error_as_json(roost):
    code, body = refused(roost, "/v1/nothing")
    assert code == 404 and json.loads(body)["error"]["type"] == "not_found_error"


def test_a_part_of_a_page_is_no_whole_page(roost):
    code, page = refused(roost, "/chat/gone/older", **{"HX-Request": "true"})
    assert code == 404 and 'class="rail"' not in page


def test_an_address_with_a_line_break_is_no_fault_of_ours(roost):
    code, _ = refused(roost, "/chat/a%0d%0ab/older")
    assert code == 404


@pytest.mark.parametrize("before", ["{url}//elsewhere.test/", "http://["])
def test_back_to_where_a_form_stood_never_leads_to_another_site(roost, before):
    headers = {"Origin": roost.url, "Referer": before.format(url=roost.url)}
    request = urllib.request.Request(f"{roost.url}/status/unload", b"", headers)
    with urllib.request.urlopen(request) as answer:
        assert answer.url == f"{roost.url}/"
