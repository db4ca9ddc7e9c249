"""Access by Host, Origin, Sec-Fetch headers, token and rate; and the form of a refusal."""

import time

import pytest
from flask import Flask

from tests.errors import raises_code
from tests.web.owner import install_guard
from tests.wording import text
from webapp.i18n import say
from webapp.services.access import LINK_LIFETIME_S
from webapp.settings import Settings
from webapp.web import guard as guard_module
from webapp.web.guard import current_role
from webapp.web.peer import RateLimit

HOME = "http://127.0.0.1:8000"
SOCKET = {"Upgrade": "websocket", "Connection": "Upgrade"}
TOKEN = "a-token-for-tests"


def make_app(**settings):
    app = Flask("guard-test", static_folder=None)
    install_guard(app, Settings(**{"requests_per_s": 1000, "request_burst": 1000, **settings}))
    app.add_url_rule("/", "chat.index", lambda: "page")
    app.add_url_rule("/v1/models", "api GET /v1/models", lambda: {"data": []})
    app.add_url_rule("/do", "chat.do", lambda: "done", methods=["POST"])
    app.add_url_rule("/ws", "chat_socket", lambda: "socket", websocket=True)
    app.add_url_rule("/switch-model", "api POST /switch-model", lambda: current_role().name, methods=["POST"])
    app.add_url_rule("/exit", "api POST /exit", lambda: current_role().name, methods=["POST"])
    return app


def ask(app, path="/", headers=None, method="GET", host="127.0.0.1:8000", address="127.0.0.1", **options):
    client = app.test_client(use_cookies=False)
    environ = {"REMOTE_ADDR": address, "SERVER_PORT": "8000"}
    return client.open(
        path, method=method, base_url=f"http://{host}", environ_overrides=environ, headers=headers, **options
    )


@pytest.fixture(scope="module")
def local():
    return make_app()


@pytest.fixture
def shared():
    return make_app(lan=True, token=TOKEN, allow_hosts=("my.example",))


def ask_from_afar(app, path="/", headers=None, **options):
    return ask(app, path, headers, host="192.0.2.7:8000", address="192.0.2.9", **options)


@pytest.mark.parametrize(
    "host, status",
    [
        ("127.0.0.1:8000", 200), ("localhost:8000", 200), ("LOCALHOST", 200), ("[::1]:8000", 200),
        ("evil.example:8000", 400), ("127.0.0.1.evil.example:8000", 400), ("localhost.evil.example", 400),
        ("192.168.1.5:8000", 400), ("[fe80::1]:8000", 400), ("", 400), ("localhost:8000@evil.example", 400),
        ("localhost:80:80", 400), ("local host", 400),
    ],
)  # fmt: skip
def test_host_list(local, host, status):
    assert ask(local, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200), ({"Origin": HOME}, 200), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8001"}, 403), ({"Origin": "http://localhost:8000"}, 403),
        ({"Origin": ""}, 403), ({"Origin": "https://127.0.0.1:8000"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200), ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403), ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 403),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_unsafe_methods_need_our_own_origin(local, headers, status, method):
    expected = 405 if (method, status) == ("DELETE", 200) else status
    assert ask(local, "/do", headers, method).status_code == expected


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 403), ({"Origin": HOME}, 200), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8001"}, 403), ({"Authorization": "Bearer x"}, 200),
        ({"Origin": "http://evil.example", "x-api-key": "x"}, 403),
    ],
)  # fmt: skip
def test_handshakes_need_our_own_origin(local, headers, status):
    assert ask(local, "/ws", {**SOCKET, **headers}).status_code == status


@pytest.mark.parametrize("kind, status", [("document", 200), ("empty", 403), ("image", 403), ("iframe", 403)])
def test_another_site_may_link_to_a_page_and_no_more(local, kind, status):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": kind}
    assert ask(local, headers=headers).status_code == status


def test_a_proxy_that_was_named_may_speak_https():
    app = make_app(allow_hosts=("my.example",))
    assert ask(app, "/do", {"Origin": "https://my.example"}, "POST", host="my.example").status_code == 200
    assert ask(app, "/do", {"Origin": "https://other.example"}, "POST", host="my.example").status_code == 403


