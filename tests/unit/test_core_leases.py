"""Claims, tokens, sessions, leases and repair, as the pure core decides them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dispatcher.core.core import Rules
from dispatcher.core.records import CloseTry, EndSession, TakeBackDeath
from flow import wire
from flow.states import RunState
from tests.unit.core_world import LEASE, World, chain, dag, task

GRACE = Rules().grace
HEARTBEAT = Rules().heartbeat_interval


def started(world: World, agent: str = "node1", session: int = 1) -> wire.Grant:
    """A run of the world's chain whose first task runs on *agent*."""
    world.hello(agent, session)
    world.trigger("chain")
    return world.grant(world.next_task(), agent, session)


def lost_by_silence(world: World) -> None:
    world.pass_time(LEASE + GRACE + 0.1)
    world.return_markers()


def test_the_same_claim_gets_the_same_grant_again() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    message = world.next_task()
    assert world.claim(message) == world.claim(message)


def test_two_agents_claim_the_same_try_and_one_gets_it() -> None:
    world = World(chain(1))
    world.hello("node1")
    world.hello("node2")
    world.trigger("chain")
    message = world.next_task()
    assert isinstance(world.claim(message, "node1"), wire.Grant)
    assert isinstance(world.claim(message, "node2"), wire.Deny)


def test_a_claim_of_a_stale_try_is_denied() -> None:
    world = World(chain(1, retries=1, retry_delay=0.0))
    world.hello()
    world.trigger("chain")
    first = world.run_next("failed")
    world.pass_time(1)
    reply = world.claim(first)
    assert isinstance(reply, wire.Deny)
    assert reply.reason == "this try is over"


def test_a_claim_without_a_free_slot_is_put_back_until_a_slot_is_free() -> None:
    world = World(dag("chain", task("a"), task("b")))
    world.hello(slots=1)
    world.trigger("chain")
    a, b = world.next_task(), world.next_task()
    grant = world.grant(a)
    reply = world.claim(b)
    assert isinstance(reply, wire.Deny)
    assert reply.reason == "not now: all 1 slots of agent node1 are busy"
    assert world.states() == {"a": "running", "b": "scheduled"}
    assert world.published == []
    world.finish(grant)
    assert world.run_next().task_id == "b"


def test_tokens_grow_even_when_the_wall_clock_steps_back() -> None:
    world = World(chain(1, retries=1, retry_delay=0.0))
    first = started(world)
    world.finish(first, "failed")
    world.pass_time(1)
    world.elapsed -= 3600
    world.take(world.core.tick(world.now))
    second = world.grant(world.next_task())
    assert second.token > first.token


def test_a_result_with_an_old_token_changes_nothing_and_is_answered() -> None:
    world = World(chain(1))
    old = started(world)
    lost_by_silence(world)
    world.hello("node2")
    new = world.grant(world.next_task(), "node2")
    world.hello("node1", 2)
    (answer,) = world.finish(old, session=2)
    assert answer == wire.Answered(session=2, tokens=(old.token,))
    assert world.states() == {"t0": "running"}
    world.finish(new, agent="node2")
    assert world.run_state() is RunState.SUCCESS


def test_a_result_is_taken_once() -> None:
    world = World(chain(2))
    grant = started(world)
    world.finish(grant)
    before = len(world.writes)
    assert world.finish(grant) == [wire.Answered(session=1, tokens=(grant.token,))]
    assert len(world.writes) == before


def test_an_agent_cannot_end_another_agents_token() -> None:
    world = World(chain(1))
    grant = started(world)
    world.hello("node2")
    world.finish(grant, "failed", agent="node2")
    assert world.states() == {"t0": "running"}


def test_a_restarted_agent_has_its_tasks_run_again_at_once_without_using_up_retries() -> None:
    world = World(chain(1, retries=0))
    started(world)
    world.hello(session=2)
    message = world.next_task()
    assert (message.try_number, world.task("t0").failures) == (2, 0)
    assert world.task("t0").reason == ""
    world.finish(world.grant(message, session=2))
    assert world.run_state() is RunState.SUCCESS


def test_a_hello_keeps_tokens_whose_result_is_in_the_spool() -> None:
    world = World(chain(1))
    grant = started(world)
    world.hello(session=2, spooled=(grant.token,))
    assert world.states() == {"t0": "running"}
    world.finish(grant, session=2)
    assert world.run_state() is RunState.SUCCESS


