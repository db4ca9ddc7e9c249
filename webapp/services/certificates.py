"""The certificate the server shows: one it is given, or one of an authority of its own, made and renewed here.

The authority's key never leaves ``tls/`` in the data folder. A device that trusts the authority lets it vouch for this
machine and the local network only (name constraints, RFC 5280, 4.2.1.10), for no site of the internet. A certificate is
good for 397 days and made again 30 days before the end, or when the machine has got another address or name.

``cryptography`` (extra ``tls``) is imported only where a certificate is made here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.errors import RoostError
from webapp.i18n import Text, system_reason
from webapp.settings import Settings

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger(__name__)
LOCAL_NAMES = ("roost.local", *(f"roost-{number}.local" for number in range(2, 10)))
"""What a server can be called on its network: the first that no other machine there has."""
AUTHORITY_DAYS = 3650
LEAF_DAYS = 397  # Apple's devices refuse longer ones than 825, browsers those of public authorities above 398
RENEW_DAYS = 30
SKEW = timedelta(days=1)  # a phone's clock may be behind
LOOK_EVERY_S = 60.0
LOCAL_DOMAINS = ("localhost", "local", "lan", "home.arpa", "internal")
LOCAL_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip


class Certificates:
    """``context`` is what a connection that comes now is met with. Raises ``settings_invalid`` for a certificate or a
    key that cannot be used, and ``tls_needs_package``."""

    def __init__(self, settings: Settings) -> None:
        if settings.tls_key and not settings.tls_cert:
            reason = Text("reason.services.key_without_certificate")
            raise RoostError("settings_invalid", name="tls_key", value=settings.tls_key, reason=reason)
        self._given = (settings.tls_cert, settings.tls_key or None) if settings.tls_cert else None
        self._folder = settings.data_dir / "tls"
        self._names = tuple(settings.allow_hosts)
        self._host = settings.listen_host
        self._loaded: Any = None
        self._is_over = threading.Event()
        self.refresh()

    @property
    def authority_path(self) -> Path | None:
        """The authority's certificate (PEM), for devices to trust; None where a certificate was given."""
        return None if self._given else self._folder / "authority.crt"

    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate, as devices show it."""
        assert self.authority_path is not None
        digest = hashlib.sha256(self.authority_der()).hexdigest().upper()
        return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))

    def authority_der(self) -> bytes:
        assert self.authority_path is not None
        return ssl.PEM_cert_to_DER_cert(self.authority_path.read_text(encoding="ascii"))

    def refresh(self) -> bool:
        """Looks whether files, addresses or the date ask for another certificate; True when ``context`` is new."""
        if self._given:
            path, key = self._given
            loaded: Any = (_stamp(path), _stamp(key or path))
            if loaded == self._loaded:
                return False
            self.context = _context(path, key, "tls_cert")
        else:
            loaded = self._prepare()
            if loaded == self._loaded:
                return False
            self.context = _context(str(self._folder / "server.pem"), None, "tls")
        self._loaded = loaded
        return True

    def watch(self) -> None:
        """Refreshes once a minute, until :meth:`close`. What fails then is logged, and the old certificate stays."""

        def look() -> None:
            while not self._is_over.wait(LOOK_EVERY_S):
                try:
                    if self.refresh():
                        log.info("the server's certificate is a new one")
                except (RoostError, OSError, ValueError) as exc:
                    log.warning("the server's certificate could not be renewed: %s", exc)

        threading.Thread(target=look, name="certificates", daemon=True).start()

    def close(self) -> None:
        self._is_over.set()

    def _prepare(self) -> bytes:
        """The server's certificate and key in ``server.pem``, made where they are not what is needed."""
        try:
            from cryptography import x509
            from cryptography.exceptions import InvalidSignature
        except ImportError as exc:
            raise RoostError("tls_needs_package") from exc
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            authority, key = self._authority()
            wanted = [name for name in machine_names(self._host, self._names) if is_covered(name, authority)]
            path = self._folder / "server.pem"
            with contextlib.suppress(FileNotFoundError, ValueError, InvalidSignature):
                leaf = x509.load_pem_x509_certificate(path.read_bytes())
                leaf.verify_directly_issued_by(authority)
                is_young = leaf.not_valid_after_utc - _now() > timedelta(days=RENEW_DAYS)
                if is_young and set(wanted) <= set(_names_in(leaf)):
                    return leaf.fingerprint(_sha256())
            leaf, pem = make_leaf(authority, key, wanted)
            _write(path, pem)
            return leaf.fingerprint(_sha256())
        except OSError as exc:
            reason = Text("reason.common.path_and_error", path=str(self._folder), error=system_reason(exc))
            raise RoostError("settings_invalid", name="tls", value=True, reason=reason) from exc

    def _authority(self) -> tuple[x509.Certificate, Any]:
        """Read, or made where there is none or it ends soon."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = self._folder / "authority.pem"
        with contextlib.suppress(FileNotFoundError):
            try:
                content = path.read_bytes()
                found, key = x509.load_pem_x509_certificate(content), load_pem_private_key(content, None)
            except (ValueError, TypeError) as exc:
                reason = Text("reason.services.authority_damaged", path=str(path))
                raise RoostError("settings_invalid", name="tls", value=True, reason=reason) from exc
            if found.not_valid_after_utc - _now() > timedelta(days=LEAF_DAYS):
                self._publish(found)
                return found, key
        found, key, pem = make_authority(machine_names(self._host, self._names))
        _write(path, pem)
        self._publish(found)
        return found, key

    def _publish(self, authority: x509.Certificate) -> None:
        assert self.authority_path is not None
        public = authority.public_bytes(_pem())
        if not self.authority_path.exists() or self.authority_path.read_bytes() != public:
            _write(self.authority_path, public)


def machine_names(host: str, more: Iterable[str] = ()) -> list[str]:
    """Names and addresses that this machine may be asked for by."""
    import psutil

    machine = socket.gethostname().lower()
    names = ["localhost", *LOCAL_NAMES, machine, f"{machine.partition('.')[0]}.local", *more, host]
    addresses = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
    for text in ("127.0.0.1", "::1", *addresses):
        with contextlib.suppress(ValueError):  # a hardware address, or one with a zone
            address = ip_address(text)
            if not (address.is_link_local or address.is_unspecified or address.is_multicast):
                names.append(str(address))
    return list(dict.fromkeys(name for name in names if name and name not in ("0.0.0.0", "::")))


def make_authority(names: Iterable[str]) -> tuple[x509.Certificate, Any, bytes]:
    """For the local network and, of ``names``, what lies outside it. Certificate, key, and both as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    local = [ip_network(text) for text in LOCAL_NETWORKS]
    domains, networks = list(LOCAL_DOMAINS), list(LOCAL_NETWORKS)
    for name in names:
        try:
            address = ip_address(name)
        except ValueError:
            if not _is_below(name, domains):
                domains.append(name)
        else:
            if not any(address in network for network in local):
                networks.append(str(ip_network(name)))
    permitted: list[Any] = [x509.DNSName(domain) for domain in domains]
    permitted += [x509.IPAddress(ip_network(network)) for network in networks]
    subject = _name(f"Roost on {socket.gethostname()}"[:64])
    usage = {"key_cert_sign": True, "crl_sign": True, "digital_signature": False}
    builder = (
        _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(**usage), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    made = builder.sign(key, _sha256())
    return made, key, made.public_bytes(_pem()) + _key_pem(key)


def make_leaf(authority: x509.Certificate, authority_key: Any, names: list[str]) -> tuple[x509.Certificate, bytes]:
    """The certificate for ``names``, and it with its key as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    usage = {"key_cert_sign": False, "crl_sign": False, "digital_signature": True}
    builder = (
        _builder(_name("Roost"), authority.subject, key.public_key(), LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    made = builder.sign(authority_key, _sha256())
    return made, made.public_bytes(_pem()) + _key_pem(key)


def is_covered(name: str, authority: x509.Certificate) -> bool:
    """Whether the authority may vouch for a name or an address; other names need a certificate that is given."""
    from cryptography import x509

    permitted = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    try:
        address = ip_address(name)
    except ValueError:
        return _is_below(name, [entry.value for entry in permitted if isinstance(entry, x509.DNSName)])
    networks = [ip_network(str(entry.value)) for entry in permitted if isinstance(entry, x509.IPAddress)]
    return any(address in network for network in networks)


def _is_below(name: str, domains: Iterable[str]) -> bool:
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_in(leaf: x509.Certificate) -> list[str]:
    from cryptography import x509

    return [str(name.value) for name in leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def _builder(subject: Any, issuer: Any, public_key: Any, days: int) -> Any:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - SKEW)
        .not_valid_after(_now() + timedelta(days=days) - SKEW)
    )


def _usage(**chosen: bool) -> Any:
    from cryptography import x509

    no = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(**no, decipher_only=False, **chosen)


def _name(common: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def _pem() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    return bytes(key.private_bytes(_pem(), PrivateFormat.PKCS8, NoEncryption()))


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, for its owner alone."""
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)


def _stamp(path: str) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size
    return 0, 0


def _context(certificate: str, key: str | None, setting: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])

    def no_password() -> str:  # else OpenSSL asks in the terminal, and waits
        raise ValueError("the key has a password")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except (OSError, ValueError) as exc:
        error = str(exc) if isinstance(exc, (ssl.SSLError, ValueError)) else system_reason(exc)
        path = key if key and not os.access(key, os.R_OK) else certificate
        reason = Text("reason.services.certificate_unusable", path=path, error=error)
        raise RoostError("settings_invalid", name=setting, value=certificate, reason=reason) from exc
    return context
