"""Runs by schedule, as the pure core makes them: each due interval once, whatever happens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dispatcher.core.core import Rules
from dispatcher.core.records import InsertRun, MoveTask, RunRow, RunType, TaskRow
from flow import wire
from flow.dagspec import DagSpec
from flow.states import RUN_TERMINAL, RunState, TaskEvent, TaskState
from tests.unit.core_world import START, Replay, World, dag, task


def hourly(*, start: timedelta = timedelta(0), **settings: Any) -> DagSpec:
    """Every hour from noon of the world's first day on, or from *start* later."""
    values = {"schedule": "PT1H", "start_date": (START + start).isoformat(), **settings}
    return dag("d", task("t"), **values)


def runs(world: World, kind: RunType = RunType.SCHEDULED) -> list[RunRow]:
    inserted = [write.run for write in world.writes if isinstance(write, InsertRun)]
    return [run for run in inserted if run.run_type is kind]


def hours(world: World) -> list[float]:
    """The logical dates of the runs by schedule, in hours since the world's beginning."""
    dates = [run.logical_date for run in runs(world)]
    return [(date - START) / timedelta(hours=1) for date in dates if date is not None]


def work_off(world: World, state: str = "success") -> None:
    while world.published:
        world.run_next(state)


def test_an_interval_is_run_when_it_ends_and_named_after_its_beginning() -> None:
    world = World(hourly())
    world.pass_time(3599)
    assert runs(world) == []
    world.pass_time(1)
    [run] = runs(world)
    assert run.run_id == "scheduled__2026-11-21T12:00:00+00:00"
    assert run.logical_date == run.data_interval_start == START
    assert run.data_interval_end == START + timedelta(hours=1)
    assert run.created_at == world.now.wall
    assert [message.task_id for message in world.published] == ["t"]


def test_without_schedules_runs_begin_only_when_somebody_asks() -> None:
    world = World(hourly(), rules=Rules(schedules=False))
    world.pass_time(7200)
    assert runs(world) == []
    assert world.trigger("d") == ""
    assert len(runs(world, RunType.MANUAL)) == 1


def test_the_next_intervals_follow() -> None:
    world = World(hourly())
    world.hello()
    for _ in range(3):
        world.pass_time(3600, clear=False)
        world.heartbeat()
        work_off(world)
    assert hours(world) == [0, 1, 2]


def test_without_catchup_only_the_latest_of_the_past_is_run() -> None:
    world = World(hourly(start=timedelta(hours=-10)))
    assert hours(world) == [-1]


def test_with_catchup_all_since_the_start_are_run_but_no_more_than_may_be_active() -> None:
    world = World(hourly(start=timedelta(days=-3650), catchup=True, max_active_runs=3))
    world.hello()
    assert hours(world) == [-87600, -87599, -87598]
    for _ in range(10):
        world.run_next()
    assert len(hours(world)) == 13
    unfinished = [run for run in world.core.state.runs.values() if run.row.dag_id == "d"]
    assert len(unfinished) <= 3
    assert hours(world) == [-87600 + n for n in range(len(hours(world)))]


def test_runs_that_end_at_once_do_not_keep_everything_else_waiting() -> None:
    spec = dag("d", schedule="PT1S", start_date="2020-01-01T00:00:00+00:00", catchup=True)
    world = World(spec)
    assert len(runs(world)) == spec.max_active_runs
    wakeup = world.core.next_wakeup()
    assert wakeup is not None
    assert wakeup <= world.now.mono
    world.take(world.core.tick(world.now))
    assert len(runs(world)) == 2 * spec.max_active_runs


def test_after_a_long_sleep_only_the_latest_is_run() -> None:
    world = World(hourly())
    world.hello()
    world.pass_time(3600, clear=False)
    work_off(world)
    world.elapsed += 5 * 3600  # nobody was called in all this time
    world.take(world.core.tick(world.now))
    assert hours(world) == [0, 5]


def test_a_full_dag_gets_the_latest_interval_once_there_is_room() -> None:
    world = World(hourly(max_active_runs=1))
    world.hello()
    world.pass_time(3600)
    world.pass_time(3 * 3600)
    assert hours(world) == [0]
    world.hello("node2")
    world.run_next(agent="node2")
    assert hours(world) == [0, 3]


def test_a_paused_dag_is_not_run_and_goes_on_with_the_latest() -> None:
    world = World(hourly())
    world.request("pause", dag_id="d")
    world.pass_time(5 * 3600)
    assert hours(world) == []
    world.request("unpause", dag_id="d")
    assert hours(world) == [4]