def test_a_token_that_a_hello_kept_is_not_granted_again_to_the_new_session() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    message = world.next_task()
    grant = world.grant(message)
    world.hello(session=2, spooled=(grant.token,))
    assert isinstance(world.claim(message, session=2), wire.Deny)
    assert world.states() == {"t0": "running"}


def test_a_repeated_hello_of_the_same_session_releases_nothing() -> None:
    world = World(chain(1))
    started(world)
    world.hello()
    assert world.states() == {"t0": "running"}


def test_everything_from_a_lower_session_is_refused() -> None:
    world = World(chain(1))
    grant = started(world, session=3)
    world.hello(session=4, spooled=(grant.token,))
    (reply,) = world.finish(grant, session=3)
    assert isinstance(reply, wire.SessionEnded)
    assert reply.last_session == 4
    assert world.states() == {"t0": "running"}
    (reply,) = world.hello(session=2)
    assert isinstance(reply, wire.SessionEnded)


def test_an_unknown_session_is_asked_for_its_hello() -> None:
    world = World(chain(1))
    assert world.heartbeat() == [wire.HelloWanted(session=1)]
    world.hello()
    assert world.heartbeat(session=2) == [wire.HelloWanted(session=2)]


def test_a_silent_agent_is_taken_over_after_lease_plus_grace() -> None:
    world = World(chain(1))
    started(world)
    world.pass_time(LEASE + GRACE - 0.1)
    assert world.states() == {"t0": "running"}
    world.pass_time(0.2)
    assert world.states() == {"t0": "queued"}
    (ended,) = [write for write in world.writes if isinstance(write, EndSession)]
    assert ended.how == "lost"


def test_nothing_is_taken_over_before_the_pulse_sent_after_the_silence_has_come_back() -> None:
    world = World(chain(1))
    started(world)
    world.pass_time(LEASE + GRACE - 0.1)
    world.pass_time(0.2, clear=False)
    assert len(world.markers) == 1
    assert world.states() == {"t0": "running"}
    world.return_markers()
    assert world.states() == {"t0": "queued"}


def test_pulses_begin_with_silence_and_end_with_a_word() -> None:
    world = World(chain(1))
    grant = started(world)
    world.pass_time(2 * HEARTBEAT - 0.1, clear=False)
    assert world.markers == []
    world.pass_time(0.2, clear=False)
    assert len(world.markers) == 1
    world.pass_time(10 * HEARTBEAT, clear=False)
    assert len(world.markers) == 1, "one at a time"
    world.heartbeat(tokens=(grant.token,))
    world.return_markers()
    world.pass_time(2 * HEARTBEAT - 0.1, clear=False)
    assert world.markers == []


def test_a_heartbeat_read_before_the_pulse_prevents_the_takeover() -> None:
    world = World(chain(1))
    grant = started(world)
    world.pass_time(LEASE + GRACE - 0.1)
    world.pass_time(0.2, clear=False)
    world.heartbeat(tokens=(grant.token,))
    world.return_markers()
    assert world.states() == {"t0": "running"}


@pytest.mark.parametrize("clear_before", [0.0, 12.0, 40.0, LEASE + GRACE - 6])
def test_time_for_which_the_line_is_held_up_is_no_silence(clear_before: float) -> None:
    world = World(chain(1))
    started(world)
    world.pass_time(clear_before)
    world.pass_time(600, clear=False)  # an alarm: the pulse is stuck with everything else
    world.return_markers()
    assert world.states() == {"t0": "running"}
    unseen = Rules().short_silence  # what may have passed before the first pulse was stuck
    world.pass_time(max(0.0, LEASE + GRACE - clear_before - unseen - 0.1))
    assert world.states() == {"t0": "running"}
    world.pass_time(unseen + HEARTBEAT + 0.2)
    assert world.states() == {"t0": "queued"}


def test_time_for_which_the_dispatcher_itself_was_stopped_is_no_silence() -> None:
    world = World(chain(1))
    started(world)
    world.pass_time(11)
    world.elapsed += 600
    world.take(world.core.tick(world.now))
    world.return_markers()
    assert world.states() == {"t0": "running"}
    world.pass_time(LEASE + GRACE - 3 * HEARTBEAT - 0.1)
    assert world.states() == {"t0": "running"}
    world.pass_time(3 * HEARTBEAT)
    assert world.states() == {"t0": "queued"}


