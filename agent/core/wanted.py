"""Which settings hold: the node's own, or what people want in their place."""

from __future__ import annotations

import dataclasses

from agent.core.events import Reconfigured
from agent.core.settings import Settings
from flow import wire


class Wanted:
    """Settings while they change. *own*: those of the node, as it began with them."""

    def __init__(self, own: Settings) -> None:
        self.now = own
        """Those that hold."""
        self.terms = wire.Terms()
        """What the dispatcher said last that people want."""
        self._own = own

    def reconfigure(self, event: Reconfigured) -> bool:
        """The node's own have changed. Whether others are served, or with another number."""
        given = {item.name: getattr(event, item.name) for item in dataclasses.fields(event)}
        new = {name: value for name, value in given.items() if value is not None}
        self._own = dataclasses.replace(self._own, **new)
        return self._settle()

    def accept(self, terms: wire.Terms) -> bool:
        """People want something else. Whether other queues are served, or with another number of
        slots."""
        self.terms = terms
        return self._settle()

    def _settle(self) -> bool:
        before, own, terms = self.now, self._own, self.terms
        self.now = dataclasses.replace(
            own,
            queues=own.queues if terms.queues is None else terms.queues,
            slots=own.slots if terms.slots is None else terms.slots,
        )
        return (self.now.queues, self.now.slots) != (before.queues, before.slots)
