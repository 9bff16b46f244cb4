"""Writes and removals in the spool, off the event loop, as many at a time as there are.

While a thread is busy with some, others gather: so a busy agent shares its fsyncs among results,
and an idle one waits for nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from agent.core import events as on
from agent.disk import told
from agent.spool import Spool
from flow import wire

log = logging.getLogger(__name__)

#: Results written together, each of which has a file open meanwhile.
MOST = 64


class Spooling:
    """Carries out what the core wants of *spool*. What became of it goes to *post*."""

    def __init__(
        self,
        spool: Spool,
        post: Callable[[on.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._spool = spool
        self._post = post
        self._spawn = spawn
        self._results: dict[int, wire.Finished] = {}
        self._answered: dict[int, None] = {}
        self._busy = False

    def write(self, result: wire.Finished) -> None:
        """Put *result* on disk; ``Spooled`` follows."""
        self._results[result.token] = result
        self._begin()

    def drop(self, token: int) -> None:
        """Forget the result of *token*, which is written or being written."""
        self._answered[token] = None
        self._begin()

    def _begin(self) -> None:
        if not self._busy:
            self._busy = True
            self._spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._results or self._answered:
                # What is dropped was written in an earlier round, or is in this one.
                results = [self._results.pop(token) for token in list(self._results)[:MOST]]
                answered = [token for token in self._answered if token not in self._results]
                for token in answered:
                    del self._answered[token]
                failed = await asyncio.to_thread(self._carry_out, results, answered)
                for result in results:
                    error = failed.get(result.token)
                    self._post(on.Spooled(result.token, told(error) if error else ""))
        finally:
            self._busy = False

    def _carry_out(self, results: list[wire.Finished], answered: list[int]) -> dict[int, OSError]:
        """Blocks."""
        failed = self._spool.write(results) if results else {}
        for token in answered:
            try:
                self._spool.drop(token)
            except OSError as error:
                log.warning("spool: an answered result stays: %s", error)
        return failed
