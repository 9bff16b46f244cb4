"""RabbitMQ takes nothing from publishers while it is short of memory or disk."""

from __future__ import annotations

from functools import partial

from tests.acceptance.ledger import now
from tests.chaos.faults.holding import hold, last_sign_of, live_on, taken_over_by
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed, seconds, takeover_plus
from tests.chaos.workload import LedgerTask, short_tasks
from tests.chaos.world import Chaos

MEMORY = ("set_vm_memory_high_watermark", "0.0001"), ("set_vm_memory_high_watermark", "0.4")
DISK = ("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")
Alarm = tuple[tuple[str, str], tuple[str, str]]
#: Seconds after its beginning in which what was on its way may still start a task.
UNDER_WAY = 1.0
HELD = 3


def alarm(chaos: Chaos, kind: Alarm) -> Outcome:
    _scale_amqp(chaos)
    chaos.start_dispatcher()
    for name in ("node1", "node2"):
        chaos.start_agent(name, "q1", slots=2)
    held = [LedgerTask(task_id=f"held{n}", until=chaos.gate("go"), weight=9) for n in range(HELD)]
    ends = LedgerTask(task_id="ends", until=chaos.gate("during"), weight=9)
    chaos.write_ledger_dag("work", [*held, ends, *short_tasks(8, "q1")])
    run = chaos.trigger("work")
    chaos.alive(HELD + 1)
    begin, end = kind
    chaos.broker.rabbitmqctl(*begin)
    began_at = chaos.fault()
    # A result that cannot be sent, and a slot that is free for what waits.
    chaos.open("during")
    lasts = chaos.scale.outage(300.0, 4 * chaos.scale.leases.lease)
    chaos.lasts(lasts, partial(live_on, chaos, HELD), "what runs goes on")
    started = [life.task for life in chaos.ledger.lives() if life.first > began_at + UNDER_WAY]
    if started:
        raise ScenarioFailed(f"expected no start during the alarm, got {', '.join(started)}")
    chaos.broker.rabbitmqctl(*end)
    over_at = chaos.healed()
    chaos.open("go")
    done = chaos.wait_terminal(run)
    sessions = dict(chaos.postgres.query("SELECT name, session FROM agent"))
    if set(sessions.values()) != {1}:
        raise ScenarioFailed(f"expected every agent in its first session, got {sessions}")
    return Outcome(recovery=done - over_at, detail=f"for {lasts:.0f} s, then {_starts(chaos)}")


def alarm_and_partition(chaos: Chaos) -> Outcome:
    _scale_amqp(chaos)
    chaos.start_dispatcher()
    proxy = chaos.proxy(chaos.system.broker_url)
    environment = {"FLOW_BROKER_URL": proxy.url}
    chaos.start_agent("node1", "q1", slots=HELD, environment=environment)
    chaos.write_ledger_dag("hold", hold(chaos, count=HELD))
    run = chaos.trigger("hold")
    chaos.alive(HELD, agent="node1")
    chaos.start_agent("node2", "q1", slots=HELD)
    begin, end = MEMORY
    chaos.broker.rabbitmqctl(*begin)
    longer_than_a_lease = 1.5 * chaos.scale.leases.takeover
    chaos.lasts(longer_than_a_lease, partial(live_on, chaos, HELD), "what runs goes on")
    chaos.fault()
    proxy.hold()
    chaos.broker.rabbitmqctl(*end)
    over_at = chaos.healed()
    taken_over = taken_over_by(chaos, "node2", HELD)
    proxy.release()
    chaos.wait_terminal(run)
    return Outcome(
        recovery=max(taken_over) - over_at,
        detail=f"dead {min(taken_over) - last_sign_of(chaos, 'node1'):.2f} s before the takeover",
        reruns_allowed=HELD,
    )


def _scale_amqp(chaos: Chaos) -> None:
    """An agent's proof that an alarm goes on lags behind by half of an AMQP heartbeat, which is
    10 s: too much for a scaled lease."""
    if not chaos.scale.full:
        chaos.system.broker_url += "?heartbeat=2"


def _starts(chaos: Chaos) -> str:
    first = min(life.first for life in chaos.ledger.lives() if life.first > (chaos.healed_at or 0))
    return f"the next start {first - (chaos.healed_at or now()):.1f} s after its end"


SCENARIOS = (
    Scenario(
        name="memory-alarm",
        fault="a memory alarm, for several leases",
        expected="nothing killed, nothing granted, resumes",
        run=partial(alarm, kind=MEMORY),
        bound=seconds(30.0),
        own_services=True,
        waits=True,
    ),
    Scenario(
        name="disk-alarm",
        fault="a disk alarm, for several leases",
        expected="nothing killed, nothing granted, resumes",
        run=partial(alarm, kind=DISK),
        bound=seconds(30.0),
        own_services=True,
        waits=True,
    ),
    Scenario(
        name="alarm-ends-unheard",
        fault="a memory alarm that ends while an agent is cut off",
        expected="the agent kills before the takeover; no overlap",
        run=alarm_and_partition,
        bound=takeover_plus(5.0),
        own_services=True,
        waits=True,
    ),
)
