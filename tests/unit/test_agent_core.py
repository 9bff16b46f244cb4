"""The agent's rules, one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core.ending import STOPPED
from flow import wire
from tests.unit.agent_world import IDENTITY, SETTINGS, World, finished, task

TRUSTED = SETTINGS.lease - SETTINGS.margin


# -- hello -------------------------------------------------------------------------------------


def test_the_first_thing_is_to_prove_earlier_sessions_dead() -> None:
    assert World().did == [do.Fence(frozenset(), 0, "start")]


def test_hello_waits_for_both_the_proof_and_the_connection() -> None:
    world = World()
    assert world.tell(on.LinkUp()) == []
    world.tell(on.Fenced(7))
    (hello,) = world.sent(wire.Hello)
    assert (hello.agent, hello.session, hello.lease, hello.queues) == ("node1", 7, 60.0, ("q1",))
    assert hello.uptime == world.now


def test_nothing_is_consumed_and_no_lease_begins_before_the_hello_is_confirmed() -> None:
    world = World()
    world.tell(on.LinkUp())
    world.tell(on.Fenced(1))
    sent_at, ref = world.now, world.ref(wire.Hello)
    assert world.core.deadline is None
    world.tell(on.Confirmed(ref), after=2.0)
    assert world.did[:2] == [do.SetDeadline(sent_at + TRUSTED), do.Consume()]


def test_a_hello_that_comes_back_is_said_again_after_a_second() -> None:
    world = World()
    world.tell(on.LinkUp())
    world.tell(on.Fenced(1))
    world.tell(on.Refused(world.ref(wire.Hello), "no queue"))
    assert world.core.wake_at() == world.now + 1.0
    assert not world.sent(wire.Hello)
    world.tick(1.0)
    assert len(world.sent(wire.Hello)) == 1


def test_hello_lists_results_left_by_an_earlier_process_and_sends_them_once_confirmed() -> None:
    world = World(spooled=(finished(token=5), finished(token=6, ti=2)))
    world.tell(on.LinkUp())
    world.tell(on.Fenced(3))
    assert world.sent(wire.Hello)[0].spooled == (5, 6)
    assert not world.sent(wire.Finished)
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert [(result.token, result.session) for result in world.sent(wire.Finished)] == [
        (5, 3),
        (6, 3),
    ]


def test_a_wanted_hello_is_said_once_and_what_is_unanswered_follows_it() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.tick(1.5)
    wanted = wire.HelloWanted(session=1)
    world.reply(wanted)
    ref = world.ref(wire.Hello)
    world.reply(wanted)
    assert not world.sent(wire.Hello)
    world.tell(on.Confirmed(ref))
    assert len(world.sent(wire.Claim)) == 1
    assert not world.effects(do.Consume)
    world.reply(wanted)
    assert not world.sent(wire.Hello), "asked for by a message that crossed the hello"


def test_why_a_hello_is_not_accepted_yet_is_said_once() -> None:
    world = World().greet()
    for _ in range(3):
        world.tick(SETTINGS.heartbeat_interval)
        world.reply(wire.HelloWanted(session=1, reason="another one is still heard"))
        reports = [report.text for report in world.effects(do.Report)]
        world.tell(on.Confirmed(world.ref(wire.Hello)))
        if reports:
            said = reports
    assert said == ["the dispatcher does not take this agent yet: another one is still heard"]
    assert reports == []


def test_a_reconnect_says_hello_in_the_same_session_before_anything_else() -> None:
    world = World().greet().run()
    world.tell(on.LinkDown())
    world.exit()
    world.tell(on.Spooled(11))
    assert not world.effects(do.Send)
    world.tell(on.LinkUp())
    assert [type(e.message) for e in world.effects(do.Send)] == [wire.Hello]
    assert world.sent(wire.Hello)[0].session == 1
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert len(world.sent(wire.Finished)) == 1


# -- claims ------------------------------------------------------------------------------------


def test_every_delivery_is_claimed_at_once_with_the_slots_that_are_left_for_it() -> None:
    world = World().greet().run()
    world.tell(on.Delivered(2, task(2)))
    assert [claim.free_slots for claim in world.sent(wire.Claim)] == [1]
    world.tell(on.Delivered(3, task(3)))
    assert [(claim.task_instance_id, claim.free_slots) for claim in world.sent(wire.Claim)] == [
        (3, 0)
    ]


def test_a_claim_is_sent_again_until_it_is_answered() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.tick(1.9)
    assert not world.sent(wire.Claim)
    world.tick(0.1)
    assert len(world.sent(wire.Claim)) == 1
    world.reply(wire.Deny(session=1, task_instance_id=1, try_number=1, reason="over"))
    assert world.did == [do.Ack(1)]
    world.tick(2.0)
    assert not world.sent(wire.Claim)


def test_a_message_that_overtook_the_answer_to_an_earlier_one_is_claimed_after_it() -> None:
    # The dispatcher denied the first and put the task back, then published it once more: both at
    # once, through two queues. Whoever drops the second message leaves the task without any.
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.tell(on.Delivered(2, task()))
    assert world.did == [do.Ack(1)]
    deny = wire.Deny(session=1, task_instance_id=1, try_number=1, reason="not now")
    world.reply(deny)
    assert len(world.sent(wire.Claim)) == 1
    assert not world.effects(do.Ack)
    world.reply(deny)
    assert world.did == [do.Ack(2)]


def test_a_claim_outlives_its_connection_since_its_grant_may_have_been_lost_with_it() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert len(world.sent(wire.Claim)) == 1
    world.grant()
    assert [start.task.task_instance_id for start in world.effects(do.Start)] == [1]


def test_a_granted_claim_starts_and_its_repeated_grant_does_nothing() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.grant()
    assert [start.grant.token for start in world.effects(do.Start)] == [11]
    assert world.grant() == []


@pytest.mark.parametrize("session", [0, 2])
def test_replies_to_another_session_are_ignored(session: int) -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    grant = wire.Grant(session=session, task_instance_id=1, try_number=1, token=11)
    assert world.reply(grant) == []


def test_replies_to_another_process_of_this_name_and_session_are_ignored() -> None:
    world = World().greet().run()
    ended = wire.SessionEnded(session=1, incarnation="another", reason="it is not you")
    assert world.reply(ended) == []
    mine = wire.SessionEnded(session=1, incarnation=IDENTITY.incarnation, reason="it is you")
    world.reply(mine)
    assert world.effects(do.Fence)


def test_a_grant_without_a_claim_is_given_back_until_that_is_answered() -> None:
    world = World().greet()
    world.grant()
    (release,) = world.sent(wire.Release)
    assert (release.token, release.reason, release.fault) == (11, "no claim is pending", False)
    world.tick(3.0)
    assert len(world.sent(wire.Release)) == 1
    world.answer(11)
    world.tick(3.0)
    assert not world.sent(wire.Release)


def test_a_late_grant_of_a_token_that_has_ended_starts_nothing() -> None:
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11))
    world.answer(11)
    world.tell(on.Delivered(2, task()))
    assert len(world.sent(wire.Claim)) == 1
    assert world.grant(token=11) == []
    world.grant(token=12)
    assert len(world.effects(do.Start)) == 1


def test_a_grant_beyond_the_slots_is_given_back() -> None:
    world = World().greet().run(1, 11).run(2, 12, handle=2)
    world.tell(on.Delivered(3, task(3)))
    world.grant(3, 13)
    assert not world.effects(do.Start)
    assert [release.reason for release in world.sent(wire.Release)] == ["no slot is free"]
    assert world.effects(do.Ack) == [do.Ack(3)]


def test_two_tries_of_one_task_instance_never_run_side_by_side() -> None:
    world = World().greet().run(1, 11)
    world.tell(on.Delivered(2, task(1, 2)))
    world.grant(1, 12, try_number=2)
    assert not world.effects(do.Start)
    assert [release.token for release in world.sent(wire.Release)] == [12]


# -- adoption ----------------------------------------------------------------------------------


def test_a_redelivered_message_is_adopted_by_the_process_that_runs_its_task() -> None:
    world = World().greet().run(handle=1)
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert world.tell(on.Delivered(2, task())) == []
    world.exit()
    world.tell(on.Spooled(11))
    world.tell(on.Confirmed(world.ref(wire.Finished)))
    assert world.did == [do.Ack(2)]


def test_a_second_copy_on_one_connection_takes_the_place_of_the_first() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    assert world.tell(on.Delivered(2, task())) == [do.Ack(1)]


def test_a_message_whose_result_is_on_disk_is_acked_at_once() -> None:
    world = World(spooled=(finished(),)).greet()
    assert world.tell(on.Delivered(1, task())) == [do.Ack(1)]


# -- results -----------------------------------------------------------------------------------


def test_a_result_is_on_disk_before_it_is_sent_and_acked_once_the_broker_has_it() -> None:
    world = World().greet().run()
    world.exit()
    (spool,) = world.effects(do.Spool)
    assert (spool.result.token, spool.result.state) == (11, "success")
    assert not world.effects(do.Send)
    world.tell(on.Spooled(11))
    ref = world.ref(wire.Finished)
    assert not world.effects(do.Ack)
    assert world.tell(on.Confirmed(ref)) == [do.Ack(1)]


def test_a_result_is_sent_again_until_answered_and_then_deleted() -> None:
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11))
    world.tick(3.0)
    assert len(world.sent(wire.Finished)) == 1
    assert world.answer(11) == [do.DropSpool(11), do.Ack(1)]
    world.tick(3.0)
    assert not world.sent(wire.Finished)


def test_a_result_that_the_broker_has_is_still_sent_again_until_answered() -> None:
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11))
    world.tell(on.Confirmed(world.ref(wire.Finished)))
    assert not world.effects(do.DropSpool)
    world.tick(3.0)
    assert len(world.sent(wire.Finished)) == 1


def test_a_result_that_cannot_be_spooled_is_sent_all_the_same() -> None:
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11, "No space left on device"))
    assert world.effects(do.Report)[0] == do.Report(
        "error", "result of token 11 is not on disk: No space left on device"
    )
    assert len(world.sent(wire.Finished)) == 1


OOM = "out of memory (limit 4G)"


@pytest.mark.parametrize(
    ("how", "state", "reason"),
    [
        ({"exit_code": 0}, "success", ""),
        ({"exit_code": 3}, "failed", "exit code 3"),
        ({"signal": 9}, "failed", "killed by SIGKILL"),
        ({"signal": 40}, "failed", "killed by signal 40"),
        ({"exit_code": 0, "killed": "execution_timeout 3 s reached"}, "failed", None),
        ({"error": "no such directory"}, "failed", "cannot start: no such directory"),
        ({"signal": 9, "out_of_memory": OOM}, "failed", OOM),
        ({"exit_code": 137, "out_of_memory": OOM}, "failed", OOM),
        ({"exit_code": 0, "out_of_memory": OOM}, "success", ""),
        ({"signal": 9, "out_of_memory": OOM, "killed": "cleared"}, "failed", "cleared"),
    ],
)
def test_what_an_end_comes_to(how: dict[str, Any], state: str, reason: str | None) -> None:
    world = World().greet().run()
    world.exit(**how)
    (spool,) = world.effects(do.Spool)
    expected = how.get("killed") if reason is None else reason
    assert (spool.result.state, spool.result.reason) == (state, expected)


def test_what_a_task_used_travels_with_its_result() -> None:
    world = World().greet().run()
    world.exit(memory_peak=1 << 20, cpu_seconds=2.5)
    (spool,) = world.effects(do.Spool)
    assert (spool.result.memory_peak, spool.result.cpu_seconds) == (1 << 20, 2.5)


def test_what_cannot_be_started_here_is_given_back_as_this_nodes_fault() -> None:
    world = World().greet().run()
    world.exit(error="no bash", fault=True)
    (release,) = world.sent(wire.Release)
    assert (release.token, release.reason, release.fault) == (
        11,
        "cannot start here: no bash",
        True,
    )
    assert world.effects(do.Ack) == [do.Ack(1)]


def test_the_process_of_a_task_that_lasts_is_told_of_once() -> None:
    world = World().greet().run()
    assert not world.sent(wire.Started)
    assert world.core.wake_at() == world.now + 0.5
    world.tick(0.5)
    (started,) = world.sent(wire.Started)
    assert (started.session, started.token, started.pid) == (1, 11, 4711)
    assert started.started_at == 1000.0
    world.tick(0.5)
    assert not world.sent(wire.Started)


def test_the_result_of_a_short_task_says_it_all() -> None:
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11))
    world.tick(0.5)
    assert not world.sent(wire.Started)


# -- lease -------------------------------------------------------------------------------------


def test_heartbeats_list_what_runs_and_expire() -> None:
    world = World().greet().run()
    world.tick(1.0)
    world.tick(4.0)
    (send,) = world.effects(do.Send)
    assert isinstance(send.message, wire.Heartbeat)
    assert send.message.tokens == (11,)
    assert send.expiration == 2 * (60.0 + 15.0)


def test_a_confirmed_heartbeat_moves_the_deadline_by_when_it_was_sent() -> None:
    world = World().greet()
    world.tick(5.0)
    sent_at, ref = world.now, world.ref(wire.Heartbeat)
    assert world.tell(on.Confirmed(ref), after=4.0) == [do.SetDeadline(sent_at + TRUSTED)]


def test_a_heartbeat_that_came_back_does_not_renew() -> None:
    world = World().greet()
    world.tick(5.0)
    before = world.core.deadline
    world.tell(on.Refused(world.ref(wire.Heartbeat), "no queue"))
    assert world.core.deadline == before


def test_the_lapse_kills_forgets_and_drops_the_connection() -> None:
    world = World().greet().run()
    world.tell(on.Delivered(2, task(2)))
    world.tick(TRUSTED)
    assert world.effects(do.Fence) == [do.Fence(frozenset(), 0, "no confirmed heartbeat for 55 s")]
    assert len(world.effects(do.Reconnect)) == 1
    assert not world.effects(do.Send)
    assert world.exit(signal=9) == [], "it was released by the next hello"
    assert world.grant(2, 12) == [], "a reply to a session that is over"


def test_the_clock_is_looked_at_before_a_confirm_or_a_grant() -> None:
    for event in ("confirm", "grant"):
        world = World().greet()
        world.tell(on.Delivered(1, task()))
        world.tick(5.0)
        ref = world.ref(wire.Heartbeat)
        world.now += TRUSTED
        if event == "confirm":
            world.tell(on.Confirmed(ref))
        else:
            world.grant()
        assert world.effects(do.Fence)
        assert not world.effects(do.Start)
        assert not world.effects(do.SetDeadline)


def test_a_hello_confirmed_too_late_lapses_instead_of_greeting() -> None:
    world = World()
    world.tell(on.LinkUp())
    world.tell(on.Fenced(1))
    world.tell(on.Confirmed(world.ref(wire.Hello)), after=TRUSTED)
    assert world.effects(do.Fence)
    assert not world.effects(do.Consume)


def test_after_a_lapse_the_next_session_says_hello_on_a_new_connection() -> None:
    world = World().greet()
    world.tick(TRUSTED)
    world.tell(on.Fenced(2))
    assert not world.effects(do.Send)
    world.tell(on.LinkUp())
    assert [hello.session for hello in world.sent(wire.Hello)] == [2]


def test_after_a_lapse_nothing_is_said_or_started_before_the_proof() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.tick(TRUSTED)
    world.tell(on.LinkUp())
    assert not world.effects(do.Send)
    assert world.grant() == []
    world.tick(TRUSTED)
    assert not world.effects(do.Send)


def test_claims_and_releases_of_an_ended_session_are_not_repeated_in_the_next() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.grant(ti=2, token=12)
    world.tick(TRUSTED)
    world.tell(on.Fenced(2))
    world.tell(on.LinkUp())
    assert world.tell(on.Confirmed(world.ref(wire.Hello)))[1:] == [do.Consume()]


def test_a_lapse_while_connected_elsewhere_ignores_old_confirms() -> None:
    world = World().greet()
    world.tick(5.0)
    ref = world.ref(wire.Heartbeat)
    world.tick(TRUSTED - 5.0)
    world.tell(on.Fenced(2))
    assert world.tell(on.Confirmed(ref)) == []
    assert world.core.deadline is None


def test_results_survive_a_lapse_and_are_listed() -> None:
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11))
    world.tick(TRUSTED)
    world.tell(on.Fenced(2))
    world.tell(on.LinkUp())
    assert world.sent(wire.Hello)[0].spooled == (11,)
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert [result.session for result in world.sent(wire.Finished)] == [2]


def test_tasks_that_wait_out_a_lost_agent_are_kept_and_finish_in_the_next_session() -> None:
    world = World().greet().run(on_agent_lost="wait").run(2, 12, handle=2)
    world.tick(TRUSTED)
    assert [fence.keep for fence in world.effects(do.Fence)] == [{11}]
    world.tell(on.Fenced(2))
    world.tell(on.LinkUp())
    assert world.sent(wire.Hello)[0].kept == (11,)
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    world.tick(5.0)
    assert world.sent(wire.Heartbeat)[0].tokens == (11,)
    world.exit()
    world.tell(on.Spooled(11))
    assert [(r.token, r.session) for r in world.sent(wire.Finished)] == [(11, 2)]


def test_a_kept_task_that_the_keeper_refused_to_start_is_given_back() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task(on_agent_lost="wait")))
    world.grant()
    world.tell(on.LeaseFired("deadline"))
    assert world.exit(error="the lease has lapsed") == []
    world.tell(on.Fenced(2))
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert [release.token for release in world.sent(wire.Release)] == [11]


def test_the_keepers_death_ends_kept_tasks_too() -> None:
    world = World().greet().run(on_agent_lost="wait")
    world.tell(on.LeaseFired("the keeper died", spared_nothing=True))
    assert [fence.keep for fence in world.effects(do.Fence)] == [frozenset()]
    world = World().greet().run(on_agent_lost="wait")
    world.tick(TRUSTED)
    world.tell(on.LeaseFired("the keeper died", spared_nothing=True))
    world.tell(on.Fenced(2))
    world.tell(on.LinkUp())
    assert world.sent(wire.Hello)[0].kept == ()


def test_a_session_that_the_dispatcher_ended_is_followed_by_a_higher_one_after_a_pause() -> None:
    world = World().greet()
    world.reply(wire.SessionEnded(session=1, reason="taken over", last_session=9))
    assert [fence.above for fence in world.effects(do.Fence)] == [9]
    world.tell(on.Fenced(10))
    world.tell(on.LinkUp())
    assert not world.sent(wire.Hello)
    assert world.core.wake_at() == world.now + 3.0
    world.tick(3.0)
    assert [hello.session for hello in world.sent(wire.Hello)] == [10]


# -- the way out -------------------------------------------------------------------------------


def test_an_idle_agent_says_goodbye_and_stops_when_that_is_confirmed() -> None:
    world = World().greet()
    world.tell(on.Interrupt())
    ref = world.ref(wire.Goodbye)
    assert world.grant() == [], "nothing follows the goodbye"
    world.tell(on.Confirmed(ref))
    assert world.did == [do.Stop(0, "drained")]
    assert world.tell(on.Tick()) == []


def test_an_agent_that_never_connected_stops_at_once() -> None:
    world = World()
    world.tell(on.Interrupt())
    assert [stop.code for stop in world.effects(do.Stop)] == [0]


def test_draining_gives_deliveries_back_and_finishes_what_runs() -> None:
    world = World().greet().run()
    world.tell(on.Interrupt())
    assert [effect.reason for effect in world.effects(do.Reconnect)] == ["draining"]
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert not world.effects(do.Consume)
    world.tick(5.0)
    assert world.sent(wire.Heartbeat)
    world.exit()
    world.tell(on.Spooled(11))
    world.tell(on.Confirmed(world.ref(wire.Finished)))
    assert not world.sent(wire.Goodbye)
    world.answer(11)
    assert len(world.sent(wire.Goodbye)) == 1


def test_a_grant_that_arrives_while_draining_is_given_back() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.tell(on.Interrupt())
    assert not world.sent(wire.Goodbye)
    world.grant()
    assert not world.effects(do.Start)
    assert [release.reason for release in world.sent(wire.Release)] == ["the agent drains"]
    world.answer(11)
    assert len(world.sent(wire.Goodbye)) == 1


def test_answers_are_waited_for_within_bounds() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.tell(on.Interrupt())
    world.tick(9.9)
    assert not world.sent(wire.Goodbye)
    world.tick(0.1)
    assert len(world.sent(wire.Goodbye)) == 1
    world.tick(2.0)
    assert [stop.code for stop in world.effects(do.Stop)] == [0]


def test_no_goodbye_while_the_broker_lacks_a_result() -> None:
    world = World().greet().run()
    world.tell(on.LinkDown())
    world.exit()
    world.tell(on.Spooled(11))
    world.tell(on.Interrupt())
    world.tick(10.0)
    assert not world.sent(wire.Goodbye)
    assert [stop.reason for stop in world.effects(do.Stop)] == [
        "drained without a goodbye; 1 results stay spooled"
    ]


def test_no_goodbye_while_the_dispatcher_has_not_answered_a_result_that_the_broker_has() -> None:
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11))
    world.tell(on.Confirmed(world.ref(wire.Finished)))
    world.tell(on.Interrupt())
    world.tick(10.0)
    assert not world.sent(wire.Goodbye)
    assert [stop.reason for stop in world.effects(do.Stop)] == [
        "drained without a goodbye; 1 results stay spooled"
    ]


def test_what_outlasts_the_drain_timeout_is_killed_and_given_back() -> None:
    world = World(settings=SETTINGS_SHORT).greet().run().run(2, 12, 2, on_agent_lost="fail")
    world.tell(on.Interrupt())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    world.tick(30.0)
    assert world.effects(do.Kill) == [do.Kill(11, 5.0, STOPPED), do.Kill(12, 5.0, STOPPED)]
    world.exit(11, exit_code=0, killed=STOPPED)
    assert [release.token for release in world.sent(wire.Release)] == [11]
    world.exit(12, signal=15, killed=STOPPED)
    assert [spool.result.state for spool in world.effects(do.Spool)] == ["failed"]


SETTINGS_SHORT = type(SETTINGS)(name="node1", queues=("q1",), slots=2, drain_timeout=30.0)


def test_the_second_signal_kills_and_the_third_stops() -> None:
    world = World().greet().run()
    world.tell(on.Interrupt())
    world.tell(on.Interrupt())
    assert world.effects(do.Kill) == [do.Kill(11, 0.0, STOPPED)]
    world.tell(on.Interrupt())
    assert world.did == [do.Stop(130, "interrupted")]


def test_a_task_that_is_to_stop_is_told_once_however_often_the_dispatcher_says_so() -> None:
    world = World().greet().run()
    stop = wire.Stop(session=1, token=11, reason="cancelled by user ada")
    world.reply(stop)
    assert world.effects(do.Kill) == [do.Kill(11, 5.0, "cancelled by user ada")]
    world.reply(stop)
    assert world.effects(do.Kill) == []
    world.exit(11, signal=15, killed="cancelled by user ada")
    (spool,) = world.effects(do.Spool)
    assert (spool.result.state, spool.result.reason) == ("failed", "cancelled by user ada")


def test_a_stop_for_a_token_that_does_not_run_here_changes_nothing() -> None:
    world = World().greet().run()
    world.reply(wire.Stop(session=1, token=99, reason="cancelled by user ada"))
    assert world.did == []
