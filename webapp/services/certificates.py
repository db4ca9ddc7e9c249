"""The server's TLS certificate: a given one, or one of its own authority, created and renewed here.

The authority's key never leaves ``tls/`` in the data folder. A certificate is renewed 30 days before it expires
(:mod:`.authority`), or when the machine has a new IP address or name.
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
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.errors import RoostError
from webapp.i18n import Text, system_reason
from webapp.settings import Settings

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger(__name__)
LOCAL_NAMES = ("roost.local", *(f"roost-{number}.local" for number in range(2, 10)))
"""Possible names of a server on its network: the first one that no other machine uses."""
LOOK_EVERY_S = 60.0


class Certificates:
    """``context`` is used for new connections. Raises ``settings_invalid`` for an unusable certificate or key, and
    ``tls_needs_package``."""

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
        """The authority's certificate (PEM), for devices to trust; None if a certificate was given."""
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
        """Checks whether files, addresses or the date require another certificate; True if ``context`` is new."""
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
        """Refreshes once a minute, until :meth:`close`. Logs failures and keeps the old certificate."""

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
        """The digest of the certificate and key in ``server.pem``; creates them if they do not match."""
        try:
            from webapp.services.authority import is_covered, is_good, make_leaf
        except ImportError as exc:
            raise RoostError("tls_needs_package") from exc
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            authority, key = self._authority()
            wanted = [name for name in machine_names(self._host, self._names) if is_covered(name, authority)]
            path, pem = self._folder / "server.pem", b""
            with contextlib.suppress(FileNotFoundError):
                pem = path.read_bytes()
            if not is_good(pem, authority, wanted):
                pem = make_leaf(authority, key, wanted)
                _write(path, pem)
            return hashlib.sha256(pem).digest()
        except OSError as exc:
            reason = Text("reason.common.path_and_error", path=str(self._folder), error=system_reason(exc))
            raise RoostError("settings_invalid", name="tls", value=True, reason=reason) from exc

    def _authority(self) -> tuple[x509.Certificate, Any]:
        """The authority, created if there is none or it expires soon. Its certificate is also stored alone."""
        from webapp.services.authority import make_authority, public_pem, read_authority

        path = self._folder / "authority.pem"
        found: tuple[x509.Certificate, Any] | None = None
        with contextlib.suppress(FileNotFoundError):
            try:
                found = read_authority(path.read_bytes())
            except (ValueError, TypeError) as exc:
                reason = Text("reason.services.authority_damaged", path=str(path))
                raise RoostError("settings_invalid", name="tls", value=True, reason=reason) from exc
        if found is None:
            authority, key, pem = make_authority(machine_names(self._host, self._names))
            _write(path, pem)
        else:
            authority, key = found
        assert self.authority_path is not None
        public = public_pem(authority)
        if not self.authority_path.exists() or self.authority_path.read_bytes() != public:
            _write(self.authority_path, public)
        return authority, key


def machine_names(host: str, more: Iterable[str] = ()) -> list[str]:
    """Names and IP addresses by which clients may reach this machine."""
    import psutil

    machine = socket.gethostname().lower()
    names = ["localhost", *LOCAL_NAMES, machine, f"{machine.partition('.')[0]}.local", *more, host]
    addresses = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
    for text in ("127.0.0.1", "::1", *addresses):
        with contextlib.suppress(ValueError):  # a MAC address, or an address with a zone
            address = ip_address(text)
            if not (address.is_link_local or address.is_unspecified or address.is_multicast):
                names.append(str(address))
    return list(dict.fromkeys(name for name in names if name and name not in ("0.0.0.0", "::")))


def _write(path: Path, content: bytes) -> None:
    """Writes the whole file or nothing, readable only by its owner."""
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

    def no_password() -> str:  # otherwise OpenSSL prompts in the terminal and waits
        raise ValueError("the key has a password")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except (OSError, ValueError) as exc:
        error = str(exc) if isinstance(exc, (ssl.SSLError, ValueError)) else system_reason(exc)
        path = key if key and not os.access(key, os.R_OK) else certificate
        reason = Text("reason.services.certificate_unusable", path=path, error=error)
        raise RoostError("settings_invalid", name=setting, value=certificate, reason=reason) from exc
    return context
