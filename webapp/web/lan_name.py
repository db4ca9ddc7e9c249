"""The name the server has on the local network, by mDNS (RFC 6762), beside its addresses: roost.local.

``zeroconf`` (extra ``lan``) is imported only where a server is on the network. Without it there is no such name, and
the start says so.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from webapp.services.certificates import LOCAL_NAME

log = logging.getLogger(__name__)
SERVICE = "_http._tcp.local."


class LanName:
    """Announced until :meth:`close`. ImportError where the package is missing."""

    def __init__(self, port: int, addresses: list[str], is_tls: bool) -> None:
        import zeroconf

        self._zeroconf: Any = None
        machine = socket.gethostname().partition(".")[0]
        info = zeroconf.ServiceInfo(
            SERVICE,
            f"Roost on {machine}.{SERVICE}",
            port=port,
            properties={"path": "/", "tls": "1" if is_tls else "0"},
            server=f"{LOCAL_NAME}.",
            parsed_addresses=addresses,
        )
        try:
            self._zeroconf = zeroconf.Zeroconf(interfaces=addresses)
            self._zeroconf.register_service(info, allow_name_change=True)
        except Exception as exc:  # no multicast, no route, another program at port 5353: the addresses go on working
            log.warning("The name %s could not be announced: %s", LOCAL_NAME, exc)
            self.close()

    @property
    def is_announced(self) -> bool:
        return self._zeroconf is not None

    def close(self) -> None:
        """Says goodbye to the network."""
        found, self._zeroconf = self._zeroconf, None
        if found is not None:
            found.close()
