"""An agent's core with a book of what it did: for the tests of the core."""

from __future__ import annotations

from typing import Any, TypeVar

from agent.core import Core, Identity, Settings
from agent.core import effects as do
from agent.core import events as on
from flow import wire

E = TypeVar("E")
M = TypeVar("M", bound=wire.Event)

SETTINGS = Settings(name="node1", queues=("q1",), slots=2)
IDENTITY = Identity(home_id="machine:state", boot_id="boot", incarnation="i", software="test")


def task(ti: int = 1, try_number: int = 1, **fields: Any) -> wire.Task:
    """A task message."""
    values: dict[str, Any] = {
        "dag_id": "dag",
        "run_id": "run",
        "task_id": f"task{ti}",
        "queue": "q1",
        "operator": "bash",
        "arguments": {"command": "true"},
    }
    return wire.Task(task_instance_id=ti, try_number=try_number, **{**values, **fields})


class World:
    """Drives a core by hand; ``now`` is its clock."""

    def __init__(
        self,
        settings: Settings = SETTINGS,
        spooled: tuple[wire.Finished, ...] = (),
    ) -> None:
        self.core = Core(settings, IDENTITY, spooled)
        self.now = 100.0
        self.did: list[do.Effect] = self.core.start()

    def tell(self, event: on.Event, *, after: float = 0.0) -> list[do.Effect]:
        """Let *event* happen *after* seconds from now; return the effects of this step."""
        self.now += after
        self.did = self.core.step(event, self.now)
        return self.did

    def reply(self, reply: wire.Reply) -> list[do.Effect]:
        return self.tell(on.Received(reply))

    def tick(self, after: float) -> list[do.Effect]:
        return self.tell(on.Tick(), after=after)

    # -- looking -------------------------------------------------------------------------------

    def effects(self, kind: type[E]) -> list[E]:
        """Those of *kind* among the last step's effects."""
        return [effect for effect in self.did if isinstance(effect, kind)]

    def sent(self, kind: type[M]) -> list[M]:
        """Messages of *kind* that the last step sent."""
        return [e.message for e in self.effects(do.Send) if isinstance(e.message, kind)]

    def ref(self, kind: type[wire.Event]) -> int:
        """The reference of the last step's one message of *kind*."""
        (ref,) = [e.ref for e in self.effects(do.Send) if isinstance(e.message, kind)]
        return ref

    # -- short ways ----------------------------------------------------------------------------

    def greet(self, session: int = 1) -> World:
        """Connected, fenced, hello confirmed."""
        self.tell(on.LinkUp())
        self.tell(on.Fenced(session))
        self.tell(on.Confirmed(self.ref(wire.Hello)))
        return self

    def run(self, ti: int = 1, token: int = 11, handle: int = 1, **fields: Any) -> World:
        """A task delivered, claimed, granted and started."""
        self.tell(on.Delivered(handle, task(ti, **fields)))
        self.grant(ti, token)
        self.tell(on.ProcessStarted(token, 4711, 1000.0))
        return self

    def grant(self, ti: int = 1, token: int = 11, try_number: int = 1) -> list[do.Effect]:
        return self.reply(
            wire.Grant(
                session=self.core.session, task_instance_id=ti, try_number=try_number, token=token
            )
        )

    def exit(self, token: int = 11, **how: Any) -> list[do.Effect]:
        """The processes of *token* have ended, by default with 0."""
        values = how or {"exit_code": 0}
        return self.tell(on.ProcessEnded(token, 1000.0, 1001.0, **values))

    def answer(self, *tokens: int) -> list[do.Effect]:
        return self.reply(wire.Answered(session=self.core.session, tokens=tokens))


def finished(token: int = 11, ti: int = 1) -> wire.Finished:
    """A result as an earlier process spooled it."""
    return wire.Finished(
        agent="node1",
        session=1,
        task_instance_id=ti,
        try_number=1,
        token=token,
        state="success",
        started_at=1.0,
        ended_at=2.0,
    )
