"""The server's name on the local network, by mDNS (RFC 6762), in addition to its addresses: roost.local, or
roost-2.local if another machine uses that, and so on.

``zeroconf`` (extra ``lan``) is imported only if the server is on the network. Without it there is no name, and the
start says so.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from webapp.services.certificates import LOCAL_NAMES

log = logging.getLogger(__name__)
SERVICE = "_http._tcp.local."
ASK_MS = 750.0
"""How long to ask whether a name is in use: RFC 6762, 8.1, three times 250 ms."""


class LanName:
    """Announces ``name`` until :meth:`close`. Raises ImportError if the package is missing."""

    def __init__(self, port: int, addresses: list[str], is_tls: bool) -> None:
        import zeroconf

        self._zeroconf: Any = None
        self.name = LOCAL_NAMES[0]
        machine = socket.gethostname().partition(".")[0]
        try:
            self._zeroconf = zeroconf.Zeroconf(interfaces=addresses)
            self.name = self._free_name(addresses)
            info = zeroconf.ServiceInfo(
                SERVICE,
                f"Roost on {machine}.{SERVICE}",
                port=port,
                properties={"path": "/", "tls": "1" if is_tls else "0"},
                server=f"{self.name}.",
                parsed_addresses=addresses,
            )
            self._zeroconf.register_service(info, allow_name_change=True)
        except Exception as exc:  # no multicast, no route, another program at port 5353: the addresses still work
            log.warning("The name %s could not be announced: %s", self.name, exc)
            self.close()

    def _free_name(self, addresses: list[str]) -> str:
        """The first name that no other machine uses; another server on this machine shares it, with another port."""
        import zeroconf

        for name in LOCAL_NAMES[:-1]:
            asked = zeroconf.AddressResolver(f"{name}.")
            if not asked.request(self._zeroconf, ASK_MS) or set(asked.parsed_addresses()) <= set(addresses):
                return name
        return LOCAL_NAMES[-1]

    @property
    def is_announced(self) -> bool:
        return self._zeroconf is not None

    def close(self) -> None:
        """Withdraws the name from the network."""
        found, self._zeroconf = self._zeroconf, None
        if found is not None:
            found.close()
