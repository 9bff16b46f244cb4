"""Wrappers that count what passes a port, and nothing else."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest

from dispatcher.core.records import Write
from dispatcher.store import Store
from flow.transport.port import Broker, Link, Outlet, Publication


class _Tag(msgspec.Struct):
    type: str


_tag = msgspec.json.Decoder(_Tag)


@dataclass(slots=True)
class Counts:
    """What was done, by whomever it was done through these wrappers."""

    messages: Counter[str] = field(default_factory=Counter)
    """Publications by the type of message."""
    commits: int = 0
    syncs: int = 0

    def per_task(self, tasks: int, *, without: Sequence[str] = ()) -> float:
        """Messages per task, except those of the types *without*, which come with time."""
        counted = sum(self.messages.values()) - sum(self.messages[kind] for kind in without)
        return counted / tasks


class _Outlet:
    def __init__(self, outlet: Outlet, counts: Counts) -> None:
        self._outlet = outlet
        self._counts = counts

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        self._counts.messages[_tag.decode(publication.body).type] += 1
        return self._outlet.publish(publication)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outlet, name)


class _Link:
    def __init__(self, link: Link, counts: Counts) -> None:
        self._link = link
        self._counts = counts

    async def outlet(self) -> Outlet:
        return cast(Outlet, _Outlet(await self._link.outlet(), self._counts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class CountingBroker:
    """A broker whose links count what is published on them."""

    def __init__(self, broker: Broker, counts: Counts) -> None:
        self._broker = broker
        self._counts = counts

    async def connect(self, name: str) -> Link:
        return cast(Link, _Link(await self._broker.connect(name), self._counts))


class CountingStore(Store):
    """A store that counts its write transactions."""

    def __init__(self, database: Any, counts: Counts) -> None:
        super().__init__(database)
        self._counts = counts

    def commit(self, epoch: int, writes: Sequence[Write]) -> None:
        self._counts.commits += 1
        super().commit(epoch, writes)


def count_syncs(monkeypatch: pytest.MonkeyPatch, counts: Counts) -> None:
    """Count this process's fsync and fdatasync."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, _counted(getattr(os, name), counts))


def _counted(call: Callable[[int], None], counts: Counts) -> Callable[[int], None]:
    def counted(descriptor: int) -> None:
        counts.syncs += 1
        call(descriptor)

    return counted