def test_a_paused_dag_with_catchup_misses_nothing() -> None:
    world = World(hourly(catchup=True))
    world.request("pause", dag_id="d")
    world.pass_time(5 * 3600)
    world.request("unpause", dag_id="d")
    assert hours(world) == [0, 1, 2, 3, 4]


def test_the_end_date_is_the_last_possible_logical_date() -> None:
    world = World(hourly(catchup=True, end_date=(START + timedelta(hours=1)).isoformat()))
    world.pass_time(10 * 3600)
    assert hours(world) == [0, 1]
    assert world.core.state.agenda.wakeup() is None


def test_once_is_once() -> None:
    world = World(hourly(schedule="@once", start=timedelta(hours=2)))
    world.pass_time(2 * 3600)
    [run] = runs(world)
    assert run.data_interval_start == run.data_interval_end == START + timedelta(hours=2)
    world.pass_time(3600)
    world.new_reign()
    assert len(runs(world)) == 1


def test_a_new_reign_repeats_nothing_and_leaves_nothing_out() -> None:
    world = World(hourly(catchup=True))
    for _ in range(4):
        world.pass_time(3600)
        world.new_reign()
    assert hours(world) == [0, 1, 2, 3]


def test_another_schedule_goes_on_where_the_last_one_ended() -> None:
    world = World(hourly(catchup=True))
    world.pass_time(2.5 * 3600)
    assert hours(world) == [0, 1]
    world.change(hourly(catchup=True, schedule="PT30M"))
    assert hours(world) == [0, 1, 2]
    world.pass_time(1800)
    assert hours(world) == [0, 1, 2, 2.5]
    assert [run.version_id for run in runs(world)] == [0, 0, 1, 1]


def test_a_dag_that_comes_back_does_not_run_its_past_again() -> None:
    world = World(hourly(catchup=True))
    world.pass_time(2 * 3600)
    world.change(hourly(catchup=True), active=False)
    world.pass_time(2 * 3600)
    assert hours(world) == [0, 1]
    world.change(hourly(catchup=True))
    assert hours(world) == [0, 1, 2, 3]


def test_a_schedule_that_cannot_be_computed_is_told_and_stops_nobody() -> None:
    broken = dag("b", schedule="@daily", start_date="2020-01-01T00:00:00+00:00", timezone="No/Such")
    world = World(broken, hourly())
    notes = world.core.begin(world.now).notes
    world.new_reign()
    assert notes == []
    world.pass_time(3600)
    assert hours(world) == [0]
    assert world.trigger("b") == ""


def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    world = World(hourly())
    world.pass_time(2 * 3600)
    assert hours(world) == [0, 1]
    world.elapsed -= 3600
    world.take(world.core.tick(world.now))
    world.pass_time(3600)
    assert hours(world) == [0, 1]


def test_a_triggered_run_is_about_the_last_interval_that_ended() -> None:
    world = World(hourly(schedule="0 * * * *", start=timedelta(days=30)))
    world.pass_time(1800)
    assert world.trigger("d") == ""
    [run] = runs(world, RunType.MANUAL)
    assert run.logical_date == world.now.wall
    assert run.data_interval_start == START - timedelta(hours=1)
    assert run.data_interval_end == START


def test_names_of_scheduled_runs_are_not_for_others() -> None:
    world = World(hourly())
    assert world.trigger("d", "scheduled__x") == (
        "trigger of dag 'd': expected a run_id that does not begin with 'scheduled__', "
        "got 'scheduled__x'; such names are for runs by schedule"
    )


def test_the_task_message_says_what_the_run_is_about() -> None:
    world = World(hourly())
    world.pass_time(3600)
    [message] = world.published
    assert message.logical_date == "2026-11-21T12:00:00+00:00"
    assert message.data_interval_start == "2026-11-21T12:00:00+00:00"
    assert message.data_interval_end == "2026-11-21T13:00:00+00:00"


# -- depends_on_past -------------------------------------------------------------------------------


def dependent(**settings: Any) -> DagSpec:
    tasks = (task("a", depends_on_past=True), task("b", "a"), task("free"))
    values = {"schedule": "PT1H", "start_date": START.isoformat(), "catchup": True, **settings}
    return dag("d", *tasks, **values)


FIRST, SECOND, THIRD = (f"scheduled__2026-11-21T{hour}:00:00+00:00" for hour in (12, 13, 14))


