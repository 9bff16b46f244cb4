"""Dispatchers that die, are all away, step down, or are stopped while another one leads."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from functools import partial

import psycopg2

from tests.acceptance.system import Daemon
from tests.chaos.faults import crashes
from tests.chaos.faults.outage import Outage, no_session_was_lost
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed, seconds
from tests.chaos.slots import Slots
from tests.chaos.workload import LedgerTask, short_tasks
from tests.chaos.world import Chaos

#: Times that the leader is killed while another one stands by.
KILLS = 3
SUCCESSION = 5.0
#: RabbitMQ replaces an active consumer that was stopped after 29.5 s, at AMQP heartbeats of 10 s.
SUCCESSION_TO_STOPPED = 40.0
#: What a leader says that was overtaken: by the end of its database session, or by the epoch.
_REFUSED = ("terminating connection", "closed the connection unexpectedly", "another dispatcher")


def all_away(chaos: Chaos) -> Outcome:
    dispatchers = [chaos.start_dispatcher(), _standby(chaos)]
    outage = Outage(chaos)
    chaos.fault()
    for dispatcher in dispatchers:
        dispatcher.kill()
    outage.last(_away(chaos))
    healed = chaos.healed()
    chaos.start_dispatcher()
    recovery = outage.results_arrive(within=60.0) - healed
    outage.end()
    return Outcome(recovery=recovery, detail=f"away for {_away(chaos):.0f} s")


def leader_killed(chaos: Chaos) -> Outcome:
    leader, successor = chaos.start_dispatcher(), _standby(chaos)
    chaos.start_agent("node1", "q1")
    chaos.write_ledger_dag("work", short_tasks(2, "q1", seconds=0.2))
    slots = Slots(chaos, "every-second", 10)
    slowest = 0.0
    for _ in range(KILLS):
        run = chaos.trigger("work")
        killed = chaos.fault()
        leader.kill()
        led = chaos.until(partial(successor.says, "leads: epoch"), "the other one leads")
        slowest = max(slowest, chaos.wait_terminal(run) - killed, led - killed)
        leader, successor = successor, _standby(chaos)
    slots.wait(within=60.0)
    return Outcome(recovery=slowest, detail=f"{KILLS} times, a DAG due every second beside it")


def leader_stopped(chaos: Chaos) -> Outcome:
    leader, successor = chaos.start_dispatcher(), _standby(chaos)
    chaos.start_agent("node1", "q1", slots=4)
    chaos.write_ledger_dag("long", [LedgerTask(task_id="long", until=chaos.gate("long"))])
    run = chaos.trigger("long")
    chaos.alive(1)
    slots = Slots(chaos, "every-second", int(SUCCESSION_TO_STOPPED) + 20)
    chaos.until(lambda: len(slots.ended()) >= 2, "slots are run")
    stopped = chaos.fault()
    leader.process.send_signal(signal.SIGSTOP)
    led = chaos.until(
        lambda: successor.says("leads: epoch"), "the other one leads", 2 * SUCCESSION_TO_STOPPED
    )
    overtaken = len(slots.ended())
    chaos.until(lambda: len(slots.ended()) > overtaken, "the successor runs slots")
    leader.process.send_signal(signal.SIGCONT)
    # It has slots to create that are due since, as it thinks, and tells how that went.
    chaos.until(lambda: any(map(leader.says, _REFUSED)), "a stale write is refused")
    chaos.until(lambda: leader.says("standing by"), "the old leader stands by")
    slots.wait(within=90.0)
    chaos.open("long")
    chaos.wait_terminal(run)
    no_session_was_lost(chaos)
    return Outcome(recovery=led - stopped, detail=f"{len(slots.dates)} slots, a second apart")


def stepping_down(chaos: Chaos) -> Outcome:
    leader, successor = chaos.start_dispatcher(), _standby(chaos)
    chaos.start_agent("node1", "q1")
    chaos.write_ledger_dag("long", [LedgerTask(task_id="long", until=chaos.gate("long"))])
    run = chaos.trigger("long")
    chaos.alive(1)
    held = chaos.scale.leases.takeover * 1.3
    with _epoch_locked(chaos):
        chaos.fault()
        # A commit waits, so nothing is acked: the heartbeats become older than any lease.
        chaos.until(lambda: _unacked(chaos) > 0, "a delivery waits for its commit", held)
        chaos.lasts(held, lambda: not successor.says("leads: epoch"), "the leader keeps leading")
        unacked = _unacked(chaos)
        leader.process.send_signal(signal.SIGTERM)
        chaos.until(lambda: _waits_for_epoch(chaos), "the other one begins its reign")
    released = chaos.healed()
    led = chaos.until(lambda: successor.says("leads: epoch"), "the other one leads")
    if leader.process.wait(30) != 0:
        raise ScenarioFailed(f"the old leader ended with {leader.process.returncode}")
    chaos.lasts(
        chaos.scale.leases.takeover + 2.0, lambda: bool(chaos.ledger.lives()), "tasks live on"
    )
    chaos.open("long")
    chaos.wait_terminal(run)
    no_session_was_lost(chaos)
    return Outcome(
        detail=f"{unacked} unacked after {held:.0f} s, leads {led - released:.1f} s later"
    )


def _away(chaos: Chaos) -> float:
    return chaos.scale.outage(600.0, 4 * chaos.scale.leases.lease)


def _standby(chaos: Chaos) -> Daemon:
    daemon = chaos.start_dispatcher(ready=False)
    chaos.until(lambda: daemon.says("standing by"), "the other dispatcher stands by")
    return daemon


@contextlib.contextmanager
def _epoch_locked(chaos: Chaos) -> Iterator[None]:
    """No dispatcher can write anything meanwhile."""
    connection = psycopg2.connect(chaos.postgres.url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT epoch FROM leader FOR UPDATE")
        yield
    finally:
        connection.close()


def _unacked(chaos: Chaos) -> int:
    text = chaos.broker.rabbitmqctl(
        "list_queues",
        "-p",
        chaos.broker.vhost,
        "name",
        "messages_unacknowledged",
        "--quiet",
        "--no-table-headers",
    )
    counts = dict(line.split("\t") for line in text.splitlines())
    return int(counts["flow.events"])


def _waits_for_epoch(chaos: Chaos) -> bool:
    waiting = chaos.postgres.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE '%%FOR UPDATE%%'"
    )
    return bool(waiting)


SCENARIOS = (
    crashes.SCENARIO,
    Scenario(
        name="dispatchers-away",
        fault="every dispatcher killed and away for 10 minutes",
        expected="no running task killed or rerun, results arrive afterwards",
        run=all_away,
        bound=seconds(20.0),
        waits=True,
    ),
    Scenario(
        name="leader-killed",
        fault="the leader of two dispatchers killed",
        expected="the other one leads, one run per slot",
        run=leader_killed,
        bound=seconds(SUCCESSION),
        short=True,
    ),
    Scenario(
        name="leader-stopped",
        fault="the leader of two dispatchers stopped and, once overtaken, continued",
        expected="stale writes refused, one run per slot",
        run=leader_stopped,
        bound=seconds(SUCCESSION_TO_STOPPED),
        waits=True,
    ),
    Scenario(
        name="dispatcher-steps-down",
        fault="dispatcher stops while it holds unacked heartbeats older than a lease",
        expected="no takeover of a healthy agent",
        run=stepping_down,
        waits=True,
    ),
)