def test_a_marker_of_an_earlier_reign_is_not_taken_for_one_of_this_reign() -> None:
    world = World(chain(1))
    started(world)
    world.new_reign()
    world.pass_time(LEASE + GRACE - 0.1)
    world.pass_time(0.2, clear=False)
    (number,) = world.markers
    world.send(wire.Marker(reign=1, number=number))
    assert world.states() == {"t0": "running"}
    world.send(wire.Marker(reign=2, number=number))
    assert world.states() == {"t0": "queued"}


def test_a_new_reign_starts_every_lease_afresh_and_ignores_old_markers() -> None:
    world = World(chain(1))
    started(world)
    world.pass_time(LEASE + GRACE - 0.1)
    world.pass_time(0.2, clear=False)
    old_marker = wire.Marker(reign=1, number=world.markers[0])
    world.new_reign()
    world.send(old_marker)
    assert world.states() == {"t0": "running"}
    world.pass_time(LEASE + GRACE - 0.1)
    assert world.states() == {"t0": "running"}
    world.pass_time(0.2)
    assert world.states() == {"t0": "queued"}


@pytest.mark.parametrize("on_agent_lost", ["rerun", "wait"])
def test_an_agent_declared_dead_loses_everything_at_once(on_agent_lost: str) -> None:
    world = World(chain(1, on_agent_lost=on_agent_lost))
    grant = started(world)
    world.pass_time(20)
    assert world.request("declare_dead", agent="node1", actor="ada") == ""
    assert world.states() == {"t0": "queued"}
    assert world.task("t0").deaths == 1
    (ended,) = [write for write in world.writes if isinstance(write, EndSession)]
    assert ended.how == "declared dead"
    assert isinstance(world.heartbeat(tokens=(grant.token,))[0], wire.SessionEnded)


def test_a_task_that_outlived_its_agents_declared_death_is_stopped() -> None:
    world = World(chain(1, on_agent_lost="wait"))
    grant = started(world)
    lost_by_silence(world)
    world.request("declare_dead", agent="node1")
    world.hello(session=2, process="process 1", kept=(grant.token,))
    (stop,) = world.heartbeat(session=2, tokens=(grant.token,))
    assert stop == wire.Stop(session=2, token=grant.token, reason="its token has ended")


def test_only_a_silent_agent_can_be_declared_dead() -> None:
    world = World(chain(1))
    started(world)
    world.pass_time(3)
    assert world.request("declare_dead", agent="node1") == (
        "agent 'node1': expected one that is silent, got one that was heard 3 s ago; "
        "stop it on its node first"
    )
    assert world.request("declare_dead", agent="node2") == (
        "agent 'node2': expected one ever seen; did you mean 'node1'?"
    )


def test_a_session_that_was_taken_over_is_told_so() -> None:
    world = World(chain(1))
    started(world)
    lost_by_silence(world)
    (reply,) = world.heartbeat()
    assert isinstance(reply, wire.SessionEnded)
    world.hello(session=2)
    assert world.heartbeat(session=2) == []


def test_goodbye_gives_everything_back_and_ends_the_session() -> None:
    world = World(chain(1))
    started(world)
    world.send(wire.Goodbye(agent="node1", session=1))
    assert world.states() == {"t0": "queued"}
    assert world.task("t0").deaths == 0


def test_on_agent_lost_fail_fails_the_task() -> None:
    world = World(chain(1, on_agent_lost="fail"))
    started(world)
    world.hello(session=2)
    assert world.states() == {"t0": "failed"}
    assert world.task("t0").reason == "agent node1 was restarted (on_agent_lost='fail')"


def test_on_agent_lost_wait_outlives_silence_until_a_later_session_speaks() -> None:
    world = World(chain(1, on_agent_lost="wait"))
    grant = started(world)
    lost_by_silence(world)
    assert world.states() == {"t0": "running"}
    world.hello(session=2, process="process 1", kept=(grant.token,))
    assert world.states() == {"t0": "running"}
    world.hello(session=3)
    assert world.states() == {"t0": "queued"}


def test_three_deaths_of_agents_fail_the_task_they_were_running() -> None:
    world = World(chain(1))
    world.hello(session=1)
    world.trigger("chain")
    for session in (1, 2, 3):
        world.grant(world.next_task(), session=session)
        world.hello(session=session + 1)
    assert world.states() == {"t0": "failed"}
    assert world.task("t0").reason == (
        "3 agents died while running it; last: agent node1 was restarted"
    )


