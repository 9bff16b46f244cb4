"""``flow agents drain``, ``resume`` and ``set``: what people want of a node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import Command
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import name
from flow.cli.requests import answered, ask
from flow.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dispatcher.store.reader import Reader

_PAUSE = 0.25
#: Seconds for which a database that is away does not end the waiting: the tasks go on meanwhile.
_DATABASE_PATIENCE = 60.0

node_argument = click.argument("agent", metavar="NODE", type=name)


@click.command("drain", cls=Command)
@node_argument
@click.option("--reason", required=True, type=name, help="Why; shown wherever its tasks wait.")
@click.option("--wait", is_flag=True, help="Return when nothing runs there any more.")
@pass_invocation
def drain(invocation: Invocation, agent: str, reason: str, *, wait: bool) -> None:
    """Have a node take nothing new; what runs there goes on.

    It stays drained, also when its agent, the dispatcher or the machine is started anew, until
    `flow agents resume`. What waits goes to the other agents of its queues.
    """
    if not reason.strip():
        raise UsageError("agents drain: --reason: expected some words, got none")
    reader = invocation.reader()
    asked = ask(invocation, reader, "drain", {"agent": agent, "reason": reason})
    if asked.done:
        invocation.say(f"agent {agent}: drained")
    if wait:
        _Idle(invocation.say, reader, agent).until(asked.intent_id)


@click.command("resume", cls=Command)
@node_argument
@pass_invocation
def resume(invocation: Invocation, agent: str) -> None:
    """Have a drained node take tasks again."""
    if ask(invocation, invocation.reader(), "resume", {"agent": agent}).done:
        invocation.say(f"agent {agent}: takes tasks")


@click.command("set", cls=Command)
@node_argument
@click.option("--slots", type=click.IntRange(min=1), help="How many tasks it may run at once.")
@click.option("--queue", "queues", multiple=True, type=name, help="Serve this queue; repeatable.")
@click.option("--reset", is_flag=True, help="Back to what the settings on its node say.")
@pass_invocation
def configure(
    invocation: Invocation, agent: str, slots: int | None, queues: tuple[str, ...], *, reset: bool
) -> None:
    """Change a node's slots or queues while it works.

    The queues named are all that it serves from now on. It holds, whatever is started anew, until
    `--reset`. Tasks that run go on: with fewer slots than tasks nothing new starts until it fits.
    """
    if reset == bool(queues or slots):
        given = "both" if reset else "neither"
        raise UsageError(f"agents set: expected --slots and --queue, or --reset, got {given}")
    wanted: dict[str, Any] = {"agent": agent, "slots": slots, "queues": list(queues) or None}
    if ask(invocation, invocation.reader(), "set_agent", wanted | {"reset": reset}).done:
        invocation.say(f"agent {agent}: {'goes by its own settings' if reset else 'set'}")


class _Idle:
    """Waits until an agent runs nothing, and tells how many tasks that takes."""

    def __init__(self, say: Callable[[str], None], reader: Reader, agent: str) -> None:
        self._say = say
        self._reader = reader
        self._agent = agent
        self._told: int | None = None
        self._lost_at: float | None = None

    def until(self, intent_id: int) -> None:
        """Raises :class:`~flow.errors.FlowError` when the request *intent_id* is refused."""
        done = False
        while not done or self._busy():
            time.sleep(_PAUSE)
            done = done or self._look(lambda: answered(self._reader, intent_id), otherwise=False)

    def _busy(self) -> int:
        busy: int = self._look(self._count, otherwise=1)
        if busy != self._told:
            text = f"tasks that still run: {busy}" if busy else "nothing runs there"
            self._say(f"agent {self._agent}: {text}")
            self._told = busy
        return busy

    def _count(self) -> int:
        return sum(found.running for found in self._reader.agents() if found.name == self._agent)

    def _look(self, ask: Callable[[], Any], *, otherwise: Any) -> Any:
        """What *ask* says; *otherwise* while the database is away, for a while."""
        try:
            answer = ask()
        except StoreError as error:
            if self._lost_at is None:
                self._lost_at = time.monotonic()
                self._say(f"{error}; trying again")
            if time.monotonic() - self._lost_at > _DATABASE_PATIENCE:
                raise
            return otherwise
        self._lost_at = None
        return answer
