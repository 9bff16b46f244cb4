"""What tasks leave for each other, as the core decides it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from dispatcher.core.records import SaveXcoms
from dispatcher.core.state import Effects, Lookup
from flow import wire
from flow.dagspec import TaskSpec
from tests.unit.core_world import World, dag, task

WANTED = (wire.Wanted(kind="xcom", name="a", key="k"),)


def python(task_id: str, *upstream: str, **settings: Any) -> TaskSpec:
    return TaskSpec(
        task_id=task_id,
        operator="python",
        arguments={"args": [], "kwargs": {}},
        upstream=upstream,
        **settings,
    )


def start(*tasks: TaskSpec, **settings: Any) -> World:
    world = World(dag("d", *tasks, **settings))
    world.hello()
    world.trigger("d")
    return world


def finish(world: World, grant: wire.Grant, state: str = "success", **xcom: str) -> Effects:
    moment = world.now.wall.timestamp()
    message = wire.Finished(
        agent="node1",
        session=1,
        task_instance_id=grant.task_instance_id,
        try_number=grant.try_number,
        token=grant.token,
        state=state,  # type: ignore[arg-type]  # the tests state it as text
        started_at=moment,
        ended_at=moment,
        xcom={key: msgspec.Raw(text.encode()) for key, text in xcom.items()},
    )
    return world.take(world.core.receive(message, world.now))


def saved(effects: Effects) -> list[dict[str, str]]:
    return [dict(write.values) for write in effects.writes if isinstance(write, SaveXcoms)]


def ask(world: World, token: int, session: int = 1) -> Effects:
    message = wire.Ask(agent="node1", session=session, token=token, request=5, wanted=WANTED)
    return world.core.receive(message, world.now)


# -- with a result -----------------------------------------------------------------------------


def test_what_a_try_has_pushed_is_written_with_its_result() -> None:
    world = start(python("a"))
    effects = finish(world, world.grant(world.next_task()), k='{"x": "ä"}', return_value="1")
    assert saved(effects) == [{"k": '{"x": "ä"}', "return_value": "1"}]


def test_a_failed_try_keeps_what_it_has_pushed_and_the_next_one_replaces_it() -> None:
    world = start(python("a", retries=1, retry_delay=0.0))
    assert saved(finish(world, world.grant(world.next_task()), "failed", k="1")) == [{"k": "1"}]
    world.pass_time(0.1)
    assert saved(finish(world, world.grant(world.next_task()))) == [{}]


def test_a_command_costs_no_write() -> None:
    world = start(task("a", retries=1, retry_delay=0.0))
    assert saved(finish(world, world.grant(world.next_task()), "failed")) == []
    world.pass_time(0.1)
    assert saved(finish(world, world.grant(world.next_task()))) == []


def test_a_result_with_an_old_token_leaves_nothing() -> None:
    world = start(python("a"))
    grant = world.grant(world.next_task())
    stale = msgspec.structs.replace(grant, token=grant.token - 1)
    assert saved(finish(world, stale, k="1")) == []


# -- with a grant ------------------------------------------------------------------------------


def test_a_grant_brings_conf_and_params_to_those_who_read_them() -> None:
    templated = TaskSpec(
        task_id="b", operator="bash", arguments={"command": "{{ ds }}", "templated": True}
    )
    world = World(dag("d", python("a"), templated, task("c"), params={"p": 1}))
    world.hello()
    conf = {"odd": "\ud800", "n": 2}
    world.request("trigger", dag_id="d", run_id="run", conf=conf)
    grants = {
        message.task_id: world.grant(message) for message in [world.next_task() for _ in range(3)]
    }
    for name in ("a", "b"):
        inputs = grants[name].inputs
        assert json.loads(inputs["conf"]) == conf
        assert json.loads(inputs["params"]) == {"p": 1}
        assert wire.decode(wire.encode(grants[name])) == grants[name]
    assert grants["c"].inputs == {}


def test_a_task_message_names_file_and_line() -> None:
    world = start(python("a", line=7), file="sub/x.py")
    message = world.next_task()
    assert (message.dag_file, message.line) == ("sub/x.py", 7)


# -- while a task runs -------------------------------------------------------------------------


def test_a_running_task_may_ask_of_its_own_run() -> None:
    world = start(python("a"))
    grant = world.grant(world.next_task())
    effects = ask(world, grant.token)
    run_pk = world.core.state.tasks[grant.task_instance_id].run_pk
    assert effects.lookups == [
        Lookup(
            agent="node1",
            session=1,
            incarnation="process 1",
            request=5,
            run_pk=run_pk,
            wanted=WANTED,
        )
    ]
    assert effects.replies == []


def test_a_token_that_is_over_or_anothers_is_refused() -> None:
    world = start(python("a"))
    world.hello("node2")
    grant = world.grant(world.next_task(), "node2")
    effects = ask(world, grant.token)
    assert effects.lookups == []
    [(agent, reply)] = effects.replies
    assert (agent, reply) == (
        "node1",
        wire.Answer(
            session=1,
            incarnation="process 1",
            request=5,
            error=f"expected a task that runs, got token {grant.token}, which is over",
        ),
    )


def test_an_unknown_session_is_asked_for_its_hello_first() -> None:
    world = start(python("a"))
    grant = world.grant(world.next_task())
    effects = ask(world, grant.token, session=2)
    assert effects.lookups == []
    assert [type(reply) for _, reply in effects.replies] == [wire.HelloWanted]
