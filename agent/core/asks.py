"""What running tasks ask of the dispatcher: sent again until answered or over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.core import effects as do
from agent.core.events import Asked
from flow import wire


@dataclass(slots=True)
class _Pending:
    asked: Asked
    due: float


class Asks:
    """Requests of tasks that wait for an answer. A dispatcher that is away fails none of them."""

    def __init__(self, agent: str, interval: float) -> None:
        self._agent = agent
        self._interval = interval
        self._pending: dict[int, _Pending] = {}

    def asked(self, event: Asked, now: float) -> None:
        """A running task asks."""
        self._pending[event.request] = _Pending(event, now)

    def answered(self, answer: wire.Answer, out: list[do.Effect]) -> None:
        """The dispatcher has answered; a second answer to the same request is of no use."""
        if self._pending.pop(answer.request, None) is not None:
            out.append(do.Relay(answer.request, answer))

    def resend_all(self, now: float) -> None:
        """A hello was confirmed on a new link."""
        for pending in self._pending.values():
            pending.due = now

    def due(self, now: float, *, session: int, live: Callable[[int], bool]) -> Iterator[wire.Ask]:
        """The requests to send now. *live*: which tokens still run; those of others are dropped."""
        for request, pending in list(self._pending.items()):
            if not live(pending.asked.token):
                del self._pending[request]
            elif pending.due <= now:
                pending.due = now + self._interval
                yield wire.Ask(
                    agent=self._agent,
                    session=session,
                    token=pending.asked.token,
                    request=request,
                    wanted=pending.asked.wanted,
                )

    def next_due(self) -> list[float]:
        """When :meth:`due` has something."""
        return [pending.due for pending in self._pending.values()]
