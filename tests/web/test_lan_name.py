"""roost.local: announced only if the network can reach the server; the next name if it is taken."""

import re
import sys
import types

import pytest

from tests.wording import pattern
from webapp.services.certificates import LOCAL_NAMES
from webapp.settings import Settings
from webapp.web import serve as serve_module
from webapp.web.guard import known_hosts
from webapp.web.serve import named_on_network


@pytest.fixture
def network(monkeypatch):
    """A zeroconf that records calls; ``network.failure`` is raised, ``network.others`` are the names that answer, with
    their addresses."""
    found = types.SimpleNamespace(told=[], failure=None, others={})

    class AddressResolver:
        def __init__(self, name):
            self.name = name

        def request(self, _, timeout_ms):
            return self.name in found.others and timeout_ms >= 750

        def parsed_addresses(self):
            return found.others[self.name]

    class Zeroconf:
        def __init__(self, interfaces):
            found.told.append(("at", interfaces))

        def register_service(self, info, allow_name_change):
            if found.failure:
                raise found.failure
            found.told.append((info["server"], info["port"], info["parsed_addresses"]))

        def close(self):
            found.told.append("closed")

    fake = types.SimpleNamespace(
        Zeroconf=Zeroconf, ServiceInfo=lambda *_, **fields: fields, AddressResolver=AddressResolver
    )
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


@pytest.mark.parametrize(
    "others, name",
    [
        ({"roost.local.": ["192.168.1.9"]}, "roost-2.local"),
        ({"roost.local.": ["192.168.1.9", "192.168.1.7"], "roost-2.local.": ["192.168.1.10"]}, "roost-3.local"),
        ({"roost.local.": ["192.168.1.7"]}, "roost.local"),
        ({f"{name}.": ["192.168.1.9"] for name in LOCAL_NAMES}, LOCAL_NAMES[-1]),
    ],
)
def test_a_name_that_another_machine_has_is_left_to_it(network, capsys, others, name):
    """A second server on this machine shares its name."""
    network.others = others
    settings = Settings(lan=True)
    named_on_network(settings, 8123)
    assert network.told[1] == (f"{name}.", 8123, ["192.168.1.7"])
    assert f"http://{name}:8123/" in capsys.readouterr().out
    assert name in known_hosts(settings), "the server answers to it"


@pytest.mark.parametrize("settings", [{}, {"lan": True, "lan_name": False}, {"trusted_proxy": ("127.0.0.1",)}])
def test_others_have_none(network, settings):
    assert named_on_network(Settings(**settings), 8000) is None and network.told == []


def test_a_network_without_multicast_costs_only_the_name(network, capsys):
    network.failure = OSError("no multicast")
    name = named_on_network(Settings(lan=True), 8000)
    assert not name.is_announced and network.told[-1] == "closed" and capsys.readouterr().out == ""


def test_a_missing_package_is_named(network, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    assert named_on_network(Settings(lan=True), 8000) is None
    assert re.search(pattern("cli.serve.no_name"), capsys.readouterr().out)
