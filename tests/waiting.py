"""Waiting for a condition, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE = 20.0
"""Seconds: much longer than anything takes, since the machine may be busy."""


def until(condition: Callable[[], bool], within: float = PATIENCE, every: float = 0.005) -> None:
    """Block until *condition* holds; fail when it does not *within* seconds. It is asked *every*
    so many seconds: rarely, where asking is work."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(every)


async def eventually(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    """As :func:`until`, while the event loop goes on."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.005)
