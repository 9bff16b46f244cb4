"""Schedules while clocks change: by law, by hand, and while nobody is there to look."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tests.acceptance.ledger import now
from tests.chaos.falseclock import FalseClock
from tests.chaos.faults.holding import GATE, hold
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed
from tests.chaos.world import Chaos
from tests.unit import test_schedules_oracle as oracle

HOUR = timedelta(hours=1)
#: Around a change of clocks: intervals begin within so much of it.
AROUND = 3 * HOUR
#: In one step of the false clock, and seconds between two steps: a wall clock that runs fast.
STEP, PAUSE = timedelta(minutes=10), 0.05
#: Fixed times, paces, and both mixed.
CRONS = ("30 2 * * *", "15,45 1,2,3 * * *", "0 * * * *", "*/20 2 * * *")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of clocks by law."""

    zone: str
    at: datetime
    """The first moment of the new time."""


#: Forward and back, by an hour and by half of one, on both halves of the earth.
CHANGES = (
    Change("America/New_York", datetime(2025, 3, 9, 7, tzinfo=UTC)),
    Change("Europe/Berlin", datetime(2025, 3, 30, 1, tzinfo=UTC)),
    Change("Australia/Lord_Howe", datetime(2025, 4, 5, 15, tzinfo=UTC)),
    Change("Europe/Berlin", datetime(2025, 10, 26, 1, tzinfo=UTC)),
    Change("America/New_York", datetime(2025, 11, 2, 6, tzinfo=UTC)),
)

Slot = tuple[datetime, datetime]
"""Of a run: its logical date and the end of its interval."""


def dst(chaos: Chaos) -> Outcome:
    clock = FalseClock(chaos.root / "clock")
    clock.set(CHANGES[0].at - 2 * AROUND)
    chaos.start_dispatcher(bin_folder=clock.bin_folder)
    chaos.start_agent("node1", "q1", slots=4)
    runs = 0
    for number, change in enumerate(CHANGES):
        expected: dict[str, list[Slot]] = {}
        for cron_number, cron in enumerate(CRONS):
            dag_id = f"dst{number}_{cron_number}"
            expected[dag_id] = _expected(cron, change)
            begin, end = change.at - AROUND, change.at + AROUND
            _write(chaos, dag_id, repr(cron), begin, end, zone=change.zone)
        _wait_known(chaos, *expected)
        _live_through(chaos, clock, change.at - AROUND, change.at + AROUND)
        clock.set(change.at + AROUND + 30 * HOUR)  # the last intervals are over by then
        _wait_for_slots(chaos, expected)
        runs += sum(map(len, expected.values()))
    for part in range(oracle.PARTS):
        oracle.test_every_tick_around_every_change_of_clocks_is_run_once_and_none_is_missed(part)
    return Outcome(
        detail=f"{len(CHANGES)} changes lived through, {runs} runs as the oracle has them; then "
        f"{len(oracle.distinct_changes())} changes of all zones, 2000 to 2040",
        clock_true=False,
    )


def _expected(cron: str, change: Change) -> list[Slot]:
    """What the oracle, which lives through every minute, has of ticks that begin an interval."""
    begin, end = change.at - AROUND, change.at + AROUND
    ticks = oracle.Daemon(cron).runs(ZoneInfo(change.zone), begin, end + 30 * HOUR)
    return [(tick, after) for tick, after in itertools.pairwise(ticks) if tick <= end]


def _live_through(chaos: Chaos, clock: FalseClock, begin: datetime, end: datetime) -> None:
    clock.set(begin)
    while clock.now(UTC) < end:
        clock.step(STEP)
        chaos.lasts(PAUSE, lambda: True, "")


def steps_by_hand(chaos: Chaos) -> Outcome:
    """A clock that is put forward and back by an hour, with tasks running all the time."""
    clock = FalseClock(chaos.root / "clock")
    start = datetime(2026, 6, 1, 12, tzinfo=UTC)
    clock.set(start + timedelta(minutes=5))
    chaos.start_dispatcher(bin_folder=clock.bin_folder)
    node = chaos.start_agent("node1", "q1", slots=4)
    chaos.write_ledger_dag("hold", hold(chaos, count=2))
    held = chaos.trigger("hold")
    chaos.alive(2)
    ten = timedelta(minutes=10)
    slots = [(start + number * ten, start + (number + 1) * ten) for number in range(12)]
    _write(chaos, "paced", "'*/10 * * * *'", start, slots[-1][0])
    _wait_known(chaos, "paced")
    chaos.fault()
    clock.step(HOUR)  # 13:05, a clock that was slow: six intervals are over at once
    _wait_for_slots(chaos, {"paced": slots[:6]})
    clock.step(-HOUR)  # 12:05 once more: they have been run
    patience = 4 * chaos.scale.leases.heartbeat
    chaos.lasts(patience, lambda: _slots(chaos, "paced") == slots[:6], "no interval is run twice")
    clock.step(HOUR)
    chaos.lasts(patience, lambda: _slots(chaos, "paced") == slots[:6], "nor when they come again")
    clock.step(HOUR)  # 14:05
    _wait_for_slots(chaos, {"paced": slots})
    if len(chaos.ledger.alive()) != 2 or len(node.starts) != 1:
        raise ScenarioFailed("a clock on the wall has ended a task")
    chaos.open(GATE)
    chaos.wait_terminal(held)
    return Outcome(clock_true=False)


