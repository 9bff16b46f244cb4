"""The tests' TCP proxy with a thread and an event loop of its own, for scenarios, which block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from tests.proxy import Proxy


class ProxyThread:
    """A :class:`tests.proxy.Proxy` in front of the server that *url* names, or *proxy*."""

    def __init__(self, url: str, proxy: Proxy | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._proxy = proxy or Proxy.to(url)
        self._await(self._proxy.accept())
        #: *url*, through this proxy.
        self.url = self._proxy.through(url)

    def hold(self, *, outward: bool = True, inward: bool = True) -> None:
        """A silent partition, or one in one direction: *outward* is towards the server."""
        self._call(lambda: self._proxy.hold(outward=outward, inward=inward))

    def release(self) -> None:
        """It heals: what was held back arrives."""
        self._call(self._proxy.release)

    def cut(self) -> None:
        """Reset every connection."""
        self._call(self._proxy.cut)

    def cut_after(self, count: int) -> None:
        """End the connection that carries the last of the next *count* bytes, in the middle."""
        self._call(lambda: self._proxy.cut_after(count))

    def refuse(self) -> None:
        """Refuse new connections; those that exist live on."""
        self._call(self._proxy.refuse)

    def accept(self) -> None:
        """Accept them again."""
        self._await(self._proxy.accept())

    def slow(self, seconds: float) -> None:
        """Hold every chunk back for *seconds*, in each direction."""
        self._call(lambda: setattr(self._proxy, "delay", seconds))

    def close(self) -> None:
        """Cut everything, and end the thread."""
        self._await(self._proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def _call(self, work: Callable[[], None]) -> None:
        async def call() -> None:
            work()

        self._await(call())
