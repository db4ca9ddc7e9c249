"""Certificates from Roost and from the user: their names, renewal, and reasons for refusal."""

import socket
import ssl
import stat
import sys
import threading
from datetime import timedelta

import pytest

from tests.errors import keys_in, raises_code
from webapp.services import certificates as module
from webapp.services.certificates import Certificates
from webapp.settings import Settings

authority_module = pytest.importorskip("webapp.services.authority", exc_type=ImportError)
make_authority, make_leaf = authority_module.make_authority, authority_module.make_leaf
ADDRESS = "192.168.7.7"


@pytest.fixture
def names(monkeypatch):
    """The machine's names; a test may add some."""
    found = ["localhost", "roost.local", "127.0.0.1"]
    monkeypatch.setattr(module, "machine_names", lambda host, more=(): [*found, *more])
    return found


@pytest.fixture
def made(tmp_path, names):
    return Certificates(Settings(data_dir=tmp_path, tls=True))


def shaken_hands(context, name, authority):
    """The certificate for ``name`` that a client gets if it trusts ``authority`` (PEM)."""
    here, there = socket.socketpair()
    for end in (here, there):
        end.settimeout(30)

    def serve():
        try:
            context.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client = ssl.create_default_context(cadata=authority)
        with client.wrap_socket(here, server_hostname=name) as sock:
            return sock.getpeercert(binary_form=True)
    finally:
        here.close()
        thread.join(60)


def authority_of(made):
    return made.authority_path.read_text()


@pytest.mark.parametrize("name", ["localhost", "roost.local", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_is_content(made, name):
    assert shaken_hands(made.context, name, authority_of(made))


def test_others_are_not(made):
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken_hands(made.context, "localhost", None)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shaken_hands(made.context, "elsewhere.local", authority_of(made))


@pytest.mark.parametrize("name", ["bank.example", "8.8.8.8"])
def test_the_authority_cannot_vouch_for_the_internet(tmp_path, made, name):
    """A stolen key is only useful in this network."""
    authority, key = made._authority()
    stolen = tmp_path / "stolen.pem"
    stolen.write_bytes(make_leaf(authority, key, [name]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stolen)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shaken_hands(context, name, authority_of(made))


def test_names_outside_the_network_are_left_out_unless_they_were_known_first(tmp_path, names):
    late = Certificates(Settings(data_dir=tmp_path / "late", tls=True, allow_hosts=()))
    late._names = ("chat.example.org",)
    late.refresh()
    early = Certificates(Settings(data_dir=tmp_path / "early", tls=True, allow_hosts=("chat.example.org",)))
    assert shaken_hands(early.context, "chat.example.org", authority_of(early))
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken_hands(late.context, "chat.example.org", authority_of(late))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX modes")
def test_the_keys_are_for_their_owner_alone(tmp_path, made):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == {"authority.pem": 0o600, "authority.crt": 0o600, "server.pem": 0o600}
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_a_restart_keeps_both(tmp_path, made):
    again = Certificates(Settings(data_dir=tmp_path, tls=True))
    assert again.fingerprint() == made.fingerprint() and again._loaded == made._loaded
    assert not made.refresh()


def test_another_address_is_another_certificate_of_the_same_authority(made, names):
    names.append(ADDRESS)
    assert made.refresh()
    assert shaken_hands(made.context, ADDRESS, authority_of(made))
    names.remove(ADDRESS)
    assert not made.refresh(), "one that is gone does no harm"


@pytest.mark.parametrize("days, is_new", [(300, False), (370, True)])
def test_it_is_renewed_before_it_ends(made, monkeypatch, days, is_new):
    now, before = authority_module.now, authority_of(made)
    monkeypatch.setattr(authority_module, "now", lambda: now() + timedelta(days=days))
    assert made.refresh() is is_new and authority_of(made) == before


def test_an_authority_that_ends_before_its_certificate_would_is_made_again(made, monkeypatch):
    now, before = authority_module.now, authority_of(made)
    monkeypatch.setattr(authority_module, "now", lambda: now() + timedelta(days=3400))
    assert made.refresh() and authority_of(made) != before


def test_a_damaged_certificate_is_made_again_and_a_damaged_authority_is_reported(tmp_path, made):
    (tmp_path / "tls" / "server.pem").write_text("nonsense")
    assert made.refresh()
    (tmp_path / "tls" / "authority.pem").write_text("nonsense")
    with raises_code("settings_invalid", key="reason.services.authority_damaged"):
        Certificates(Settings(data_dir=tmp_path, tls=True))


def test_without_the_package_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "webapp.services.authority")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with raises_code("tls_needs_package"):
        Certificates(Settings(data_dir=tmp_path, tls=True))


@pytest.fixture
def given(tmp_path):
    """given(name) -> path of a new certificate with its key, and the authority."""

    def given(name):
        authority, key, pem = make_authority(["localhost"])
        path = tmp_path / name
        path.write_bytes(make_leaf(authority, key, ["localhost"]))
        return path, pem.decode().partition("-----BEGIN PRIVATE")[0]

    return given


def test_a_given_certificate_is_used_and_read_again_when_its_file_changes(tmp_path, given):
    path, authority = given("given.pem")
    found = Certificates(Settings(data_dir=tmp_path, tls_cert=str(path)))
    assert found.authority_path is None and not (tmp_path / "tls").exists()
    assert shaken_hands(found.context, "localhost", authority)
    other, later = given("other.pem")
    assert not found.refresh()
    other.replace(path)
    assert found.refresh() and shaken_hands(found.context, "localhost", later)


def test_a_given_certificate_that_cannot_be_used_is_reported(tmp_path, given):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    (path, _), (other, _) = given("given.pem"), given("other.pem")
    locked = tmp_path / "locked.pem"
    password = serialization.BestAvailableEncryption(b"a password")
    forms = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)
    locked.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*forms))
    for cert, key in ((tmp_path / "none.pem", ""), (path, tmp_path / "none.pem"), (path, other), (path, locked)):
        with raises_code("settings_invalid", name="tls_cert") as caught:
            Certificates(Settings(data_dir=tmp_path, tls_cert=str(cert), tls_key=str(key)))
        assert keys_in(caught.value)[0] == "reason.services.certificate_unusable"
    with raises_code("settings_invalid", name="tls_key"):
        Certificates(Settings(data_dir=tmp_path, tls_key=str(path)))


def test_a_pair_that_is_half_renewed_changes_nothing(tmp_path, given):
    path, authority = given("given.pem")
    found = Certificates(Settings(data_dir=tmp_path, tls_cert=str(path)))
    path.write_text("half a cert")
    with raises_code("settings_invalid"):
        found.refresh()
    assert shaken_hands(found.context, "localhost", authority)