def downtime(chaos: Chaos) -> Outcome:
    """Three intervals pass while no dispatcher runs."""
    clock = FalseClock(chaos.root / "clock")
    start = datetime(2026, 6, 1, tzinfo=UTC)
    clock.set(start + HOUR / 2)
    dispatcher = chaos.start_dispatcher(bin_folder=clock.bin_folder)
    chaos.start_agent("node1", "q1", slots=4)
    slots = [(start + number * HOUR, start + (number + 1) * HOUR) for number in range(5)]
    _write(chaos, "all_of_them", "'@hourly'", start, slots[-1][0])
    _write(chaos, "the_latest", "'@hourly'", start, slots[-1][0], catchup=False)
    _wait_known(chaos, "all_of_them", "the_latest")
    clock.step(HOUR)  # 01:30
    _wait_for_slots(chaos, {"all_of_them": slots[:1], "the_latest": slots[:1]})
    dispatcher.kill()
    chaos.fault()
    clock.step(3 * HOUR)  # 04:30
    chaos.start_dispatcher(bin_folder=clock.bin_folder)
    healed = chaos.healed()
    _wait_for_slots(chaos, {"all_of_them": slots[:4], "the_latest": [slots[0], slots[3]]})
    recovery = now() - healed
    clock.step(HOUR)  # 05:30: and on as before
    _wait_for_slots(chaos, {"all_of_them": slots, "the_latest": [slots[0], *slots[3:]]})
    return Outcome(recovery=recovery, clock_true=False)


def _write(
    chaos: Chaos,
    dag_id: str,
    schedule: str,
    begin: datetime,
    end: datetime,
    *,
    zone: str = "UTC",
    catchup: bool = True,
) -> None:
    chaos.system.write_dag(
        dag_id,
        f"""
from datetime import datetime

from flow import DAG, BashOperator

with DAG(
    {dag_id!r},
    schedule={schedule},
    timezone={zone!r},
    start_date=datetime.fromisoformat({begin.isoformat()!r}),
    end_date=datetime.fromisoformat({end.isoformat()!r}),
    catchup={catchup},
    max_active_runs=100,
):
    BashOperator(task_id="t", queue="q1", bash_command="true")
""",
    )


def _wait_known(chaos: Chaos, *dag_ids: str) -> None:
    count = "SELECT count(*) FROM dag WHERE dag_id = ANY(%s)"
    chaos.until(
        lambda: chaos.postgres.value(count, list(dag_ids)) == len(dag_ids),
        f"the dispatcher has {len(dag_ids)} DAGs",
    )


def _slots(chaos: Chaos, dag_id: str) -> list[Slot]:
    """Of all its runs by schedule, in order; one that was run twice is there twice."""
    return [
        (begin.astimezone(UTC), end.astimezone(UTC))
        for begin, end in chaos.postgres.query(
            "SELECT logical_date, data_interval_end FROM dag_run"
            " WHERE dag_id = %s AND run_type = 'scheduled' ORDER BY logical_date",
            dag_id,
        )
    ]


def _wait_for_slots(chaos: Chaos, expected: dict[str, list[Slot]]) -> None:
    """Wait until exactly these intervals have run. Raises ScenarioFailed."""

    def found() -> dict[str, list[Slot]]:
        return {dag_id: _slots(chaos, dag_id) for dag_id in expected}

    try:
        chaos.until(
            lambda: found() == expected and chaos.unfinished() == len(chaos.ledger.alive()),
            "every interval has its run",
        )
    except ScenarioFailed as error:
        for dag_id, slots in found().items():
            missing, more = set(expected[dag_id]) - set(slots), set(slots) - set(expected[dag_id])
            if missing or more:
                raise ScenarioFailed(
                    f"{dag_id}: missing {sorted(map(str, missing))}, too many "
                    f"{sorted(map(str, more))}"
                ) from error
        raise


SCENARIOS = (
    Scenario(
        name="clocks-by-law",
        fault="daylight saving time begins and ends, in three zones",
        expected="exactly the runs of the oracle, which lives through every minute",
        run=dst,
    ),
    Scenario(
        name="clocks-by-hand",
        fault="the dispatcher's clock is put forward by 1 h, back, and forward twice",
        expected="each slot run once, running tasks not touched",
        run=steps_by_hand,
    ),
    Scenario(
        name="dispatcher-down-3-slots",
        fault="no dispatcher while three slots pass",
        expected="all three with catchup, the latest one without",
        run=downtime,
    ),
)