def test_a_lapse_of_the_same_process_is_not_charged_to_the_task() -> None:
    world = World(chain(1))
    world.hello(process="p")
    world.trigger("chain")
    world.grant(world.next_task())
    world.hello(session=2, process="p")
    assert world.task("t0").deaths == 0
    assert world.states() == {"t0": "queued"}


def test_a_takeover_of_a_process_that_comes_back_is_not_charged_to_the_task() -> None:
    world = World(chain(1))
    world.hello(process="p")
    world.trigger("chain")
    world.grant(world.next_task())
    lost_by_silence(world)
    assert world.task("t0").deaths == 1, "it may have killed the agent"
    world.hello(session=2, process="p")
    assert world.task("t0").deaths == 0
    assert world.states() == {"t0": "queued"}
    [back] = [write for write in world.writes if isinstance(write, TakeBackDeath)]
    assert back.reason == "agent node1 had not died"


def test_three_partitions_of_healthy_agents_fail_no_task() -> None:
    world = World(chain(1))
    world.trigger("chain")
    for session in range(1, 6):
        world.hello(session=session, process="p")
        world.grant(world.next_task(), session=session)
        lost_by_silence(world)
        world.new_reign()  # the next dispatcher knows it, too
    assert world.states() == {"t0": "queued"}
    assert world.task("t0").deaths == 1


def test_a_takeover_of_a_process_that_is_gone_stays_charged() -> None:
    world = World(chain(1))
    started(world)
    lost_by_silence(world)
    world.hello(session=2, process="another")
    assert world.task("t0").deaths == 1
    world.hello(session=3, process="process 1")
    assert world.task("t0").deaths == 1, "and stays so"


def test_a_death_that_was_none_is_taken_back_wherever_the_task_is_by_then() -> None:
    world = World(chain(1))
    started(world)
    lost_by_silence(world)
    world.hello("node2")
    grant = world.grant(world.next_task(), "node2")
    world.hello(session=2, process="process 1")
    assert world.task("t0").deaths == 0
    assert world.states() == {"t0": "running"}
    world.finish(grant, agent="node2")
    assert world.run_state() is RunState.SUCCESS


def test_a_death_that_was_none_is_taken_back_once() -> None:
    world = World(chain(1))
    started(world)
    lost_by_silence(world)
    world.hello("node2")
    world.grant(world.next_task(), "node2")
    world.hello("node2", session=2)
    assert world.task("t0").deaths == 2
    for session in (2, 3):
        world.hello(session=session, process="process 1")
        assert world.task("t0").deaths == 1


def test_what_an_agent_declared_dead_was_charged_with_is_taken_back_as_well() -> None:
    world = World(dag("chain", task("a", on_agent_lost="wait"), task("b")))
    world.hello()
    world.trigger("chain")
    world.grant(world.next_task())
    world.grant(world.next_task())
    lost_by_silence(world)
    world.request("declare_dead", agent="node1", actor="ada")
    assert [world.task(name).deaths for name in "ab"] == [1, 1]
    world.hello(session=2, process="process 1")
    assert [world.task(name).deaths for name in "ab"] == [0, 0]


def test_what_has_ended_or_was_cleared_stays_as_it_is_when_its_agent_comes_back() -> None:
    world = World(dag("chain", task("a"), task("b"), task("c")))
    world.hello()
    world.trigger("chain")
    for _ in "abc":
        world.grant(world.next_task())
    lost_by_silence(world)
    world.hello("node2")
    world.run_next(agent="node2")
    world.request(
        "clear",
        dag_id="chain",
        run_id="run",
        task_id="b",
        upstream=False,
        downstream=False,
        failed=False,
        actor="ada",
    )
    before = len(world.writes)
    world.hello(session=2, process="process 1")
    back = [write for write in world.writes[before:] if isinstance(write, TakeBackDeath)]
    assert [write.task_pk for write in back] == [world.task("c").id]
    assert [world.task(name).deaths for name in "abc"] == [1, 0, 0]


def test_a_task_that_failed_as_poison_stays_failed_when_an_agent_comes_back() -> None:
    world = World(chain(1), dag("other", task("u")))
    world.hello()
    world.trigger("chain")
    for session in (1, 2):
        world.grant(world.next_task(), session=session)
        world.hello(session=session + 1)
    world.grant(world.next_task(), session=3)
    lost_by_silence(world)
    assert world.states() == {"t0": "failed"}
    world.hello(session=4, process="process 3")
    assert world.states() == {"t0": "failed"}
    assert not [write for write in world.writes if isinstance(write, TakeBackDeath)]


