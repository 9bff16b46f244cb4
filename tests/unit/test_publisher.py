"""What the dispatcher sends for the effects of one flush."""

from __future__ import annotations

import asyncio
from typing import cast

from dispatcher.core.state import Effects
from dispatcher.publisher import Publisher
from flow import wire
from flow.topology import CONTROL
from flow.transport.port import Link, Publication


class FakeOutlet:
    def __init__(self) -> None:
        self.sent: list[Publication] = []

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        self.sent.append(publication)
        return asyncio.get_running_loop().create_future()


def answered(token: int, session: int = 1, incarnation: str = "process") -> wire.Answered:
    return wire.Answered(session=session, incarnation=incarnation, tokens=(token,))


def grant(token: int) -> wire.Grant:
    return wire.Grant(
        session=1, incarnation="process", task_instance_id=5, try_number=1, token=token
    )


def sent(effects: Effects) -> list[tuple[str, wire.Message]]:
    outlet = FakeOutlet()
    Publisher(cast(Link, None), outlet, reign=1).carry_out(effects)
    assert {each.exchange for each in outlet.sent} == {CONTROL}
    return [(each.key, wire.decode(each.body)) for each in outlet.sent]


async def test_answers_to_results_of_one_session_go_out_in_one_message() -> None:
    replies: list[tuple[str, wire.Reply]] = [
        ("node1", answered(1)),
        ("node1", grant(7)),
        ("node2", answered(2)),
        ("node1", answered(3)),
        ("node1", answered(4, session=2)),
        ("node1", answered(5, incarnation="another")),
        ("node1", answered(6)),
    ]
    joined = wire.Answered(session=1, incarnation="process", tokens=(1, 3, 6))
    assert sent(Effects(replies=replies)) == [
        ("agent.node1", joined),
        ("agent.node1", grant(7)),
        ("agent.node2", answered(2)),
        ("agent.node1", answered(4, session=2)),
        ("agent.node1", answered(5, incarnation="another")),
    ]


async def test_other_answers_are_left_as_they_are() -> None:
    replies: list[tuple[str, wire.Reply]] = [("node1", grant(7)), ("node1", grant(7))]
    assert sent(Effects(replies=replies)) == [("agent.node1", grant(7))] * 2
