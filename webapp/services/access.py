"""The owner's links and key, in files of the data folder that only the owner's account may read.

A link contains a secret that works once. ``links/`` has an empty file for each, named by the secret's hash. Anyone who
can write to the data folder can make a link (`roost open`), but nobody can read a secret from it. Removing the file
uses the link up, so only one of two requests with the same secret succeeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from webapp.errors import StorageError
from webapp.i18n import Text, system_reason

LINK_LIFETIME_S = 3600.0
KEY_NAME, LINKS_NAME, ADDRESSES_NAME = "owner.key", "links", "addresses"
LINK_PATH = "open"
KEY_PREFIX = "roost-owner-"
SECRET_BYTES = 24


class OwnerProof:
    """``data_dir`` exists. Raises StorageError if it is not writable."""

    def __init__(self, data_dir: Path) -> None:
        self._links = data_dir / LINKS_NAME
        self.key_path = data_dir / KEY_NAME
        self._addresses = data_dir / ADDRESSES_NAME
        self._key = ""

    def prepare(self) -> None:
        """Reads the key or creates one; deletes unused old links."""
        try:
            self._key = self._read_key()
            self._links.mkdir(mode=0o700, exist_ok=True)
            for path in list(self._links.iterdir()):
                if _age_s(path) > LINK_LIFETIME_S:
                    path.unlink(missing_ok=True)
        except OSError as exc:
            raise StorageError(
                reason=Text("reason.common.path_and_error", path=exc.filename, error=system_reason(exc))
            ) from exc

    def is_key(self, text: str) -> bool:
        """Whether ``text`` is the owner's key."""
        is_plausible = bool(self._key) and text.startswith(KEY_PREFIX)
        return is_plausible and hmac.compare_digest(text.encode("utf-8", "replace"), self._key.encode())

    def new_secret(self, is_for_own_account: bool = False) -> str:
        """A secret for a link, valid once and for :data:`LINK_LIFETIME_S`.

        ``is_for_own_account``: the link appears in a browser's command line, which other accounts can read. So only
        connections of this account may use it, if the system can tell the account of a connection.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        try:
            self._links.mkdir(mode=0o700, exist_ok=True)
            path = self._links / _name(secret, is_for_own_account)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as exc:
            raise StorageError(
                reason=Text("reason.common.path_and_error", path=exc.filename, error=system_reason(exc))
            ) from exc
        return secret

    def use(self, secret: str, is_own_account: bool) -> bool:
        """True once for a valid secret."""
        for is_bound in (False, True):
            path = self._links / _name(secret, is_bound)
            if is_bound and not is_own_account:
                continue
            with contextlib.suppress(OSError):
                age_s = _age_s(path)
                path.unlink()
                return age_s <= LINK_LIFETIME_S
        return False

    def note_addresses(self, urls: list[str]) -> None:
        """For `roost open`: the URLs of this data folder's server, the URL for this machine first."""
        with contextlib.suppress(OSError):
            self._addresses.write_text("\n".join(urls), encoding="utf-8")

    def forget_addresses(self) -> None:
        with contextlib.suppress(OSError):
            self._addresses.unlink()

    def addresses(self) -> list[str]:
        """Empty if the folder shows no running server."""
        try:
            return self._addresses.read_text(encoding="utf-8").split()
        except OSError:
            return []

    def _read_key(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            key = self.key_path.read_text(encoding="ascii", errors="replace").strip()
            if len(key) >= len(KEY_PREFIX) + SECRET_BYTES:
                return key
            self.key_path.unlink()  # truncated by a full disk
        key = KEY_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        with os.fdopen(os.open(self.key_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(key + "\n")
        return key


def owner_link(url: str, secret: str) -> str:
    """``url`` is the server's URL, ending with a slash."""
    return f"{url}{LINK_PATH}?secret={secret}"


def _name(secret: str, is_bound: bool) -> str:
    digest = hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
    return f"{digest}-own" if is_bound else digest


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
