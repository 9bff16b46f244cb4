"""What running tasks ask, and what their processes say at their end, in the agent's core."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core.ending import STOPPED
from flow import wire
from tests.unit.agent_world import IDENTITY, SETTINGS, World

WANTED = (wire.Wanted(kind="xcom", name="a", key="return_value"),)


@pytest.fixture
def world() -> World:
    return World().greet().run()


def answer(request: int = 5, session: int = 1) -> wire.Answer:
    return wire.Answer(session=session, request=request, values=((msgspec.Raw(b"1"),),))


def ask(world: World, token: int = 11) -> None:
    world.tell(on.Asked(token, 5, WANTED))


# -- asking ------------------------------------------------------------------------------------


def test_a_request_is_sent_at_once_and_its_answer_handed_back_once(world: World) -> None:
    ask(world)
    assert world.sent(wire.Ask) == [
        wire.Ask(
            agent="node1",
            session=1,
            incarnation=IDENTITY.incarnation,
            token=11,
            request=5,
            wanted=WANTED,
        )
    ]
    world.reply(answer())
    assert world.effects(do.Relay) == [do.Relay(5, answer())]
    world.reply(answer())
    assert world.effects(do.Relay) == []


def test_an_unanswered_request_is_sent_again_for_ever(world: World) -> None:
    ask(world)
    for _ in range(5):
        world.tick(after=SETTINGS.result_interval)
        assert len(world.sent(wire.Ask)) == 1
        world.tell(on.Confirmed(world.ref(wire.Ask)))
        if refs := [e.ref for e in world.effects(do.Send) if isinstance(e.message, wire.Heartbeat)]:
            world.tell(on.Confirmed(refs[0]))


def test_a_request_waits_for_a_connection_and_is_sent_after_the_hello(world: World) -> None:
    world.tell(on.LinkDown())
    ask(world)
    assert world.sent(wire.Ask) == []
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert len(world.sent(wire.Ask)) == 1


def test_a_request_ends_with_its_task(world: World) -> None:
    ask(world)
    world.exit()
    world.tick(after=SETTINGS.result_interval)
    assert world.sent(wire.Ask) == []


def test_a_kept_task_asks_on_in_the_next_session() -> None:
    world = World().greet().run(on_agent_lost="wait")
    ask(world)
    world.tick(after=SETTINGS.trusted)
    world.tell(on.LinkUp())
    world.tell(on.Fenced(2))
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert [(sent.session, sent.token) for sent in world.sent(wire.Ask)] == [(2, 11)]


def test_an_answer_to_an_earlier_session_is_ignored(world: World) -> None:
    ask(world)
    world.reply(answer(session=0))
    assert world.effects(do.Relay) == []


# -- what a process says of itself -------------------------------------------------------------


def end(world: World, outcome: on.Outcome | None, **how: Any) -> wire.Finished:
    world.exit(**{"exit_code": 0, **how}, outcome=outcome)
    (spool,) = world.effects(do.Spool)
    return spool.result


def test_a_result_carries_what_the_process_said(world: World) -> None:
    xcom = {"return_value": msgspec.Raw(b"[1]")}
    result = end(world, on.Outcome("success", "", xcom, ("a",), stop=True))
    assert (result.state, result.xcom, result.follow, result.stop) == (
        "success",
        xcom,
        ("a",),
        True,
    )


def test_a_skip_is_a_result_of_its_own(world: World) -> None:
    result = end(world, on.Outcome("skipped", "nothing new"))
    assert (result.state, result.reason) == ("skipped", "nothing new")


def test_a_failure_keeps_its_reason_its_pushes_and_that_it_is_final(world: World) -> None:
    xcom = {"k": msgspec.Raw(b"1")}
    result = end(world, on.Outcome("failed", "why", xcom, final=True), exit_code=1)
    assert (result.state, result.reason, result.final) == ("failed", "why", True)
    assert result.xcom == xcom


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"exit_code": 139}, "exit code 139"),
        ({"exit_code": None, "signal": 11}, "killed by SIGSEGV"),
        ({"exit_code": 0, "killed": "cancelled by user ada"}, "cancelled by user ada"),
    ],
)
def test_a_success_that_the_process_did_not_survive_is_none(
    world: World, how: dict[str, Any], reason: str
) -> None:
    result = end(world, on.Outcome("success", "", {"k": msgspec.Raw(b"1")}), **how)
    assert (result.state, result.reason, result.xcom) == ("failed", reason, {})


def test_a_python_task_that_says_nothing_has_failed() -> None:
    world = World().greet().run(operator="python", arguments={})
    assert end(world, None).reason == (
        "its process ended with exit code 0 and without a result; does it call os._exit, or is its "
        "interpreter no Python?"
    )


def test_a_task_that_the_agent_stopped_is_given_back_whatever_it_said(world: World) -> None:
    world.exit(exit_code=0, killed=STOPPED, outcome=on.Outcome("success"))
    assert world.effects(do.Spool) == []
    assert len(world.sent(wire.Release)) == 1