def finish(world: World, run_id: str, task_id: str, state: str = "success") -> None:
    [message] = [m for m in world.published if (m.run_id, m.task_id) == (run_id, task_id)]
    world.published.remove(message)
    world.finish(world.grant(message), state)


@pytest.fixture
def two_runs() -> World:
    """Two runs of :func:`dependent`, of which nothing has begun."""
    world = World(dependent(), rules=None)
    world.pass_time(2 * 3600)
    world.hello(slots=20)
    return world


def test_the_first_run_of_all_depends_on_nothing(two_runs: World) -> None:
    assert two_runs.states(FIRST) == {"a": "queued", "b": "none", "free": "queued"}


def test_a_task_waits_for_itself_in_the_run_before(two_runs: World) -> None:
    assert two_runs.states(SECOND) == {"a": "none", "b": "none", "free": "queued"}
    finish(two_runs, FIRST, "a")
    assert two_runs.states(SECOND)["a"] == "queued"


def test_a_failure_holds_the_next_run_back_until_it_is_mended(two_runs: World) -> None:
    for name in ("a", "free"):
        finish(two_runs, FIRST, name, "failed")
    assert two_runs.run_state(FIRST) is RunState.FAILED
    assert two_runs.states(SECOND)["a"] == "none"
    two_runs.new_reign()
    two_runs.take(two_runs.core.tick(two_runs.now))
    assert two_runs.states(SECOND)["a"] == "none"
    arguments = {"dag_id": "d", "run_id": FIRST}
    assert two_runs.request("clear", loaded=two_runs.loaded(FIRST), **arguments) == ""
    finish(two_runs, FIRST, "a")
    assert two_runs.states(SECOND)["a"] == "queued"


def test_a_run_depends_on_a_failure_that_has_left_memory(two_runs: World) -> None:
    for run_id in (FIRST, SECOND):
        finish(two_runs, run_id, "free")
    finish(two_runs, FIRST, "a")
    finish(two_runs, SECOND, "a", "failed")
    assert two_runs.run_state(SECOND) is RunState.FAILED
    two_runs.new_reign()
    two_runs.pass_time(3600)
    assert two_runs.states(THIRD)["a"] == "none"


def test_a_cancelled_run_holds_nothing_back(two_runs: World) -> None:
    assert two_runs.request("cancel", dag_id="d", run_id=FIRST) == ""
    assert two_runs.run_state(FIRST) is RunState.FAILED
    assert two_runs.states(SECOND)["a"] == "queued"


def test_a_task_that_the_run_before_did_not_have_waits_for_nothing() -> None:
    world = World(hourly(catchup=True))
    world.pass_time(3600)
    world.change(dependent())
    world.pass_time(3600)
    assert world.states(SECOND)["a"] == "queued"


def test_a_triggered_run_depends_on_no_past(two_runs: World) -> None:
    assert two_runs.trigger("d", "by_hand") == ""
    assert two_runs.states("by_hand")["a"] == "queued"


def test_a_run_that_is_cleared_still_depends_on_the_one_before(two_runs: World) -> None:
    for run_id in (FIRST, SECOND):
        finish(two_runs, run_id, "free")
    finish(two_runs, FIRST, "a", "failed")
    assert two_runs.request("cancel", dag_id="d", run_id=SECOND) == ""
    two_runs.new_reign()
    arguments = {"dag_id": "d", "run_id": SECOND}
    assert two_runs.request("clear", loaded=two_runs.loaded(SECOND), **arguments) == ""
    assert two_runs.states(SECOND)["a"] == "none"


def test_a_cleared_run_goes_before_the_one_that_waits_for_it() -> None:
    world = World(dependent(max_active_runs=1))
    world.pass_time(2 * 3600)
    world.hello(slots=20)
    finish(world, FIRST, "free")
    finish(world, FIRST, "a", "failed")
    assert world.run_state(SECOND) is RunState.RUNNING
    arguments = {"dag_id": "d", "run_id": FIRST}
    assert world.request("clear", loaded=world.loaded(FIRST), **arguments) == ""
    assert world.run_state(FIRST) is RunState.RUNNING
    finish(world, FIRST, "a")
    assert world.states(SECOND)["a"] == "queued"


# -- whatever happens ------------------------------------------------------------------------------


