"""Clear and cancel, skip and branch, as the pure core decides them."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.core.core import Rules
from dispatcher.core.records import CloseIntent, CloseTry, Intent, SetWish
from flow import wire
from flow.states import RunState
from tests.unit.core_world import LEASE, World, chain, dag, task

ADA: dict[str, Any] = {"dag_id": "chain", "run_id": "run", "actor": "user ada"}


def cancel(world: World) -> str:
    return world.request("cancel", **ADA)


def clear(world: World, task_id: str | None = None, **flags: Any) -> str:
    return world.request("clear", **ADA, task_id=task_id, **flags)


def begun(length: int = 2, **settings: Any) -> tuple[World, wire.Grant]:
    """A chain whose first task runs."""
    world = World(chain(length, **settings))
    world.hello()
    world.trigger("chain")
    return world, world.grant(world.next_task())


def stops(world: World) -> list[wire.Stop]:
    found = [reply for _, reply in world.replies if isinstance(reply, wire.Stop)]
    world.replies.clear()
    return found


# -- cancel ------------------------------------------------------------------------------------


def test_cancel_skips_what_has_not_begun_and_asks_what_runs_to_stop() -> None:
    world, grant = begun()
    assert cancel(world) == ""
    assert world.states() == {"t0": "running", "t1": "skipped"}
    asked = wire.Stop(
        session=1,
        incarnation="process 1",
        token=grant.token,
        reason="cancelled by user ada",
    )
    assert stops(world) == [asked]
    world.finish(grant, "failed", reason="cancelled by user ada")
    assert world.states()["t0"] == "failed"
    assert world.task("t0").reason == "cancelled by user ada"
    assert world.run_state() is RunState.FAILED


def test_a_cancelled_task_is_not_retried() -> None:
    world, grant = begun(retries=5)
    cancel(world)
    world.finish(grant, "failed")
    assert world.run_state() is RunState.FAILED


def test_the_wish_is_repeated_with_every_heartbeat_that_lists_the_token() -> None:
    world, grant = begun()
    cancel(world)
    stops(world)
    world.heartbeat()
    assert stops(world) == []
    world.heartbeat(tokens=(grant.token,))
    assert [stop.token for stop in stops(world)] == [grant.token]


def test_the_wish_survives_a_new_reign() -> None:
    world, grant = begun()
    cancel(world)
    world.new_reign()
    stops(world)
    world.heartbeat(tokens=(grant.token,))
    assert [stop.reason for stop in stops(world)] == ["cancelled by user ada"]
    world.finish(grant, "failed")
    assert world.run_state() is RunState.FAILED


def test_a_success_that_arrives_before_the_kill_stays_a_success() -> None:
    world, grant = begun(1)
    cancel(world)
    world.finish(grant)
    assert world.states() == {"t0": "success"}
    assert world.run_state() is RunState.SUCCESS


def test_a_cancelled_task_whose_agent_is_lost_does_not_run_again() -> None:
    world, _ = begun()
    cancel(world)
    world.pass_time(LEASE + Rules().grace + 1)
    world.return_markers()
    assert world.states()["t0"] == "failed"
    assert world.task("t0").reason == "cancelled by user ada; agent node1 was lost"
    assert world.run_state() is RunState.FAILED


def test_a_queued_task_of_a_cancelled_run_is_denied() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    message = world.next_task()
    cancel(world)
    assert isinstance(world.claim(message), wire.Deny)
    assert world.run_state() is RunState.FAILED


def test_a_task_that_waits_for_its_retry_is_cancelled() -> None:
    world, grant = begun(retries=1, retry_delay=60.0)
    world.finish(grant, "failed")
    cancel(world)
    assert world.run_state() is RunState.FAILED
    world.pass_time(120)
    assert world.published == []


def test_a_run_that_has_not_started_is_cancelled_and_the_next_one_starts() -> None:
    world = World(dag("chain", task("a"), max_active_runs=1))
    world.hello()
    for name in ("first", "run", "third"):
        world.trigger("chain", name)
    cancel(world)
    assert world.run_state("run") is RunState.FAILED
    world.run_next()
    assert world.run_state("third") is RunState.RUNNING


def test_a_run_that_has_ended_cannot_be_cancelled() -> None:
    world, grant = begun(1)
    world.finish(grant)
    error = request_loaded(world, "cancel")
    assert error == "run chain/run: expected one that has not ended, got success"


def test_an_unknown_run_is_refused() -> None:
    world = World(chain(1))
    error = request_loaded(world, "cancel")
    assert error == "run chain/run: expected a known run; see `flow runs list`"


# -- clear -------------------------------------------------------------------------------------


def request_loaded(world: World, kind: str, **arguments: Any) -> str:
    """A request about a run that is no longer in memory."""
    return world.request(kind, loaded=world.loaded("run"), **ADA, **arguments)


def test_an_ended_run_runs_its_cleared_tasks_again_and_nothing_else() -> None:
    world = World(chain(3))
    world.hello()
    world.trigger("chain")
    for _ in range(3):
        world.run_next()
    assert request_loaded(world, "clear", task_id="t1") == ""
    assert world.states() == {"t0": "success", "t1": "queued", "t2": "success"}
    assert world.run_state() is RunState.RUNNING
    again = world.run_next()
    assert (again.task_id, again.try_number) == ("t1", 2)
    assert world.run_state() is RunState.SUCCESS


def test_two_requests_at_once_for_an_ended_run_do_not_both_go_by_what_was_read_of_it() -> None:
    # The first ends it again at once: what has been read for the second is no longer so.
    world = World(dag("chain", task("bad"), task("below", "bad")))
    world.hello()
    world.trigger("chain")
    world.run_next("failed")
    arguments = {**ADA, "task_id": "below"}
    twice = [
        Intent(id=pk, kind="clear", arguments=arguments, created_at=world.now.wall)
        for pk in (101, 102)
    ]
    read = {intent.id: world.loaded("run") for intent in twice}
    effects = world.take(world.core.request(twice, world.now, read))
    assert [x.intent_id for x in effects.writes if isinstance(x, CloseIntent)] == [101]
    assert world.run_state() is RunState.FAILED
    effects = world.take(world.core.request(twice, world.now, {102: world.loaded("run")}))
    assert [x.intent_id for x in effects.writes if isinstance(x, CloseIntent)] == [102]


def test_clear_downstream_and_upstream() -> None:
    world = World(chain(3))
    world.hello()
    world.trigger("chain")
    for _ in range(3):
        world.run_next()
    request_loaded(world, "clear", task_id="t1", downstream=True)
    assert world.states() == {"t0": "success", "t1": "queued", "t2": "none"}
    clear(world, "t1", upstream=True)
    assert world.states() == {"t0": "queued", "t1": "none", "t2": "none"}
    world.published = [m for m in world.published if m.task_id == "t0"]
    assert [world.run_next().task_id for _ in range(3)] == ["t0", "t1", "t2"]


def test_clear_failed_takes_the_failed_ones_with_fresh_retries() -> None:
    world = World(dag("chain", task("a"), task("b", "a"), task("good")))
    world.hello()
    world.trigger("chain")
    world.run_next("failed")
    world.run_next()
    assert request_loaded(world, "clear", failed=True) == ""
    assert world.states() == {"a": "queued", "b": "none", "good": "success"}
    assert world.task("a").failures == 0
    world.run_next()
    world.run_next()
    assert world.run_state() is RunState.SUCCESS


def test_clear_of_a_running_task_starts_its_new_copy_only_after_the_old_one_has_ended() -> None:
    world, grant = begun()
    clear(world, "t0")
    assert world.states()["t0"] == "running"
    assert [stop.reason for stop in stops(world)] == ["cleared by user ada"]
    assert world.published == []
    world.finish(grant, "failed", reason="cleared by user ada")
    assert world.states() == {"t0": "queued", "t1": "none"}
    assert world.next_task().try_number == 2


def test_a_cleared_task_whose_agent_restarts_runs_again_once() -> None:
    world, _ = begun()
    clear(world, "t0")
    world.hello(session=2)
    assert [message.task_id for message in world.published] == ["t0"]
    assert world.task("t0").deaths == 0


def test_a_task_that_succeeds_although_it_was_cleared_runs_again() -> None:
    world, grant = begun()
    clear(world, "t0")
    world.finish(grant)
    assert world.states() == {"t0": "queued", "t1": "none"}
    outcomes = [write.outcome for write in world.writes if isinstance(write, CloseTry)]
    assert outcomes == ["success"]


def test_cancel_and_then_clear_of_a_task_that_runs_has_it_run_again_after_its_end() -> None:
    world, grant = begun()
    cancel(world)
    clear(world)
    assert [write.wish for write in world.writes if isinstance(write, SetWish)] == [
        "cancel",
        "clear",
    ]
    assert world.states() == {"t0": "running", "t1": "none"}
    world.finish(grant, "failed")
    world.run_next()
    world.run_next()
    assert world.run_state() is RunState.SUCCESS


@pytest.mark.parametrize("state", ["queued", "up_for_retry", "scheduled"])
def test_clear_of_a_task_that_waits_lets_it_run_at_once(state: str) -> None:
    world = World(chain(1, retries=1, retry_delay=60.0))
    world.hello()
    world.trigger("chain")
    if state == "up_for_retry":
        world.run_next("failed")
    if state == "scheduled":
        world.request("pause", dag_id="chain")
        world.hello(session=2)
    stale = list(world.published)
    clear(world, "t0")
    world.request("unpause", dag_id="chain")
    message = world.published[-1]
    for old in stale:
        assert isinstance(world.claim(old, session=2 if state == "scheduled" else 1), wire.Deny)
    world.finish(world.grant(message, session=2 if state == "scheduled" else 1))
    assert world.run_state() is RunState.SUCCESS


def test_clear_of_an_unknown_task_names_the_nearest() -> None:
    world, _ = begun()
    error = clear(world, "t00")
    assert error == "run chain/run: expected one of its tasks, got 't00'; did you mean 't0'?"


def test_clear_of_failed_tasks_where_none_has_failed_is_refused() -> None:
    world, _ = begun()
    assert clear(world, failed=True) == "run chain/run: expected a failed task to clear, got none"


# -- skip, branch, short circuit, trigger rules ------------------------------------------------


def end(world: World, grant: wire.Grant, state: Any = "success", **fields: Any) -> None:
    world.send(
        wire.Finished(
            agent="node1",
            session=1,
            task_instance_id=grant.task_instance_id,
            try_number=grant.try_number,
            token=grant.token,
            state=state,
            started_at=0.0,
            ended_at=1.0,
            **fields,
        )
    )


def test_a_skipped_task_skips_what_needs_its_success() -> None:
    world, grant = begun(3)
    end(world, grant, "skipped", reason="nothing to do")
    assert world.states() == {"t0": "skipped", "t1": "skipped", "t2": "skipped"}
    assert world.run_state() is RunState.SUCCESS


def test_a_branch_skips_the_ways_not_taken_but_not_where_they_meet() -> None:
    world = World(
        dag(
            "d",
            task("pick"),
            task("left", "pick"),
            task("right", "pick"),
            task("join", "left", "right", "pick", trigger_rule="none_failed_min_one_success"),
        )
    )
    world.hello()
    world.trigger("d")
    end(world, world.grant(world.next_task()), follow=("left",))
    assert world.states() == {
        "pick": "success",
        "left": "queued",
        "right": "skipped",
        "join": "none",
    }
    world.run_next()
    assert world.run_next().task_id == "join"
    assert world.run_state() is RunState.SUCCESS


def test_a_short_circuit_skips_everything_below_whatever_its_rule() -> None:
    world = World(dag("d", task("a"), task("b", "a"), task("c", "b", trigger_rule="all_done")))
    world.hello()
    world.trigger("d")
    end(world, world.grant(world.next_task()), stop=True)
    assert world.states() == {"a": "success", "b": "skipped", "c": "skipped"}
    assert world.run_state() is RunState.SUCCESS


def test_a_failure_without_remedy_is_not_retried() -> None:
    world, grant = begun(retries=3)
    end(world, grant, "failed", final=True)
    assert world.states()["t0"] == "failed"


def test_a_clean_up_task_runs_after_a_failure_and_then_its_leaf_decides_the_run() -> None:
    world = World(
        dag("d", task("work"), task("clean", "work", trigger_rule="all_done"), task("x", "work"))
    )
    world.hello()
    world.trigger("d")
    world.run_next("failed")
    assert world.states() == {"work": "failed", "clean": "queued", "x": "upstream_failed"}
    world.run_next()
    assert world.run_state() is RunState.FAILED


def test_one_failed_starts_at_the_first_failure() -> None:
    world = World(
        dag("d", task("a"), task("b"), task("alarm", "a", "b", trigger_rule="one_failed"))
    )
    world.hello()
    world.trigger("d")
    world.run_next("failed")
    assert world.states()["alarm"] == "queued"
