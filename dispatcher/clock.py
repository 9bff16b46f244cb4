"""The dispatcher's two clocks, read in one place so that everything else gets time as a value."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from dispatcher.core.state import Instant


def now() -> Instant:
    """This moment. The monotonic side is CLOCK_BOOTTIME, which goes on while the machine sleeps
    (clock_gettime(2)): a lease must not outlive a suspend."""
    return Instant(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME))
