"""What the service manager is told: sd_notify(3), without a library.

One datagram to the socket in ``$NOTIFY_SOCKET``, lines of ``KEY=value``. Only the main process of a
unit is listened to (``NotifyAccess=main``), and no child of flow's learns of the socket.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from flow.visible import visible

log = logging.getLogger(__name__)

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
#: Characters of a status: more than ``systemctl status`` shows in a line.
LONGEST_STATUS = 300

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def status(text: str) -> str:
    """``STATUS=``, on one line whatever *text* holds: it may quote a broker's words."""
    shown = visible(text)
    return f"STATUS={shown if len(shown) <= LONGEST_STATUS else shown[: LONGEST_STATUS - 1] + '…'}"


def extend(seconds: float) -> str:
    """What is under way, a start or a stop, may take *seconds* more from now on."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}"


def reloading(monotonic: float) -> str:
    """A reload begins; ``READY`` ends it. *monotonic* is CLOCK_MONOTONIC in seconds, which
    ``Type=notify-reload`` (systemd 253) asks for and earlier ones ignore."""
    return f"RELOADING=1\nMONOTONIC_USEC={int(monotonic * 1_000_000)}"


def socket_address(text: str) -> str | None:
    """The address to send to; ``@`` begins one in the abstract namespace (unix(7)). None for what
    is none, such as vsock's."""
    if text.startswith("@"):
        return f"\0{text[1:]}"
    return text if text.startswith("/") else None


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which ``WATCHDOG`` is expected of process *pid*, or None
    (sd_watchdog_enabled(3))."""
    for_pid, microseconds = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if for_pid and for_pid != str(pid):
        return None
    return int(microseconds) / 1_000_000 if microseconds.isdecimal() and int(microseconds) else None


@dataclass(slots=True)
class Notifier:
    """The way to the service manager."""

    address: str
    watchdog: float | None = None
    """Seconds within which it wants to hear ``WATCHDOG``; None where it does not."""
    _failed: str = ""

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier | None:
        """The one that *environ* names, or None where no service manager waits for one.

        Its variables are taken out of *environ*: no child is to speak for this process.
        """
        address = socket_address(environ.get("NOTIFY_SOCKET", ""))
        watchdog = watchdog_interval(environ, os.getpid())
        for name in VARIABLES:
            environ.pop(name, None)
        return None if address is None else cls(address, watchdog)

    def tell(self, *lines: str) -> bool:
        """Send *lines* as one message. Never blocks; False when it could not be sent, which is
        logged once."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
                end.setblocking(False)  # noqa: FBT003 -- its name says what is false
                end.sendto("\n".join(lines).encode(), self.address)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if reason != self._failed:
                log.warning("the service manager cannot be told how this goes: %s", reason)
            self._failed = reason
            return False
        self._failed = ""
        return True

    def reloading(self) -> bool:
        """A reload begins now."""
        return self.tell(reloading(time.clock_gettime(time.CLOCK_MONOTONIC)))
