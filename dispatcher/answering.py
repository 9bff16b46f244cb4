"""Answers what running tasks ask: read from the database, one request after the other.

An agent asks again until it is answered, so nothing here needs to last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from dispatcher.core.state import Lookup
from dispatcher.store import Store
from flow import wire

#: Of values in one answer; a single one may be larger.
ANSWER_BYTES = 1024 * 1024


class Answering:
    """One reign's. *on_reader* runs store calls on a thread, *reply* sends to an agent by name."""

    def __init__(
        self,
        store: Store,
        on_reader: Callable[..., Awaitable[Any]],
        reply: Callable[[str, wire.Reply], None],
    ) -> None:
        self._store = store
        self._on_reader = on_reader
        self._reply = reply
        self._wanted: dict[tuple[str, int], Lookup] = {}
        self._asked = asyncio.Event()

    def take(self, lookups: Iterable[Lookup]) -> None:
        """Tasks ask; the same request twice is answered once."""
        for lookup in lookups:
            self._wanted[lookup.agent, lookup.request] = lookup
            self._asked.set()

    async def run(self) -> None:
        """Answer until cancelled. Raises :class:`~flow.errors.StoreError`."""
        while True:
            await self._asked.wait()
            if not self._wanted:
                self._asked.clear()
                continue
            lookup = self._wanted.pop(next(iter(self._wanted)))
            values = await self._on_reader(
                self._store.find_values, lookup.run_pk, lookup.wanted, ANSWER_BYTES
            )
            answer = wire.Answer(
                session=lookup.session,
                incarnation=lookup.incarnation,
                request=lookup.request,
                values=tuple(
                    () if value is None else (msgspec.Raw(value.encode()),) for value in values
                ),
            )
            self._reply(lookup.agent, answer)