class Year(RuleBasedStateMachine):
    """Time passes, dispatchers change, DAGs are paused and edited; agents come and go."""

    @initialize(catchup=st.booleans(), limit=st.integers(1, 3))
    def begin(self, *, catchup: bool, limit: int) -> None:
        self.spec = self.version(catchup=catchup, limit=limit, schedule="PT1H")
        self.world = World(self.spec)
        self.sessions = 0

    @staticmethod
    def version(*, catchup: bool, limit: int, schedule: str) -> DagSpec:
        return dag(
            "d",
            task("a", depends_on_past=True),
            task("b", "a"),
            schedule=schedule,
            start_date=(START - timedelta(hours=5)).isoformat(),
            catchup=catchup,
            max_active_runs=limit,
        )

    @rule(seconds=st.sampled_from([1.0, 1800.0, 3600.0, 7 * 3600.0]), sleeping=st.booleans())
    def wait(self, seconds: float, *, sleeping: bool) -> None:
        if sleeping:
            self.world.elapsed += seconds
            self.world.take(self.world.core.tick(self.world.now))
        else:
            self.world.pass_time(seconds)

    @rule(number=st.integers(1, 8), good=st.booleans())
    def work(self, number: int, *, good: bool) -> None:
        self.sessions += 1
        self.world.hello(session=self.sessions, slots=20)
        for _ in range(number):
            if not self.world.published:
                break
            reply = self.world.claim(self.world.next_task(), session=self.sessions)
            if isinstance(reply, wire.Grant):  # it may have been cleared since
                self.world.finish(reply, "success" if good else "failed")

    @rule()
    def reign(self) -> None:
        self.world.new_reign()

    @rule(paused=st.booleans())
    def pause(self, *, paused: bool) -> None:
        self.world.request("pause" if paused else "unpause", dag_id="d")

    @rule(catchup=st.booleans(), limit=st.integers(1, 3), text=st.sampled_from(["PT1H", "PT45M"]))
    def edit(self, *, catchup: bool, limit: int, text: str) -> None:
        self.world.change(self.version(catchup=catchup, limit=limit, schedule=text))

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        names = [run.run_id for run in runs(self.world)]
        if names:
            run_id = data.draw(st.sampled_from(names))
            loaded = self.world.loaded(run_id)
            self.world.request("clear", loaded=loaded, dag_id="d", run_id=run_id)

    @rule(number=st.integers(0, 1000))
    def trigger(self, number: int) -> None:
        self.world.trigger("d", f"manual{number}_{len(self.world.writes)}")

    @invariant()
    def no_interval_is_run_twice_and_they_go_forward(self) -> None:
        made = runs(self.world)
        assert max(Counter(run.run_id for run in made).values(), default=1) == 1
        ends = [START - timedelta(hours=5)]
        for run in made:
            assert run.data_interval_start is not None
            assert run.data_interval_end is not None
            assert ends[-1] <= run.data_interval_start < run.data_interval_end <= run.created_at
            ends.append(run.data_interval_end)

    @invariant()
    def what_is_remembered_of_the_past_is_true(self) -> None:
        state = self.world.core.state
        for pk, names in state.past.items():
            replay = Replay(state.dags, self.world.writes)
            if pk in replay.runs and replay.runs[pk].state in RUN_TERMINAL:
                assert names == replay.past(pk)

    def no_task_began_before_itself(self) -> None:
        rows: dict[int, TaskRow] = {}
        of_run: dict[int, TaskRow] = {}
        previous: dict[int, int] = {}
        for write in self.world.writes:
            if isinstance(write, InsertRun):
                [row] = [replace(row) for row in write.tasks if row.task_id == "a"]
                rows[row.id] = of_run[write.run.id] = row
                if write.run.previous_pk is not None:
                    previous[row.id] = write.run.previous_pk
            elif isinstance(write, MoveTask) and write.task_pk in rows:
                if write.event is TaskEvent.SCHEDULE and write.task_pk in previous:
                    before = of_run[previous[write.task_pk]]
                    assert before.state in (TaskState.SUCCESS, TaskState.SKIPPED)
                rows[write.task_pk].state = write.target

    def teardown(self) -> None:
        """With honest agents and failures mended, nothing waits for ever or is left over."""
        if not hasattr(self, "world"):
            return
        self.no_task_began_before_itself()
        world = self.world
        world.request("unpause", dag_id="d")
        for _ in range(400):
            self.work(8, good=True)
            for run in runs(world):
                loaded = world.loaded(run.run_id)
                assert loaded is not None
                if loaded.run.state is RunState.FAILED:
                    world.request(
                        "clear", loaded=loaded, dag_id="d", run_id=run.run_id, failed=True
                    )
            if not world.core.state.runs:
                break
        assert not world.core.state.runs
        assert world.core.state.followers == {}
        assert world.core.state.past == {}


TestYear = Year.TestCase
TestYear.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
