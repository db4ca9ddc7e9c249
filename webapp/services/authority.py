"""The certificate authority for this server's own certificates, and the certificates that it signs.

A device that trusts it accepts its certificates only for this machine and the local network (name constraints, RFC
5280, 4.2.1.10), for no site on the internet. A certificate is valid for 397 days and renewed 30 days before it expires.

Needs ``cryptography`` (extra ``tls``), so it is imported only if a certificate is created here (:mod:`.certificates`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address, ip_network
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
LEAF_DAYS = 397  # Apple's devices refuse longer ones than 825, browsers those of public authorities above 398
RENEW_DAYS = 30
SKEW = timedelta(days=1)  # a phone's clock may be behind
LOCAL_DOMAINS = ("localhost", "local", "lan", "home.arpa", "internal")
LOCAL_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip


def make_authority(names: Iterable[str]) -> tuple[x509.Certificate, Any, bytes]:
    """For the local network and for those of ``names`` outside it. Returns certificate, key, and both as PEM."""
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
    permitted: list[x509.GeneralName] = [x509.DNSName(domain) for domain in domains]
    permitted += [x509.IPAddress(ip_network(network)) for network in networks]
    subject = _name(f"Roost on {socket.gethostname()}"[:64])
    builder = (
        _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True, digital_signature=False), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
    )
    made = builder.sign(key, SHA256())
    return made, key, public_pem(made) + _key_pem(key)


def read_authority(content: bytes) -> tuple[x509.Certificate, Any] | None:
    """Certificate and key; None if the authority expires before a new certificate would. Raises ValueError or TypeError
    for invalid content."""
    found, key = x509.load_pem_x509_certificate(content), load_pem_private_key(content, None)
    return (found, key) if found.not_valid_after_utc - now() > timedelta(days=LEAF_DAYS) else None


def make_leaf(authority: x509.Certificate, authority_key: Any, names: Iterable[str]) -> bytes:
    """A certificate for ``names`` and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
    builder = (
        _builder(_name("Roost"), authority.subject, key.public_key(), LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=False, crl_sign=False, digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(issuer, critical=False)
    )
    return public_pem(builder.sign(authority_key, SHA256())) + _key_pem(key)


def is_good(leaf: bytes, authority: x509.Certificate, wanted: Sequence[str]) -> bool:
    """Whether this PEM is a certificate of the authority for all these names that does not expire soon."""
    try:
        found = x509.load_pem_x509_certificate(leaf)
        found.verify_directly_issued_by(authority)
    except (ValueError, InvalidSignature):
        return False
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    is_young = found.not_valid_after_utc - now() > timedelta(days=RENEW_DAYS)
    return is_young and set(wanted) <= {str(name.value) for name in names}


def is_covered(name: str, authority: x509.Certificate) -> bool:
    """Whether the authority may sign for a name or IP address; other names need a certificate from elsewhere."""
    permitted = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    try:
        address = ip_address(name)
    except ValueError:
        return _is_below(name, [entry.value for entry in permitted if isinstance(entry, x509.DNSName)])
    networks = [ip_network(str(entry.value)) for entry in permitted if isinstance(entry, x509.IPAddress)]
    return any(address in network for network in networks)


def public_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def now() -> datetime:
    return datetime.now(timezone.utc)


def _is_below(name: str, domains: Iterable[str]) -> bool:
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - SKEW)
        .not_valid_after(now() + timedelta(days=days) - SKEW)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(**chosen: bool) -> x509.KeyUsage:
    no = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(**dict.fromkeys(no, False), decipher_only=False, **chosen)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
