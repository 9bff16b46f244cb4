"""Postgres: away, its sessions ended, stopped without a checkpoint, and its answers lost."""

from __future__ import annotations

import contextlib
import time
from urllib.parse import urlsplit

from tests.chaos.desk import Desk
from tests.chaos.faults.outage import Outage, no_session_was_lost
from tests.chaos.pgproxy import PostgresProxy
from tests.chaos.proxies import ProxyThread
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed, seconds
from tests.chaos.slots import Slots
from tests.chaos.workload import LedgerTask
from tests.chaos.world import Chaos

STORM_SECONDS = 30.0
STORM_PAUSE = 0.2
STOPS = 3
BOUND = 10.0
CHAIN = 4
NEW_EPOCH = "a new epoch"
#: What the transaction contains whose COMMIT loses its answer, by what it is about.
LOST_ANSWERS = {
    "a run and its request": 'INSERT INTO "dag_run"',
    "a task in its queue": 'UPDATE "task_instance" SET "state" = \'queued\'',
    "a grant": 'INSERT INTO "task_try"',
    "a result": 'UPDATE "task_try"',
    "a run's end": 'UPDATE "dag_run" SET "state" = \'success\'',
    "what agents are there": 'UPDATE "agent" SET',
    NEW_EPOCH: 'UPDATE "leader" SET "epoch"',
}


def away(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    standby = chaos.start_dispatcher(ready=False)
    chaos.until(lambda: standby.says("standing by"), "the other dispatcher stands by")
    outage = Outage(chaos)
    duration = chaos.scale.outage(600.0, 4 * chaos.scale.leases.lease)
    chaos.fault()
    chaos.postgres.stop()
    outage.last(duration)
    chaos.postgres.start()
    healed = chaos.healed()
    recovery = outage.results_arrive(within=60.0) - healed
    outage.end()
    return Outcome(recovery=recovery, detail=f"away for {duration:.0f} s")


def sessions_ended(chaos: Chaos) -> Outcome:
    long = _begin(chaos)
    slots = Slots(chaos, "every-second", int(STORM_SECONDS))
    with contextlib.closing(Desk(chaos.postgres.url, chaos.broker.url)) as desk:
        runs = [desk.trigger("chain") for _ in range(4)]
        chaos.fault()
        ended, end = 0, time.monotonic() + STORM_SECONDS
        while time.monotonic() < end:
            ended += chaos.postgres.terminate_backends()
            time.sleep(STORM_PAUSE)
    healed = chaos.healed()
    runs.append(chaos.trigger("chain"))
    recovery = max(chaos.wait_terminal(*runs), slots.wait()) - healed
    _end(chaos, long)
    return Outcome(recovery=recovery, detail=f"{ended} sessions ended")


def stopped_and_started(chaos: Chaos) -> Outcome:
    long = _begin(chaos)
    slowest = 0.0
    for _ in range(STOPS):
        with contextlib.closing(Desk(chaos.postgres.url, chaos.broker.url)) as desk:
            run = desk.trigger("chain")
        # Somewhere in the run, which takes about a second.
        time.sleep(chaos.chance.uniform(0.0, 1.0))
        chaos.fault()
        chaos.postgres.stop()
        chaos.postgres.start()
        healed = chaos.healed()
        slowest = max(slowest, chaos.wait_terminal(run) - healed)
    _end(chaos, long)
    return Outcome(recovery=slowest, detail=f"{STOPS} times")


def answers_lost(chaos: Chaos) -> Outcome:
    server = urlsplit(chaos.postgres.url)
    assert server.hostname is not None
    assert server.port is not None
    proxy = PostgresProxy(server.hostname, server.port)
    with contextlib.closing(ProxyThread(chaos.postgres.url, proxy)) as thread:
        long = _begin(chaos, thread.url)
        slowest = max(_lose(chaos, proxy, what) for what in LOST_ANSWERS)
        tries = chaos.postgres.query("SELECT 1 FROM task_try WHERE outcome <> 'success'")
        if tries:
            raise ScenarioFailed(f"expected claims to be idempotent, got {len(tries)} tries more")
        _end(chaos, long)
    return Outcome(recovery=slowest, detail=f"of {', '.join(LOST_ANSWERS)}")


def _lose(chaos: Chaos, proxy: PostgresProxy, what: str) -> float:
    """Lose one answer in a run; seconds until that run has ended all the same."""
    proxy.lose_answer(LOST_ANSWERS[what])
    before = len(proxy.lost)
    with contextlib.closing(Desk(chaos.postgres.url, chaos.broker.url)) as desk:
        run = desk.trigger("chain")
    if what == NEW_EPOCH:
        chaos.postgres.terminate_backends()
    lost = chaos.until(lambda: len(proxy.lost) > before, f"the answer about {what} is lost")
    return max(0.0, chaos.wait_terminal(run) - lost)


def _begin(chaos: Chaos, database_url: str = "") -> str:
    """A dispatcher (at *database_url*), two agents, a chain to be run, and the run of a task that
    must live through everything."""
    chaos.start_dispatcher(FLOW_DATABASE_URL=database_url or chaos.postgres.url)
    for number in (1, 2):
        chaos.start_agent(f"node{number}", f"q{number}", slots=4)
    chaos.write_ledger_dag("long", [LedgerTask(task_id="long", until=chaos.gate("long"))])
    chaos.write_ledger_dag("chain", _chain())
    run = chaos.trigger("long")
    chaos.alive(1)
    return run


def _end(chaos: Chaos, long: str) -> None:
    chaos.open("long")
    chaos.wait_terminal(long)
    no_session_was_lost(chaos)


def _chain() -> list[LedgerTask]:
    return [
        LedgerTask(
            task_id=f"t{number}",
            queue=f"q{number % 2 + 1}",
            after=[f"t{number - 1}"] if number else [],
        )
        for number in range(CHAIN)
    ]


SCENARIOS = (
    Scenario(
        name="postgres-away",
        fault="Postgres away for 10 minutes, and back with a backlog of events",
        expected="no running task killed or rerun, no takeover, results arrive afterwards",
        run=away,
        bound=seconds(20.0),
        own_services=True,
        waits=True,
    ),
    Scenario(
        name="postgres-sessions-ended",
        fault="Postgres sessions ended 5 times a second for 30 s",
        expected="no half state, no mass kill",
        run=sessions_ended,
        bound=seconds(BOUND),
    ),
    Scenario(
        name="postgres-stopped",
        fault="Postgres stopped immediately and started",
        expected="no half state, no mass kill",
        run=stopped_and_started,
        bound=seconds(BOUND),
        own_services=True,
    ),
    Scenario(
        name="commit-answer-lost",
        fault=f"the answer to COMMIT lost, of {len(LOST_ANSWERS)} kinds of transactions",
        expected="claims idempotent, nothing done twice",
        run=answers_lost,
        bound=seconds(BOUND),
    ),
)
