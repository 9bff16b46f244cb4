"""The tests' own TCP proxy: what it may not do to those who use it."""

from __future__ import annotations

import asyncio
import gc
import socket

from tests.proxy import Proxy


async def test_a_connection_that_arrives_with_the_refusal_is_closed_and_not_leaked() -> None:
    # A leak is a ResourceWarning, and that fails the test.
    for turns in range(4):
        async with Proxy("127.0.0.1", 1) as proxy:
            with socket.socket() as caller:
                caller.connect(("127.0.0.1", proxy.port))
                for _ in range(turns):
                    await asyncio.sleep(0)
                proxy.refuse()
    gc.collect()