@pytest.mark.parametrize("path", ["/", "/v1/models", "/static/app.css", "/nothing/here"])
@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.9"])
def test_every_path_needs_the_token_from_everyone(shared, path, address):
    assert ask(shared, path, address=address).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"bearer  {TOKEN} "}, {"x-api-key": TOKEN},
    ],
)  # fmt: skip
def test_ways_to_show_the_token(shared, headers):
    assert ask_from_afar(shared, "/v1/models", headers).status_code == 200
    assert ask_from_afar(shared, "/do", headers, method="POST").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong-token"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"}, {"x-api-key": TOKEN[:-1]}, {"Cookie": f"roost_token_8000={TOKEN}"},
        {"Cookie": f"roost_session_8000={TOKEN}"},
        {"x-api-key": "tökén"},
    ],
)  # fmt: skip
def test_what_is_not_the_token(shared, headers):
    assert ask_from_afar(shared, "/v1/models", headers).status_code == 401


def test_the_token_of_a_link_becomes_a_cookie_and_leaves_the_address(shared):
    response = ask_from_afar(shared, f"/?token={TOKEN}&lang=zh&q=a%26b")
    assert (response.status_code, response.location) == (303, "/?lang=zh&q=a%26b")
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("roost_session_8000=") and "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert TOKEN not in cookie and "Secure" not in cookie


def test_a_wrong_token_in_a_link_shows_the_form(shared):
    response = ask_from_afar(shared, "/?token=wrong-token")
    assert response.status_code == 401 and text("login.wrong") in response.text and "Set-Cookie" not in response.headers


def test_a_link_cannot_lead_to_another_site(shared):
    assert ask_from_afar(shared, f"//evil.example/x?token={TOKEN}").location in ("/", "/x")


def cookie_of(response):
    return response.headers["Set-Cookie"].partition(";")[0]


def guest(app):
    """Headers of a browser that has logged in with the token."""
    return {"Cookie": cookie_of(log_in(app, token=TOKEN))}


def owner(app, **where):
    """Headers of a browser that has opened an owner's link."""
    secret = app.extensions["guard"].proof.new_secret()
    return {"Cookie": cookie_of(ask(app, f"/open?secret={secret}", **where))}


def log_in(app, origin="http://192.0.2.7:8000", **form):
    return ask_from_afar(app, "/login", {"Origin": origin}, method="POST", data=form)


def test_the_form_logs_in_and_leads_back(shared):
    page = ask_from_afar(shared, "/?chat=5")
    assert page.status_code == 401 and 'name="next" value="/?chat=5"' in page.text
    response = log_in(shared, token=f" {TOKEN} ", next="/?chat=5")
    assert (response.status_code, response.location) == (303, "/?chat=5")
    assert ask_from_afar(shared, headers={"Cookie": cookie_of(response)}).status_code == 200


def test_the_form_is_checked_like_everything_else(shared):
    assert log_in(shared, origin="http://evil.example", token=TOKEN).status_code == 403
    assert log_in(shared, token="wrong-token").status_code == 401
    assert log_in(shared, token="x" * 10_000).status_code == 413
    for evil in ("//evil.example", "https://evil.example", "/\\evil.example", "x"):
        assert log_in(shared, token=TOKEN, next=evil).location == "/"


def test_the_form_escapes_the_address(shared):
    assert "<script>" not in ask_from_afar(shared, '/x"><script>').text


def test_the_form_brings_its_style_and_nothing_inline(shared):
    page = ask_from_afar(shared).text
    assert "/login/style.css" in page and "<style" not in page and "style=" not in page
    assert ask_from_afar(shared, "/login/style.css").mimetype == "text/css"


def test_pages_without_the_shell_take_the_theme_that_was_chosen(shared):
    for chosen, shown in (("dark", "dark"), ('"><script>', "")):
        page = ask_from_afar(shared, "/", headers={"Cookie": f"roost_theme={chosen}"}).text
        assert f'data-theme="{shown}"' in page
    assert "[data-theme=dark]" in ask_from_afar(shared, "/login/style.css").text


def test_a_server_without_token_has_no_login(local):
    assert ask(local, "/login").status_code == 404


