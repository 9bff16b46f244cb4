"""Which host names mean this machine."""

from __future__ import annotations

import ipaddress
import socket

_HERE = ("", "localhost", "localhost.localdomain", "ip6-localhost")


def is_here(host: str) -> bool:
    """Whether what is sent to *host* stays on this machine. Its own name counts as well; nothing
    is looked up, which may take long."""
    name = host.strip("[]").lower()
    if name in _HERE or name.startswith("/"):  # a socket's folder
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        own = socket.gethostname().lower()
        return name in (own, own.partition(".")[0])