def test_what_is_let_off_is_no_suspect_any_more() -> None:
    world = World(dag("chain", task("a"), task("b")))
    world.hello(session=1)
    world.trigger("chain")
    for _ in "ab":
        world.grant(world.next_task())
    world.hello(session=2)
    for _ in "ab":
        world.grant(world.next_task(), session=2)
    lost_by_silence(world)
    world.hello("node2")
    a, b = world.next_task(), world.next_task()
    world.grant(a, "node2")
    assert isinstance(world.claim(b, "node2"), wire.Deny), "one suspect at a time"
    world.hello(session=3, process="process 2")
    world.grant(world.next_task(), "node2")
    assert world.states() == {"a": "running", "b": "running"}


def test_a_suspect_that_waits_for_another_one_goes_on_when_that_is_let_off() -> None:
    world = World(dag("chain", task("a", queue="q1"), task("b", queue="q2")))
    world.trigger("chain")
    messages = {message.queue: message for message in world.published}
    for session in (1, 2):
        for queue in ("q1", "q2"):
            world.hello(queue, session, queues=[queue])
            world.published.clear()
            world.grant(messages[queue], queue, session)
        lost_by_silence(world)
        messages = {message.queue: message for message in world.published}
    world.hello("both", queues=["q1", "q2"])
    world.grant(messages["q1"], "both")
    world.published.clear()
    assert isinstance(world.claim(messages["q2"], "both"), wire.Deny)
    world.hello("q1", session=3, queues=["q1"], process="process 2")
    [message] = world.published
    world.grant(message, "both")
    assert world.states() == {"a": "running", "b": "running"}


def test_what_ran_when_an_agent_died_once_runs_again_side_by_side() -> None:
    world = World(dag("chain", task("a"), task("b")))
    world.hello(session=1)
    world.trigger("chain")
    world.grant(world.next_task())
    world.grant(world.next_task())
    world.hello(session=2)
    world.grant(world.next_task(), session=2)
    world.grant(world.next_task(), session=2)
    assert world.states() == {"a": "running", "b": "running"}


def test_an_agent_runs_one_suspect_at_a_time_and_the_next_death_is_charged_to_it_alone() -> None:
    world = World(dag("chain", task("a"), task("b")))
    world.hello(session=1)
    world.trigger("chain")
    for session in (1, 2):
        world.grant(world.next_task(), session=session)
        world.grant(world.next_task(), session=session)
        world.hello(session=session + 1)
    a, b = world.next_task(), world.next_task()
    world.grant(a, session=3)
    assert isinstance(world.claim(b, session=3), wire.Deny)
    world.hello(session=4)
    assert world.states()["a"] == "failed"
    assert sorted(world.task(name).deaths for name in "ab") == [2, 3]


def test_the_same_name_from_another_home_is_refused_while_the_first_lives() -> None:
    world = World(chain(1))
    grant = started(world, session=5)
    (reply,) = world.hello(session=1, home="another machine")
    assert isinstance(reply, wire.SessionEnded)
    assert "already here from another machine" in reply.reason
    world.heartbeat(session=5, tokens=(grant.token,))
    assert world.states() == {"t0": "running"}
    lost_by_silence(world)
    (reply,) = world.hello(session=1, home="another machine")
    assert isinstance(reply, wire.SessionEnded)
    assert world.hello(session=reply.last_session + 1, home="another machine") == []


def test_the_same_name_from_another_home_is_refused_while_tasks_wait_for_the_first() -> None:
    world = World(chain(1, on_agent_lost="wait"))
    grant = started(world)
    lost_by_silence(world)
    (reply,) = world.hello(session=2, home="another machine")
    assert isinstance(reply, wire.SessionEnded)
    assert "say `flow agents declare-dead node1` if it will not return" in reply.reason
    world.new_reign()
    assert isinstance(world.hello(session=2, home="another machine")[0], wire.SessionEnded)
    world.send(wire.Goodbye(agent="node1", session=2))
    assert world.states() == {"t0": "running"}
    world.hello(session=2, process="process 1", kept=(grant.token,))
    assert world.states() == {"t0": "running"}


def test_after_its_predecessor_was_declared_dead_another_home_may_take_the_name() -> None:
    world = World(chain(1, on_agent_lost="wait"))
    started(world)
    lost_by_silence(world)
    world.request("declare_dead", agent="node1")
    assert world.hello(session=2, home="another machine") == []
    world.finish(world.grant(world.next_task(), session=2))
    assert world.run_state() is RunState.SUCCESS