def test_guessing_is_slowed_and_the_right_token_still_works(shared):
    session = guest(shared)
    wrong = {"Authorization": "Bearer wrong-token"}
    statuses = [ask_from_afar(shared, headers=wrong).status_code for _ in range(20)]
    assert statuses[0] == 401 and statuses[-1] == 429
    assert log_in(shared, token="wrong-token").status_code == 429
    assert ask_from_afar(shared, "/?token=wrong-token").status_code == 429
    assert ask_from_afar(shared, "/open?secret=wrong").status_code == 429
    assert log_in(shared, token=TOKEN).status_code == 303
    assert ask_from_afar(shared, f"/?token={TOKEN}").status_code == 303
    assert ask_from_afar(shared, headers={"x-api-key": TOKEN}).status_code == 200
    assert ask_from_afar(shared, headers=session).status_code == 200
    assert ask_from_afar(shared).status_code == 401, "who shows nothing is asked for the token"


def test_a_session_that_is_over_is_no_guess(shared):
    stale = {"Cookie": "roost_session_8000=of-last-year"}
    assert {ask_from_afar(shared, headers=stale).status_code for _ in range(30)} == {401}


def test_handshakes_need_the_token(shared):
    cookie, home = guest(shared), {"Origin": "http://192.0.2.7:8000"}
    assert ask_from_afar(shared, "/ws", {**SOCKET, **home}).status_code == 401
    assert ask_from_afar(shared, "/ws", {**SOCKET, **cookie, **home}).status_code == 200
    assert ask_from_afar(shared, "/ws", {**SOCKET, **cookie, "Origin": "http://evil.example"}).status_code == 403
    assert ask_from_afar(shared, "/ws", {**SOCKET, "Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert ask_from_afar(shared, f"/ws?token={TOKEN}", SOCKET).status_code == 403


def exit_as(app, **where):
    return lambda headers: ask(app, "/exit", headers, "POST", **where).status_code


def test_an_owners_link_works_once_and_makes_an_owner(shared):
    link = f"/open?secret={shared.extensions['guard'].proof.new_secret()}"
    first, second = ask_from_afar(shared, link), ask_from_afar(shared, link)
    assert (first.status_code, first.location) == (303, "/") and first.headers["Cache-Control"] == "no-store"
    assert second.status_code == 403 and "Set-Cookie" not in second.headers
    assert ask_from_afar(shared, "/exit", {"Cookie": cookie_of(first)}, method="POST").text == "OWNER"
    again = ask_from_afar(shared, link, {"Cookie": cookie_of(first)})
    assert (again.status_code, again.location) == (303, "/"), "the owner's own browser may open a used link"


def test_a_preview_of_a_link_does_not_use_it_up(shared):
    link = f"/open?secret={shared.extensions['guard'].proof.new_secret()}"
    ask_from_afar(shared, link, method="HEAD")
    assert ask_from_afar(shared, link).status_code == 303


def test_a_link_is_good_for_an_hour(shared, monkeypatch):
    link = f"/open?secret={shared.extensions['guard'].proof.new_secret()}"
    now = time.time()
    monkeypatch.setattr("webapp.services.access.time.time", lambda: now + LINK_LIFETIME_S + 1)
    assert ask_from_afar(shared, link).status_code == 403


def test_the_token_makes_no_owner(shared):
    as_guest = exit_as(shared, host="192.0.2.7:8000", address="192.0.2.9")
    assert as_guest({"x-api-key": TOKEN}) == as_guest(guest(shared)) == 403
    key = shared.extensions["guard"].proof.key_path.read_text().strip()
    assert as_guest({"Authorization": f"Bearer {key}"}) == as_guest({"x-api-key": key}) == 200
    assert ask(shared, "/exit", {"x-api-key": TOKEN}, "POST").get_json()["detail"], "spoken to as Runner's clients are"


def test_sessions_end(shared):
    sessions, cookies = shared.extensions["guard"].sessions, [guest(shared), owner(shared)]
    assert [ask_from_afar(shared, headers=cookie).status_code for cookie in cookies] == [200, 200]
    for session in sessions.list():
        sessions.end(session.key)
    assert [ask_from_afar(shared, headers=cookie).status_code for cookie in cookies] == [401, 401]


def test_another_token_ends_the_guests_sessions_and_not_the_owners(shared):
    cookies = [guest(shared), owner(shared)]
    shared.extensions["guard"].token = "another-token"
    assert [ask_from_afar(shared, headers=cookie).status_code for cookie in cookies] == [401, 200]


def test_logging_in_again_leaves_one_session(shared):
    first = guest(shared)
    log_in_again = ask_from_afar(shared, "/login", {**first, "Origin": "http://192.0.2.7:8000"}, method="POST",
                                 data={"token": TOKEN})  # fmt: skip
    assert log_in_again.status_code == 303 and len(shared.extensions["guard"].sessions.list()) == 1


def test_without_a_token_this_machine_may_do_what_runners_scripts_do(local):
    assert ask(local, "/switch-model", method="POST").text == "LOCAL"
    assert ask(local, "/exit", method="POST").status_code == 403
    assert ask(local, "/switch-model", {"Authorization": "Bearer none"}, "POST").text == "LOCAL"


@pytest.mark.parametrize("address", ["192.0.2.9", "::ffff:192.0.2.9", "10.0.0.1", "", "nonsense"])
def test_another_address_is_not_this_machine(local, address):
    assert ask(local, "/switch-model", method="POST", address=address).status_code == 403
    assert ask(local, address=address).status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_addresses(local, address):
    assert ask(local, "/switch-model", method="POST", address=address).status_code == 200


def test_a_proxy_that_is_named_makes_the_server_a_shared_one():
    app = make_app(trusted_proxy=("127.0.0.1",))
    assert app.extensions["guard"].token
    assert ask(app).status_code == 401 and ask(app, "/switch-model", method="POST").status_code == 401


def test_a_shared_server_answers_to_addresses_but_not_to_any_name(shared):
    key = {"x-api-key": TOKEN}
    for host, status in (("10.1.2.3:8000", 200), ("[fe80::1]:8000", 200), ("my.example", 200), ("rebind.example", 400)):
        assert ask(shared, headers=key, host=host).status_code == status


def test_a_shared_server_makes_up_a_token():
    tokens = {make_app(host="0.0.0.0").extensions["guard"].token for _ in range(2)}
    assert len(tokens) == 2 and min(map(len, tokens)) >= 32
    assert make_app().extensions["guard"].token == ""


def test_a_token_can_be_asked_for_on_one_machine():
    assert ask(make_app(token=TOKEN)).status_code == 401


def test_rate_limit_by_address():
    app = make_app(requests_per_s=0.001, request_burst=3)
    assert [ask(app, address="192.0.2.9").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert ask(app, address="192.0.2.8").status_code == 200
    assert ask(app, address="192.0.2.9").headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("headers", "host", "is_limited"),
    [
        ({}, "127.0.0.1:8000", False),
        ({"X-Forwarded-For": "192.0.2.9"}, "127.0.0.1:8000", True),
        ({"Via": "1.1 proxy"}, "localhost:8000", True),
        ({}, "my.example", True),
    ],
)
def test_a_program_on_this_machine_may_ask_as_often_as_it_likes(headers, host, is_limited):
    """Unless something shows that the request came through a proxy."""
    app = make_app(requests_per_s=0.001, request_burst=3, allow_hosts=("my.example",))
    codes = {ask(app, headers=headers, host=host).status_code for _ in range(10)}
    assert codes == ({200, 429} if is_limited else {200})


@pytest.mark.parametrize(
    ("entry", "origin", "is_let_in"),
    [
        ("https://page.example", "https://page.example", True),
        ("https://page.example", "https://page.example:444", False),
        ("https://page.example", "https://page.example.evil", False),
        ("http://localhost:*", "http://localhost:5173", True),
        ("http://localhost:*", "http://localhost.evil.example:1", False),
        ("http://localhost:*", "https://localhost:5173", False),
        ("app://obsidian.md", "app://obsidian.md", True),
        ("app://obsidian.md", "app://other", False),
        ("http://[::1]:*", "http://[::1]:3000", True),
        ("apps", "app://obsidian.md", True),
        ("apps", "vscode-webview://0abc", True),
        ("apps", "https://evil.example", False),
        ("extensions", "chrome-extension://abcdefgh", True),
        ("extensions", "null", False),
    ],
)
def test_which_pages_a_list_allows(entry, origin, is_let_in):
    app = make_app(cors_origins=(entry,))
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = ask(app, "/v1/models", headers, "OPTIONS")
    assert (answer.status_code == 204) == is_let_in
    assert answer.headers.get("Access-Control-Allow-Origin") == (origin if is_let_in else None)


@pytest.mark.parametrize(
    "entry", ["*", "https://*", "http://*:80", "page.example", "https://page.example/path", "app://"]
)
def test_an_entry_that_allows_too_much_or_nothing_is_refused(entry):
    with raises_code("settings_invalid"):
        make_app(cors_origins=(entry,))


def test_every_page_may_be_let_in_where_a_token_is_asked_for():
    app = make_app(cors_origins=("*",), token=TOKEN)
    page = {"Origin": "https://any.example", "Sec-Fetch-Site": "cross-site"}
    assert ask(app, "/v1/models", page).status_code == 401
    answer = ask(app, "/v1/models", {**page, "Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://any.example")
    assert ask(app, "/do", {**page, "Authorization": f"Bearer {TOKEN}"}, "POST").status_code == 403


def test_an_ipv6_host_is_one_client_whatever_address_it_takes():
    app = make_app(requests_per_s=0.001, request_burst=3)
    codes = [ask(app, address=f"2001:db8:0:1::{number}").status_code for number in range(1, 6)]
    assert codes == [200] * 3 + [429] * 2
    assert ask(app, address="2001:db8:0:2::1").status_code == 200


def test_rate_limit_refills_and_forgets(monkeypatch):
    limit = RateLimit(per_second=1, burst=1, most_keys=10)
    now = [100.0]
    monkeypatch.setattr("webapp.web.peer.time.monotonic", lambda: now[0])
    assert limit.allows("a") and not limit.allows("a")
    now[0] += 1
    assert limit.allows("a")
    for number in range(100):
        limit.allows(str(number))
    assert len(limit) == 10


def test_headers_on_every_answer(local):
    for response in (ask(local), ask(local, "/nothing"), ask(local, headers={"Host": "evil.example"})):
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "evil" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "same-origin"
        assert not [name for name, _ in response.headers if name.lower().startswith("access-control")]
    assert "ws://127.0.0.1:8000" in ask(local).headers["Content-Security-Policy"]


def test_a_refusal_of_the_api_is_an_openai_error(shared):
    for response in (
        ask_from_afar(shared, "/v1/models"),
        ask_from_afar(shared, "/chat/completions", method="POST", json={}),
        ask_from_afar(shared, "/", {"Accept": "application/json"}),
    ):
        error = response.get_json()["error"]
        assert response.status_code == 401 and response.headers["WWW-Authenticate"] == "Bearer"
        assert set(error) == {"message", "type", "code", "param"} and error["type"] == "authentication_error"


def test_a_refusal_of_a_page_is_a_page_in_the_readers_language(local):
    response = ask(local, headers={"Host": "evil.example", "Accept-Language": "zh-CN", "Accept": "text/html,*/*"})
    assert response.mimetype == "text/html" and "Roost 不响应这个主机名" in response.text
    assert 'lang="zh"' in response.text


def test_a_refusal_has_its_style_without_a_token_too(local):
    assert ask(local, "/login/style.css").mimetype == "text/css"


def test_htmx_is_asked_to_load_the_whole_page(shared):
    assert ask_from_afar(shared, "/", {"HX-Request": "true"}).headers["HX-Refresh"] == "true"


def test_every_reason_has_chinese_words():
    for name in ("UNKNOWN_HOST", "OTHER_SITE", "NO_ORIGIN"):
        reason = getattr(guard_module, name)
        assert say(reason, "zh") != str(reason)


@pytest.mark.parametrize(
    "origin, site, reason",
    [
        ("http://chat.example", "same-origin", "proxy_changes_host"),
        ("http://127.0.0.1:80", "same-origin", "proxy_changes_host"),
        ("http://192.168.1.5", "", "proxy_changes_host"),
        ("https://127.0.0.1:8000", "same-origin", "proxy_hides_https"),
        ("http://evil.example", "cross-site", "request_from_another_site"),
        ("null", "same-origin", "request_from_another_site"),
    ],
)
def test_a_proxy_that_changes_the_host_is_named_and_refused(local, origin, site, reason):
    headers = {"Origin": origin, **({"Sec-Fetch-Site": site} if site else {})}
    answer = ask(local, "/switch-model", method="POST", headers=headers)
    words = text(f"reason.web.{reason}", host="127.0.0.1:8000", origin=origin.partition("://")[2])
    assert answer.status_code == 403 and words in str(answer.json)
