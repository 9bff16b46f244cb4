"""Who sent an event or a piece of output, as far as the broker vouches for it.

``user_id`` is the proof: RabbitMQ refuses a message that states another user than that of its
connection (manual, validated user-id). The routing key is one only as long as nobody has an
exchange of their own: see :mod:`flow.brokerrights`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flow.errors import MessageError
from flow.topology import sender_of


@dataclass(frozen=True, slots=True)
class Senders:
    """Whom to believe. With *verify* the broker user of a message counts beside its key: an agent's
    has the agent's name, this dispatcher's is *own*."""

    verify: bool = False
    own: str | None = None

    def check_agent(self, agent: str, *, key: str, user: str | None) -> None:
        """Make sure that what *user* sent under *key* is from *agent*.

        Raises :class:`~flow.errors.MessageError`."""
        what = f"message of agent {agent!r}"
        if sender_of(key) != agent:
            raise MessageError(f"{what}: expected its name to begin the routing key, got {key!r}")
        self._check(agent, user, what)

    def check_own(self, user: str | None) -> None:
        """Make sure that what *user* sent is from this dispatcher itself.

        Raises :class:`~flow.errors.MessageError`."""
        self._check(self.own, user, "message of this dispatcher")

    def _check(self, expected: str | None, user: str | None, what: str) -> None:
        if self.verify and (user is None or user != expected):
            raise MessageError(f"{what}: expected the broker user {expected!r}, got {user!r}")