def test_two_machines_with_one_name_and_one_session_are_told_apart_by_their_processes() -> None:
    world = World(chain(1))
    grant = started(world)
    world.replies.clear()
    world.hello(home="another machine", process="another")
    (_, refused) = world.replies[-1]
    assert isinstance(refused, wire.SessionEnded)
    assert (refused.session, refused.incarnation) == (1, "another")
    release = wire.Release(
        agent="node1",
        session=1,
        incarnation="another",
        task_instance_id=grant.task_instance_id,
        token=grant.token,
        reason="no claim is pending",
    )
    (reply,) = world.send(release)
    assert isinstance(reply, wire.SessionEnded)
    assert world.states() == {"t0": "running"}


def test_a_foreign_process_renews_no_lease() -> None:
    world = World(chain(1))
    grant = started(world)
    for _ in range(20):
        world.pass_time(HEARTBEAT)
        beat = wire.Heartbeat(
            agent="node1", session=1, incarnation="another", lease=LEASE, tokens=(grant.token,)
        )
        world.send(beat)
    assert world.states() == {"t0": "queued"}


def test_replies_name_the_process_they_are_for() -> None:
    world = World(chain(1))
    world.hello(process="p")
    world.trigger("chain")
    world.replies.clear()
    world.grant(world.next_task())
    (_, grant) = world.replies[-1]
    assert grant.incarnation == "p"


def test_a_copy_of_a_machine_waits_for_as_long_as_the_first_is_heard() -> None:
    world = World(chain(1))
    grant = started(world)
    for _ in range(10):
        world.pass_time(HEARTBEAT)
        world.heartbeat(tokens=(grant.token,))
        (reply,) = world.hello(session=2, boot="another")
        assert isinstance(reply, wire.HelloWanted)
        assert "if this is a copy of that machine" in reply.reason
    assert world.states() == {"t0": "running"}


def test_a_machine_that_was_started_anew_is_no_copy() -> None:
    world = World(chain(1))
    started(world)
    world.pass_time(2 * HEARTBEAT)
    assert world.hello(session=2, boot="another") == []
    assert world.states() == {"t0": "queued"}


def test_a_grant_that_never_arrived_is_repeated_on_heartbeats_that_do_not_list_it() -> None:
    world = World(chain(1))
    grant = started(world)
    assert world.heartbeat() == []
    world.pass_time(LEASE / 4 + 1)
    (again,) = world.heartbeat()
    assert isinstance(again, wire.Grant)
    assert again.task is not None, "it may lack the message"
    assert replace(again, task=None) == grant
    world.pass_time(LEASE / 4 + 1)
    assert world.heartbeat(tokens=(grant.token,)) == []


def test_a_released_token_is_another_try_and_three_faults_fail_it() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    for _ in range(3):
        world.pass_time(60)
        grant = world.grant(world.next_task())
        world.send(
            wire.Release(
                agent="node1",
                session=1,
                task_instance_id=grant.task_instance_id,
                token=grant.token,
                reason="bundle abc cannot be fetched",
                fault=True,
            )
        )
        world.heartbeat()
    assert world.states() == {"t0": "failed"}
    assert world.task("t0").reason == "given back 3 times: bundle abc cannot be fetched"
    closed = [write for write in world.writes if isinstance(write, CloseTry)]
    assert [write.outcome for write in closed] == ["released", "released", "failed"]


def test_queued_rows_are_published_again_when_a_reign_begins() -> None:
    world = World(chain(1))
    world.trigger("chain")
    message = world.published[0]
    world.new_reign()
    assert world.published == [message]


@pytest.mark.parametrize("claimed", [False, True])
def test_a_message_the_broker_lost_is_published_again_unless_it_was_claimed(claimed: bool) -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    message = world.next_task()
    world.take(world.core.queue_observed("default", 0))
    if claimed:
        world.grant(message)
    world.return_markers()
    assert world.published == []
    world.take(world.core.queue_observed("default", 0))
    assert world.published == ([] if claimed else [message])


def test_a_message_that_waits_at_the_broker_is_not_published_again() -> None:
    world = World(chain(1))
    world.trigger("chain")
    world.published.clear()
    for ready in (0, 1, 0):
        world.take(world.core.queue_observed("default", ready))
        world.return_markers()
    assert world.published == []
