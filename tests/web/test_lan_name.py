"""roost.local: announced where the network reaches the server, and only there."""

import re
import sys
import types

import pytest

from tests.wording import pattern
from webapp.settings import Settings
from webapp.web import serve as serve_module
from webapp.web.serve import named_on_network


@pytest.fixture
def network(monkeypatch):
    """A zeroconf that notes what it is told; ``network.failure`` is what it raises."""
    found = types.SimpleNamespace(told=[], failure=None)

    class Zeroconf:
        def __init__(self, interfaces):
            found.told.append(("at", interfaces))

        def register_service(self, info, allow_name_change):
            if found.failure:
                raise found.failure
            found.told.append((info["server"], info["port"], info["parsed_addresses"]))

        def close(self):
            found.told.append("closed")

    fake = types.SimpleNamespace(Zeroconf=Zeroconf, ServiceInfo=lambda *_, **fields: fields)
    monkeypatch.setitem(sys.modules, "zeroconf", fake)
    monkeypatch.setattr(serve_module, "lan_addresses", lambda is_ipv6: [] if is_ipv6 else ["192.168.1.7"])
    return found


def test_a_server_on_the_network_has_the_name_until_it_ends(network, capsys):
    name = named_on_network(Settings(lan=True, tls=True), 8123)
    assert network.told == [("at", ["192.168.1.7"]), ("roost.local.", 8123, ["192.168.1.7"])]
    assert "https://roost.local:8123/" in capsys.readouterr().out
    name.close()
    name.close()
    assert network.told.count("closed") == 1


@pytest.mark.parametrize("settings", [{}, {"lan": True, "lan_name": False}, {"trusted_proxy": ("127.0.0.1",)}])
def test_others_have_none(network, settings):
    assert named_on_network(Settings(**settings), 8000) is None and network.told == []


def test_a_network_that_cannot_be_told_costs_the_name_alone(network, capsys):
    network.failure = OSError("no multicast")
    name = named_on_network(Settings(lan=True), 8000)
    assert not name.is_announced and network.told[-1] == "closed" and capsys.readouterr().out == ""


def test_a_missing_package_is_named(network, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    assert named_on_network(Settings(lan=True), 8000) is None
    assert re.search(pattern("cli.serve.no_name"), capsys.readouterr().out)
