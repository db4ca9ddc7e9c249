"""The client's address beyond trusted proxies, but not further."""

import pytest

from tests.errors import raises_code
from webapp.web.peer import TrustedProxies, is_direct, is_loopback

PROXY = "10.0.0.1"


def seen(*trusted, peer=PROXY, **headers):
    """(address, scheme, host, prefix) after a request from ``peer`` with these headers."""
    environ = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", "HTTP_HOST": "inside:8000", "SCRIPT_NAME": ""}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    TrustedProxies(trusted).apply(environ)
    return environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"], environ["SCRIPT_NAME"]


@pytest.mark.parametrize(
    "forwarded_for, address",
    [
        ("198.51.100.7", "198.51.100.7"), ("1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"), ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("127.0.0.1, 198.51.100.7", "198.51.100.7"), ("198.51.100.7:5123", "198.51.100.7"),
        ("[2001:db8::7]:5123", "2001:db8::7"), ("2001:db8::7", "2001:db8::7"), ("unknown", PROXY), ("", PROXY),
        ("1.1.1.1, garbage", PROXY), (", ,", PROXY), ("::ffff:198.51.100.7", "198.51.100.7"),
    ],
)  # fmt: skip
def test_the_rightmost_address_that_is_no_trusted_proxy(forwarded_for, address):
    assert seen("10.0.0.0/24", x_forwarded_for=forwarded_for)[0] == address


@pytest.mark.parametrize(
    "forwarded, address, scheme",
    [
        ("for=198.51.100.7", "198.51.100.7", "http"), ("for=198.51.100.7;proto=https", "198.51.100.7", "https"),
        ('for="[2001:db8::7]:47011";proto=https;host=a.example', "2001:db8::7", "https"),
        ("for=1.1.1.1;proto=http, for=198.51.100.7;proto=https, for=10.0.0.2;proto=http", "198.51.100.7", "https"),
        ("for=_hidden", PROXY, "http"), ("for=unknown", PROXY, "http"), ("proto=gopher", PROXY, "http"),
    ],
)  # fmt: skip
def test_the_standard_header(forwarded, address, scheme):
    assert seen("10.0.0.0/24", forwarded=forwarded)[:2] == (address, scheme)


def test_a_clients_own_standard_header_does_not_count_beside_the_proxys():
    assert seen(PROXY, forwarded="for=127.0.0.1", x_forwarded_for="198.51.100.7")[0] == "198.51.100.7"


def test_scheme_host_and_prefix():
    headers = {"x_forwarded_proto": "https", "x_forwarded_host": "my.example", "x_forwarded_prefix": "/roost"}
    assert seen(PROXY, **headers) == (PROXY, "https", "my.example", "/roost")
    for bad in ("//evil.example", "roost", "/a b", "/../x\r\n"):
        assert seen(PROXY, x_forwarded_prefix=bad)[3] == ""
    assert seen(PROXY, x_forwarded_host="a b", x_forwarded_proto="ftp")[1:3] == ("http", "inside:8000")


@pytest.mark.parametrize("trusted", [(), ("192.0.2.1",), ("10.0.1.0/24",)])
def test_nobody_else_is_believed(trusted):
    headers = {"x_forwarded_for": "198.51.100.7", "x_forwarded_proto": "https", "x_forwarded_host": "my.example"}
    assert seen(*trusted, **headers) == (PROXY, "http", "inside:8000", "")


def test_applied_twice_is_applied_once():
    environ = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.2, 127.0.0.1"}
    proxies = TrustedProxies(["127.0.0.0/8"])
    proxies.apply(environ)
    proxies.apply(environ)
    assert environ["REMOTE_ADDR"] == "127.0.0.2"
    assert TrustedProxies(["::1", "127.0.0.1"]).is_trusted("::ffff:127.0.0.1")


@pytest.mark.parametrize("entry", ["nonsense", "300.1.1.1", "10.0.0.0/33", "localhost"])
def test_an_entry_that_is_no_address_is_refused(entry):
    with raises_code("settings_invalid") as caught:
        TrustedProxies([entry])
    assert caught.value.params["name"] == "trusted_proxy"


@pytest.mark.parametrize(
    "name", ["X_FORWARDED_FOR", "X_FORWARDED_ANYTHING", "FORWARDED", "VIA", "X_REAL_IP", "CF_CONNECTING_IP"]
)
def test_a_forwarded_request_is_not_direct(name):
    assert is_direct({"SERVER_PROTOCOL": "HTTP/1.1"})
    assert not is_direct({"SERVER_PROTOCOL": "HTTP/1.1", f"HTTP_{name}": "x"})
    assert not is_direct({"SERVER_PROTOCOL": "HTTP/1.0"})


def test_loopback():
    assert [is_loopback(text) for text in ("127.3.2.1", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "", "x")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
