"""What the dispatcher relies on, on both databases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.core.records import (
    AgentRow,
    AgentState,
    CloseIntent,
    CloseTry,
    EndSession,
    InsertRun,
    LastScheduled,
    RunRow,
    RunType,
    SaveAgent,
    SetCancelled,
    SetPaused,
    SetWish,
    Snapshot,
    TakeBackDeath,
    TaskRow,
    ToldAgent,
    TouchAgents,
    Wish,
    Write,
)
from dispatcher.store import Store, migrate, models, open_database
from dispatcher.store.catalogue import DagFile
from flow.errors import EpochLost, GuardFailed
from flow.schedules import Interval
from flow.states import RunEvent, RunState, TaskEvent, TaskState
from tests.contract.store_fixtures import (
    START,
    agent_row,
    at,
    insert_run,
    move_run,
    move_task,
    open_try,
    reign_with_run,
    rows_of,
    run_row,
    spec,
    state_of,
    task_row,
)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty, migrated store."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/flow.db" if sqlite else request.getfixturevalue("postgres_url")
    opened = Store(open_database(url))
    migrate(opened.database)
    yield opened
    opened.close()


# -- the epoch ---------------------------------------------------------------------------------


def test_each_reign_has_the_next_epoch(store: Store) -> None:
    assert [store.begin_reign("one", START), store.begin_reign("two", START)] == [1, 2]


def test_a_reign_is_recorded_with_its_dispatcher_and_its_begin(store: Store) -> None:
    epoch = store.begin_reign("control-1", START)
    [leader] = rows_of(models.Leader, store.database)
    assert (leader["epoch"], leader["dispatcher"]) == (epoch, "control-1")
    assert leader["since"] == START


def test_a_new_store_has_nothing_to_load(store: Store) -> None:
    assert store.load() == Snapshot()


def test_a_commit_under_a_stale_epoch_is_refused_and_nothing_is_written(store: Store) -> None:
    old = reign_with_run(store)
    new = store.begin_reign("second", at(1))
    with pytest.raises(EpochLost, match=f"expected epoch {old}, got {new}"):
        store.commit(
            old, [move_task(1, TaskEvent.SCHEDULE), SaveAgent(agent=agent_row(), at=START)]
        )
    assert state_of(store) == {1: TaskState.NONE}
    assert store.load().agents == ()


def test_every_other_write_under_a_stale_epoch_is_refused(store: Store) -> None:
    old = reign_with_run(store)
    store.begin_reign("second", at(1))
    before = store.load()
    with pytest.raises(EpochLost):
        store.record_dags(old, "etl.py", [spec(command="false")], "", START)
    with pytest.raises(EpochLost):
        store.record_error(old, "etl.py", "broken", START)
    with pytest.raises(EpochLost):
        store.retire_file(old, "etl.py", START)
    assert store.load() == before
    assert rows_of(models.DagImportError, store.database) == []


# -- guards ------------------------------------------------------------------------------------


def test_a_task_in_another_state_fails_the_guard_and_nothing_of_the_flush_is_kept(
    store: Store,
) -> None:
    epoch = reign_with_run(store, tasks=(1, 2))
    lines = len(rows_of(models.Audit, store.database))
    flush: list[Write] = [
        move_run(1, RunEvent.START, RunState.QUEUED),
        move_task(1, TaskEvent.SCHEDULE),
        move_task(2, TaskEvent.QUEUE, TaskState.SCHEDULED),
        SaveAgent(agent=agent_row(), at=START),
    ]
    with pytest.raises(GuardFailed) as caught:
        store.commit(epoch, flush)
    assert str(caught.value) == (
        "task instance 2: expected state 'scheduled' with token 0 for 'queue', got 'none' "
        "with token 0; the dispatcher reads its state again"
    )
    loaded = store.load()
    assert [run.state for run in loaded.runs] == [RunState.QUEUED]
    assert state_of(store) == {1: TaskState.NONE, 2: TaskState.NONE}
    assert loaded.agents == ()
    assert len(rows_of(models.Audit, store.database)) == lines


def test_a_task_with_another_token_fails_the_guard(store: Store) -> None:
    epoch = reign_with_run(store)
    queued = [
        move_task(1, TaskEvent.SCHEDULE),
        move_task(1, TaskEvent.QUEUE, TaskState.SCHEDULED),
        move_task(1, TaskEvent.GRANT, TaskState.QUEUED, token=1000, try_number=1),
    ]
    store.commit(epoch, queued)
    with pytest.raises(GuardFailed, match="expected state 'running' with token 999"):
        store.commit(epoch, [move_task(1, TaskEvent.SUCCEED, TaskState.RUNNING, token_before=999)])
    store.commit(epoch, [move_task(1, TaskEvent.SUCCEED, TaskState.RUNNING, token_before=1000)])
    assert state_of(store) == {1: TaskState.SUCCESS}


def test_one_wrong_task_among_many_alike_is_named(store: Store) -> None:
    epoch = reign_with_run(store, tasks=range(1, 21))
    store.commit(epoch, [move_task(7, TaskEvent.SCHEDULE, queued_at=START)])
    store.commit(epoch, [move_task(7, TaskEvent.QUEUE, TaskState.SCHEDULED)])
    with pytest.raises(GuardFailed, match=r"task instance 7: .* got 'queued' with token 0"):
        store.commit(epoch, [move_task(pk, TaskEvent.SCHEDULE) for pk in range(1, 21)])
    assert set(state_of(store).values()) == {TaskState.NONE, TaskState.QUEUED}


def test_a_move_that_was_made_already_fails_the_guard(store: Store) -> None:
    epoch = reign_with_run(store)
    store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])
    with pytest.raises(GuardFailed, match="expected state 'none' with token 0 in each"):
        store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])


def test_a_task_that_does_not_exist_fails_the_guard(store: Store) -> None:
    epoch = reign_with_run(store)
    with pytest.raises(GuardFailed, match=r"task instance 9: .* got 'no such row'"):
        store.commit(epoch, [move_task(9, TaskEvent.SCHEDULE)])


def test_a_run_in_another_state_fails_the_guard(store: Store) -> None:
    epoch = reign_with_run(store)
    with pytest.raises(GuardFailed, match=r"^run 1: expected one in state 'running', got none; "):
        store.commit(epoch, [move_run(1, RunEvent.SUCCEED, RunState.RUNNING)])


def test_a_second_try_with_the_same_number_is_refused(store: Store) -> None:
    epoch = reign_with_run(store)
    store.commit(epoch, [open_try(1, token=1000)])
    with pytest.raises(GuardFailed, match="expected rows that fit those it holds"):
        store.commit(epoch, [open_try(1, token=1001)])
    assert [row["token"] for row in rows_of(models.TaskTry, store.database)] == [1000]


def test_a_second_run_with_the_same_name_is_refused(store: Store) -> None:
    epoch = reign_with_run(store)
    version = store.load().runs[0].version_id
    twin = InsertRun(run=run_row(2, version, run_id="run-1"), tasks=())
    with pytest.raises(GuardFailed, match="expected rows that fit those it holds"):
        store.commit(epoch, [twin])


def test_a_try_is_closed_once_and_only_with_its_token(store: Store) -> None:
    epoch = reign_with_run(store)
    store.commit(epoch, [open_try(1, token=1000)])
    close = CloseTry(task_pk=1, try_number=1, token=1000, outcome="success", at=at(3), exit_code=0)
    with pytest.raises(GuardFailed, match="expected it open with token 999, got none"):
        store.commit(epoch, [replace(close, token=999)])
    store.commit(epoch, [close])
    with pytest.raises(GuardFailed, match="try 1 of task instance 1: expected it open"):
        store.commit(epoch, [replace(close, outcome="lost")])
    [row] = rows_of(models.TaskTry, store.database)
    assert (row["outcome"], row["exit_code"], row["closed_at"]) == ("success", 0, at(3))


def test_a_store_is_usable_after_a_failed_guard(store: Store) -> None:
    epoch = reign_with_run(store)
    with pytest.raises(GuardFailed):
        store.commit(epoch, [move_task(9, TaskEvent.SCHEDULE)])
    store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])
    assert state_of(store) == {1: TaskState.SCHEDULED}


# -- one flush ---------------------------------------------------------------------------------


def test_a_whole_life_fits_into_one_flush(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    [dag] = store.record_dags(epoch, "etl.py", [spec()], "source", START)
    flush: list[Write] = [
        insert_run(1, dag.version_id, (1, 2)),
        move_run(1, RunEvent.START, RunState.QUEUED, at(1)),
        move_task(1, TaskEvent.SCHEDULE),
        move_task(1, TaskEvent.QUEUE, TaskState.SCHEDULED, queued_at=at(1)),
        move_task(1, TaskEvent.GRANT, TaskState.QUEUED, token=7, try_number=1, agent="node1"),
        open_try(1, token=7),
        CloseTry(task_pk=1, try_number=1, token=7, outcome="released", at=at(2)),
        move_task(1, TaskEvent.RELEASE, TaskState.RUNNING, token_before=7, releases=1, agent=None),
        move_task(2, TaskEvent.SCHEDULE),
    ]
    store.commit(epoch, flush)
    loaded = store.load()
    assert [(run.state, run.start_date, run.end_date) for run in loaded.runs] == [
        (RunState.RUNNING, at(1), None)
    ]
    assert loaded.tasks == (
        task_row(
            1, 1, state=TaskState.SCHEDULED, token=7, try_number=1, releases=1, queued_at=at(1)
        ),
        task_row(2, 1, state=TaskState.SCHEDULED),
    )
    assert loaded.last_token == 7


def test_many_rows_in_one_flush_change_each_to_its_own_values(store: Store) -> None:
    epoch = reign_with_run(store, tasks=range(1, 6))
    queued = [move_task(pk, TaskEvent.SCHEDULE) for pk in range(1, 6)]
    queued += [move_task(pk, TaskEvent.QUEUE, TaskState.SCHEDULED) for pk in range(1, 6)]
    store.commit(epoch, queued)
    agents = {1: "node1", 2: "node2", 3: "node1", 4: None, 5: "n\u00e4"}
    grants: list[Write] = [
        move_task(pk, TaskEvent.GRANT, TaskState.QUEUED, token=100 + pk, agent=agent, session=7)
        for pk, agent in agents.items()
    ]
    store.commit(epoch, [*grants, *(open_try(pk, token=100 + pk) for pk in agents)])
    loaded = {task.id: task for task in store.load().tasks}
    assert {pk: (row.token, row.agent, row.session) for pk, row in loaded.items()} == {
        pk: (100 + pk, agent, 7) for pk, agent in agents.items()
    }
    closes: list[Write] = [
        CloseTry(
            task_pk=pk,
            try_number=1,
            token=100 + pk,
            outcome="success" if pk % 2 else "failed",
            at=at(3),
            exit_code=None if pk == 4 else pk,
            started_at=at(pk),
            cpu_seconds=pk / 4,
        )
        for pk in agents
    ]
    store.commit(epoch, closes)
    tries = {row["task"]: row for row in rows_of(models.TaskTry, store.database)}
    for pk in agents:
        row = tries[pk]
        assert (row["outcome"], row["closed_at"]) == ("success" if pk % 2 else "failed", at(3))
        assert (row["exit_code"], row["started_at"]) == (None if pk == 4 else pk, at(pk))
        assert (row["cpu_seconds"], row["memory_peak"]) == (pk / 4, None)


def test_a_move_that_does_not_begin_where_the_one_before_it_ended_is_refused(store: Store) -> None:
    epoch = reign_with_run(store)
    broken = [
        move_task(1, TaskEvent.SCHEDULE),
        move_task(1, TaskEvent.GRANT, TaskState.QUEUED, token=7),
    ]
    with pytest.raises(GuardFailed, match=r"state 'queued' .* for 'grant', got 'scheduled'"):
        store.commit(epoch, broken)
    other_token = [
        move_task(1, TaskEvent.SCHEDULE, token=5),
        move_task(1, TaskEvent.QUEUE, TaskState.SCHEDULED, token_before=4),
    ]
    with pytest.raises(GuardFailed, match=r"token 4 for 'queue', got 'scheduled' with token 5"):
        store.commit(epoch, other_token)
    runs = [
        move_run(1, RunEvent.START, RunState.QUEUED),
        move_run(1, RunEvent.START, RunState.QUEUED),
    ]
    with pytest.raises(GuardFailed, match=r"^run 1: expected one in state 'queued', got none; "):
        store.commit(epoch, runs)
    assert state_of(store) == {1: TaskState.NONE}


def test_one_wrong_try_among_many_is_named(store: Store) -> None:
    epoch = reign_with_run(store, tasks=(1, 2, 3))
    store.commit(epoch, [open_try(pk, token=pk) for pk in (1, 2, 3)])
    closes = [
        CloseTry(task_pk=pk, try_number=1, token=pk, outcome="success", at=at(1))
        for pk in (1, 2, 3)
    ]
    store.commit(epoch, [replace(closes[1], at=at(0))])
    with pytest.raises(
        GuardFailed, match="try 1 of task instance 2: expected it open with token 2"
    ):
        store.commit(epoch, closes)
    open_ones = [
        row["task"] for row in rows_of(models.TaskTry, store.database) if not row["outcome"]
    ]
    assert sorted(open_ones) == [1, 3]


def test_a_try_that_a_flush_has_begun_can_end_in_it(store: Store) -> None:
    epoch = reign_with_run(store)
    close = CloseTry(task_pk=1, try_number=1, token=9, outcome="lost", at=at(1))
    store.commit(epoch, [close, open_try(1, token=9)])
    [row] = rows_of(models.TaskTry, store.database)
    assert row["outcome"] == "lost"


def test_a_run_gets_its_end_date_when_it_ends(store: Store) -> None:
    epoch = reign_with_run(store)
    store.commit(epoch, [move_run(1, RunEvent.START, RunState.QUEUED, at(1))])
    store.commit(epoch, [move_run(1, RunEvent.FAIL, RunState.RUNNING, at(2))])
    [run] = rows_of(models.DagRun, store.database)
    assert (run["state"], run["start_date"], run["end_date"]) == (RunState.FAILED, at(1), at(2))


def test_thousands_of_tasks_move_in_one_flush(store: Store) -> None:
    keys = range(1, 2502)
    epoch = reign_with_run(store, tasks=keys)
    store.commit(epoch, [move_task(pk, TaskEvent.SCHEDULE) for pk in keys])
    assert set(state_of(store).values()) == {TaskState.SCHEDULED}
    lines = [row for row in rows_of(models.Audit, store.database) if row["entity"] == "task"]
    assert [line["task_pk"] for line in lines] == list(keys)


def test_an_empty_flush_still_checks_the_epoch(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    store.commit(epoch, [])
    with pytest.raises(EpochLost):
        store.commit(epoch - 1, [])


# -- values ------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_ZONES = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(1) / 4)]
)
#: From the year 101 to 9899: Python's calendar without its very ends.
_MOMENT = st.builds(
    lambda microseconds, zone: (START + timedelta(microseconds=microseconds)).astimezone(zone),
    st.integers(-60_745_000_000_000_000, 248_470_000_000_000_000),
    _ZONES,
)
_MAYBE = st.none() | _MOMENT
_BIG = st.integers(0, 2**63 - 1)
_COUNT = st.integers(0, 2**31 - 1)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_RUNS = st.builds(
    RunRow,
    id=st.just(1),
    dag_id=_TEXT,
    run_id=_TEXT,
    version_id=st.just(1),
    state=st.sampled_from([RunState.QUEUED, RunState.RUNNING]),
    conf=st.dictionaries(st.text(max_size=5), _JSON, max_size=3),
    logical_date=_MAYBE,
    created_at=_MOMENT,
    start_date=_MAYBE,
    end_date=_MAYBE,
)
_TASKS = st.builds(
    TaskRow,
    id=_BIG,
    run_pk=st.just(1),
    task_id=_TEXT,
    map_index=st.integers(-1, 2**31 - 1),
    state=st.sampled_from(TaskState),
    try_number=_COUNT,
    failures=_COUNT,
    deaths=_COUNT,
    releases=_COUNT,
    token=_BIG,
    queue=_TEXT,
    agent=st.none() | _TEXT,
    session=st.none() | _BIG,
    not_before=_MAYBE,
    queued_at=_MAYBE,
    start_date=_MAYBE,
    end_date=_MAYBE,
    reason=_TEXT,
)
_AGENTS = st.builds(
    AgentRow,
    name=_TEXT,
    session=_BIG,
    state=st.sampled_from(AgentState),
    home_id=_TEXT,
    boot_id=_TEXT,
    incarnation=_TEXT,
    queues=st.lists(_TEXT, max_size=3).map(tuple),
    slots=_COUNT,
    lease=st.floats(allow_nan=False, allow_infinity=False),
    software=_TEXT,
    charged=st.lists(_BIG, max_size=3).map(tuple),
    last_heartbeat=_MAYBE,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=_RUNS, task=_TASKS, agent=_AGENTS)
def test_what_is_loaded_is_what_was_written(
    store: Store, run: RunRow, task: TaskRow, agent: AgentRow
) -> None:
    epoch = store.begin_reign("first", START)
    store.record_dags(epoch, "etl.py", [spec()], "", START)
    for table in (models.TaskInstance, models.DagRun, models.Agent):
        table.delete().execute(store.database)
    store.commit(epoch, [InsertRun(run=run, tasks=(task,)), SaveAgent(agent=agent, at=START)])
    loaded = store.load()
    assert loaded.runs == (run,)
    assert loaded.tasks == (task,)
    assert loaded.agents == (agent,)
    assert (loaded.last_run_pk, loaded.last_task_pk) == (1, task.id)


def test_moments_come_back_in_utc_exact_to_the_microsecond(store: Store) -> None:
    epoch = reign_with_run(store)
    tokyo = datetime(2026, 7, 1, 9, 0, 0, 999999, tzinfo=timezone(timedelta(hours=9)))
    store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE, not_before=tokyo)])
    not_before = store.load().tasks[0].not_before
    assert not_before is not None
    assert not_before == datetime(2026, 7, 1, 0, 0, 0, 999999, tzinfo=UTC)
    assert not_before.tzinfo is UTC


def test_a_moment_without_a_time_zone_is_a_bug_and_is_refused(store: Store) -> None:
    epoch = reign_with_run(store)
    naive = START.replace(tzinfo=None)
    with pytest.raises(ValueError, match="not_before: expected a datetime with a time zone"):
        store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE, not_before=naive)])
    assert state_of(store) == {1: TaskState.NONE}


@pytest.mark.parametrize(
    "reason", ["Größe 日本 🦆 \"'\\ %s ? ; --", "line\nline\ttab", "x" * 100_000]
)
def test_any_text_is_kept(store: Store, reason: str) -> None:
    epoch = reign_with_run(store)
    store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE, reason=reason)])
    assert rows_of(models.Audit, store.database)[-1]["reason"] == reason


@pytest.mark.parametrize("broken", ["before\0after", "before\udc80after"])
def test_characters_that_no_database_takes_become_replacement_characters(
    store: Store, broken: str
) -> None:
    epoch = reign_with_run(store)
    close = CloseTry(task_pk=1, try_number=1, token=1000, outcome="failed", at=START, reason=broken)
    store.commit(epoch, [open_try(1), close])
    store.record_error(epoch, "etl.py", broken, START)
    pattern = re.compile("before\ufffd+after")
    assert pattern.fullmatch(rows_of(models.TaskTry, store.database)[0]["reason"])
    assert pattern.fullmatch(rows_of(models.DagImportError, store.database)[0]["message"])


def test_a_conf_may_be_any_mapping(store: Store) -> None:
    epoch = reign_with_run(store)
    version = store.load().runs[0].version_id
    conf = MappingProxyType({"day": "2026-03-01", "parts": [1, 2.5, None, True], "nul": "\0"})
    store.commit(epoch, [InsertRun(run=run_row(2, version, conf=conf), tasks=())])
    assert store.load().runs[1].conf == dict(conf)


# -- loading -----------------------------------------------------------------------------------


def test_finished_runs_are_not_loaded_but_their_ids_count(store: Store) -> None:
    epoch = reign_with_run(store)
    version = store.load().runs[0].version_id
    store.commit(
        epoch,
        [
            insert_run(2, version, (8, 9)),
            move_run(2, RunEvent.START, RunState.QUEUED),
            move_run(2, RunEvent.SUCCEED, RunState.RUNNING),
        ],
    )
    loaded = store.load()
    assert [run.id for run in loaded.runs] == [1]
    assert [task.id for task in loaded.tasks] == [1]
    assert (loaded.last_run_pk, loaded.last_task_pk) == (2, 9)


def test_finished_tasks_of_an_unfinished_run_are_loaded(store: Store) -> None:
    epoch = reign_with_run(store, tasks=(1, 2))
    store.commit(epoch, [move_task(1, TaskEvent.UPSTREAM_FAIL)])
    assert state_of(store) == {1: TaskState.UPSTREAM_FAILED, 2: TaskState.NONE}


def test_every_version_in_use_is_loaded(store: Store) -> None:
    epoch = reign_with_run(store)
    [old] = store.load().dags
    [new] = store.record_dags(epoch, "etl.py", [spec(command="new")], "", at(1))
    store.record_dags(epoch, "etl.py", [spec(command="newer")], "", at(2))
    loaded = store.load()
    [newest] = loaded.dags
    assert loaded.versions == {old.version_id: old.spec, newest.version_id: newest.spec}
    assert new.version_id not in loaded.versions


def test_the_version_of_an_unfinished_run_is_loaded_after_its_dag_has_gone(store: Store) -> None:
    epoch = reign_with_run(store)
    store.retire_file(epoch, "etl.py", at(1))
    loaded = store.load()
    assert loaded.dags == ()
    assert list(loaded.versions.values()) == [spec()]


# -- DAG files ---------------------------------------------------------------------------------


def test_a_dag_is_active_and_not_paused_when_first_seen(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    [row] = store.record_dags(epoch, "etl.py", [spec()], "text", START)
    assert (row.dag_id, row.spec, row.active, row.paused) == ("etl", spec(), True, False)
    assert store.load().dags == (row,)
    [version] = rows_of(models.DagVersion, store.database)
    assert (version["source"], version["digest"]) == ("text", spec().digest)


def test_an_unchanged_dag_keeps_its_version_and_is_not_returned(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    [row] = store.record_dags(epoch, "etl.py", [spec()], "", START)
    assert store.record_dags(epoch, "etl.py", [spec()], "a comment", at(1)) == []
    assert store.load().dags == (row,)
    assert len(rows_of(models.DagVersion, store.database)) == 1


def test_a_changed_dag_gets_a_new_version_and_its_old_one_back_when_changed_back(
    store: Store,
) -> None:
    epoch = store.begin_reign("first", START)
    [first] = store.record_dags(epoch, "etl.py", [spec()], "", START)
    [second] = store.record_dags(epoch, "etl.py", [spec(command="new")], "", at(1))
    [third] = store.record_dags(epoch, "etl.py", [spec()], "", at(2))
    assert second.version_id != first.version_id
    assert third == first


def test_a_paused_dag_stays_paused_when_it_changes(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    store.record_dags(epoch, "etl.py", [spec()], "", START)
    store.commit(epoch, [SetPaused(dag_id="etl", paused=True, at=START, actor="user ada")])
    [row] = store.record_dags(epoch, "etl.py", [spec(command="new")], "", at(1))
    assert row.paused


def test_a_dag_that_left_its_file_is_retired_and_its_sibling_is_not(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    both = [spec("etl"), spec("report")]
    store.record_dags(epoch, "etl.py", both, "", START)
    [gone] = store.record_dags(epoch, "etl.py", [spec("report")], "", at(1))
    assert (gone.dag_id, gone.active) == ("etl", False)
    assert [dag.dag_id for dag in store.load().dags] == ["report"]
    [back] = store.record_dags(epoch, "etl.py", both, "", at(2))
    assert (back.dag_id, back.active, back.version_id) == ("etl", True, gone.version_id)


def test_a_dag_that_moved_to_another_file_is_not_retired_by_its_old_one(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    store.record_dags(epoch, "old.py", [spec(file="old.py")], "", START)
    store.record_dags(epoch, "new.py", [spec(file="new.py")], "", at(1))
    assert store.retire_file(epoch, "old.py", at(2)) == []
    assert [dag.spec.file for dag in store.load().dags] == ["new.py"]


def test_an_error_keeps_the_last_good_version_and_is_cleared_by_the_next_good_one(
    store: Store,
) -> None:
    epoch = store.begin_reign("first", START)
    [row] = store.record_dags(epoch, "etl.py", [spec()], "", START)
    store.record_error(epoch, "etl.py", "line 3: oops", at(1))
    store.record_error(epoch, "etl.py", "line 4: oops", at(2))
    assert store.load().dags == (row,)
    assert rows_of(models.DagImportError, store.database) == [
        {"file": "etl.py", "message": "line 4: oops", "at": at(2)}
    ]
    store.record_dags(epoch, "etl.py", [spec()], "", at(3))
    assert rows_of(models.DagImportError, store.database) == []


def test_files_that_are_recorded_together_come_to_what_they_would_one_by_one(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    store.record_dags(epoch, "a.py", [spec("moves", file="a.py"), spec("stays")], "", START)
    store.record_dags(epoch, "b.py", [spec("goes", file="b.py"), spec("held")], "", START)
    store.record_error(epoch, "c.py", "broken", at(1))
    store.commit(epoch, [SetPaused(dag_id="held", paused=True, at=START, actor="user ada")])
    before = {row.dag_id: row.version_id for row in store.load().dags}
    lines = len(rows_of(models.Audit, store.database))
    files = [
        DagFile("a.py", [spec("stays")], "text of a"),
        DagFile("b.py", [spec("held", command="new")], "text of b"),
        DagFile("c.py", [spec("moves", file="c.py"), spec("new")], "text of c"),
    ]
    rows = store.record_files(epoch, files, at(2))
    assert [(row.dag_id, row.active, row.paused) for row in rows] == [
        ("goes", False, False),
        ("held", True, True),
        ("moves", True, False),
        ("new", True, False),
    ]
    now = {row.dag_id: row.version_id for row in store.load().dags}
    assert set(now) == {"stays", "held", "moves", "new"}
    assert now["stays"] == before["stays"]
    assert now["moves"] != before["moves"]
    assert {row.dag_id: row.spec.file for row in rows}["moves"] == "c.py"
    assert rows_of(models.DagImportError, store.database) == []
    told = [(x["dag_id"], x["event"]) for x in rows_of(models.Audit, store.database)[lines:]]
    assert told == [
        ("moves", "retire"),
        ("held", "update"),
        ("goes", "retire"),
        ("moves", "register"),
        ("new", "register"),
    ]
    assert store.record_files(epoch, files, at(3)) == []


def test_a_deleted_file_retires_its_dags_and_clears_its_error(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    store.record_dags(epoch, "etl.py", [spec()], "", START)
    store.record_error(epoch, "etl.py", "broken", at(1))
    [gone] = store.retire_file(epoch, "etl.py", at(2))
    assert (gone.dag_id, gone.active, gone.spec) == ("etl", False, spec())
    assert store.load().dags == ()
    assert rows_of(models.DagImportError, store.database) == []


# -- agents ------------------------------------------------------------------------------------


def test_an_agent_is_replaced_and_each_of_its_sessions_is_kept(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    first, second = agent_row(session=1), agent_row(session=2, slots=8, state=AgentState.LOST)
    store.commit(epoch, [SaveAgent(agent=first, at=START), SaveAgent(agent=first, at=at(1))])
    store.commit(
        epoch,
        [
            EndSession(agent="node1", session=1, how="lapsed", at=at(2)),
            SaveAgent(agent=second, at=at(2)),
        ],
    )
    assert store.load().agents == (second,)
    sessions = rows_of(models.AgentSession, store.database)
    assert [
        (row["session"], row["started_at"], row["ended_at"], row["how"]) for row in sessions
    ] == [(1, START, at(2), "lapsed"), (2, at(2), None, None)]


def test_a_session_ends_once(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    end = EndSession(agent="node1", session=1, how="goodbye", at=at(1))
    store.commit(epoch, [SaveAgent(agent=agent_row(), at=START), end])
    store.commit(epoch, [replace(end, how="lost", at=at(2))])
    [session] = rows_of(models.AgentSession, store.database)
    assert (session["how"], session["ended_at"]) == ("goodbye", at(1))


def test_hearing_from_agents_touches_those_and_no_others(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    names = ("node1", "node2", "node3")
    store.commit(epoch, [SaveAgent(agent=agent_row(name), at=START) for name in names])
    heard = {"node1": at(5), "node3": at(6.5), "unknown": at(7)}
    store.commit(epoch, [TouchAgents(heard=heard), TouchAgents(heard={})])
    assert [row.last_heartbeat for row in store.load().agents] == [at(5), None, at(6.5)]


# -- intents -----------------------------------------------------------------------------------


def _request(store: Store, kind: str, **arguments: Any) -> int:
    values = {"kind": kind, "arguments": arguments, "created_at": START}
    return int(models.Intent.insert(values).execute(store.database))


def test_pending_intents_come_in_order_until_each_is_closed(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    first = _request(store, "trigger", dag_id="etl", run_id="m1", conf={"day": 1})
    second = _request(store, "pause", dag_id="etl")
    assert [(x.id, x.kind, x.created_at) for x in store.pending_intents()] == [
        (first, "trigger", START),
        (second, "pause", START),
    ]
    assert store.pending_intents()[0].arguments == {
        "dag_id": "etl",
        "run_id": "m1",
        "conf": {"day": 1},
    }
    store.commit(epoch, [CloseIntent(intent_id=first, at=at(1), error="no such DAG")])
    assert [intent.id for intent in store.pending_intents()] == [second]
    closed, _ = rows_of(models.Intent, store.database)
    assert (closed["done_at"], closed["error"]) == (at(1), "no such DAG")


def test_an_intent_is_closed_once(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    close = CloseIntent(intent_id=_request(store, "pause", dag_id="etl"), at=START)
    store.commit(epoch, [close])
    with pytest.raises(GuardFailed, match="expected a pending one, got none"):
        store.commit(epoch, [close])


def test_pausing_a_dag_that_does_not_exist_fails_the_guard(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    with pytest.raises(GuardFailed, match="dag 'nope': expected a row, got none"):
        store.commit(epoch, [SetPaused(dag_id="nope", paused=True, at=START, actor="user ada")])


# -- the audit ---------------------------------------------------------------------------------


def test_every_transition_leaves_a_line_in_the_order_of_the_writes(store: Store) -> None:
    epoch = reign_with_run(store, tasks=(1, 2))
    store.commit(
        epoch,
        [
            move_task(2, TaskEvent.SCHEDULE, reason="all done"),
            move_run(1, RunEvent.START, RunState.QUEUED, at(1)),
            move_task(1, TaskEvent.SCHEDULE),
            move_task(2, TaskEvent.QUEUE, TaskState.SCHEDULED),
            SetPaused(dag_id="etl", paused=True, at=at(2), actor="user ada"),
            SetPaused(dag_id="etl", paused=False, at=at(3), actor="user ada"),
        ],
    )
    keys = ("at", "actor", "entity", "dag_id", "run_id", "task_id", "event", "source", "target")
    lines = [tuple(row[key] for key in keys) for row in rows_of(models.Audit, store.database)]
    me, run = "dispatcher", ("etl", "run-1")
    version = f"version {store.load().dags[0].version_id}"
    assert lines == [
        (START, me, "dag", "etl", None, None, "register", "", version),
        (START, me, "run", *run, None, "create", "", "queued"),
        (START, me, "task", *run, "task-2", "schedule", "none", "scheduled"),
        (at(1), me, "run", *run, None, "start", "queued", "running"),
        (START, me, "task", *run, "task-1", "schedule", "none", "scheduled"),
        (START, me, "task", *run, "task-2", "queue", "scheduled", "queued"),
        (at(2), "user ada", "dag", "etl", None, None, "pause", "unpaused", "paused"),
        (at(3), "user ada", "dag", "etl", None, None, "unpause", "paused", "unpaused"),
    ]
    second = rows_of(models.Audit, store.database)[2]
    assert (second["run_pk"], second["task_pk"], second["map_index"]) == (1, 2, -1)
    assert second["reason"] == "all done"


def test_what_people_want_of_an_agent_is_kept_and_leaves_a_line(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    agent = AgentRow(
        name="node1",
        session=1,
        state=AgentState.ONLINE,
        drained="new kernel (user ada)",
        wanted_queues=("q1", "q2"),
        wanted_slots=3,
    )
    told = ToldAgent(agent="node1", event="drain", reason="new kernel", actor="user ada", at=at(1))
    store.commit(epoch, [SaveAgent(agent=agent, at=at(1)), told])
    assert store.load().agents == (agent,)
    [line] = rows_of(models.Audit, store.database)
    assert (line["actor"], line["entity"], line["agent"]) == ("user ada", "agent", "node1")
    assert (line["event"], line["reason"], line["dag_id"]) == ("drain", "new kernel", "")


def test_changes_of_dag_files_leave_lines(store: Store) -> None:
    epoch = store.begin_reign("first", START)
    [one] = store.record_dags(epoch, "etl.py", [spec()], "", START)
    [two] = store.record_dags(epoch, "etl.py", [spec(command="new")], "", at(1))
    store.retire_file(epoch, "etl.py", at(2))
    lines = rows_of(models.Audit, store.database)
    assert [(line["event"], line["source"], line["target"]) for line in lines] == [
        ("register", "", f"version {one.version_id}"),
        ("update", f"version {one.version_id}", f"version {two.version_id}"),
        ("retire", f"version {two.version_id}", ""),
    ]


# -- tries -------------------------------------------------------------------------------------


def test_the_run_and_the_agent_of_a_try_are_found_by_its_token_only(store: Store) -> None:
    epoch = reign_with_run(store)
    store.commit(epoch, [open_try(1, try_number=1, token=1000)])
    assert store.owner_of_try(1, 1, 1000) == (1, "node1")
    assert store.owner_of_try(1, 1, 999) is None
    assert store.owner_of_try(1, 2, 1000) is None


# -- wishes ------------------------------------------------------------------------------------


def running(store: Store, token: int = 1000) -> int:
    """A reign whose task instance 1 runs under *token*."""
    epoch = reign_with_run(store)
    store.commit(
        epoch,
        [
            move_run(1, RunEvent.START, RunState.QUEUED),
            move_task(1, TaskEvent.SCHEDULE),
            move_task(1, TaskEvent.QUEUE, TaskState.SCHEDULED),
            move_task(1, TaskEvent.GRANT, TaskState.QUEUED, token=token),
        ],
    )
    return epoch


def wish(token: int = 1000) -> SetWish:
    return SetWish(task_pk=1, token=token, wish=Wish.CANCEL, actor="user ada", at=at(1))


def test_a_wish_is_kept_on_the_live_token_and_leaves_a_line(store: Store) -> None:
    epoch = running(store)
    store.commit(epoch, [wish(), SetCancelled(run_pk=1, by="user ada", actor="user ada", at=at(1))])
    snapshot = store.load()
    assert (snapshot.tasks[0].wish, snapshot.tasks[0].wish_by) == (Wish.CANCEL, "user ada")
    assert snapshot.runs[0].cancelled_by == "user ada"
    lines = [(row["actor"], row["event"]) for row in rows_of(models.Audit, store.database)]
    assert lines[-2:] == [("user ada", "ask to cancel"), ("user ada", "cancel")]


def test_a_wish_on_a_token_that_has_ended_fails_the_guard(store: Store) -> None:
    epoch = running(store)
    with pytest.raises(GuardFailed):
        store.commit(epoch, [wish(token=999)])
    assert store.load().tasks[0].wish is Wish.NONE


def test_a_wish_and_the_end_of_its_token_in_one_flush_leave_no_wish(store: Store) -> None:
    epoch = running(store)
    end = move_task(1, TaskEvent.FAIL, TaskState.RUNNING, 1000, wish=Wish.NONE, wish_by="")
    store.commit(epoch, [wish(), end])
    assert store.load().tasks[0].wish is Wish.NONE


# -- deaths that were none ---------------------------------------------------------------------


def taken_back(state: TaskState, token: int, deaths: int = 1) -> TakeBackDeath:
    reason = "agent node1 had not died"
    return TakeBackDeath(
        task_pk=1, state=state, token=token, deaths=deaths, reason=reason, at=at(2)
    )


def test_a_death_is_taken_back_in_whatever_state_and_leaves_a_line(store: Store) -> None:
    epoch = running(store)
    lose = move_task(1, TaskEvent.LOSE, TaskState.RUNNING, 1000, deaths=2)
    store.commit(epoch, [lose, taken_back(TaskState.SCHEDULED, 1000)])
    task = store.load().tasks[0]
    assert (task.state, task.token, task.deaths) == (TaskState.SCHEDULED, 1000, 1)
    line = rows_of(models.Audit, store.database)[-1]
    assert (line["actor"], line["event"], line["task_id"]) == (
        "dispatcher",
        "take back a death",
        "task-1",
    )
    assert (line["source"], line["target"]) == ("scheduled", "scheduled")
    assert line["reason"] == "agent node1 had not died"
    again = move_task(1, TaskEvent.QUEUE, TaskState.SCHEDULED, 1000)
    store.commit(epoch, [again, taken_back(TaskState.QUEUED, 1000, deaths=0)])
    assert store.load().tasks[0].deaths == 0


@pytest.mark.parametrize(("state", "token"), [(TaskState.RUNNING, 999), (TaskState.QUEUED, 1000)])
def test_a_death_of_a_task_that_has_gone_on_fails_the_guard(
    store: Store, state: TaskState, token: int
) -> None:
    epoch = running(store)
    store.commit(
        epoch,
        [
            move_task(1, TaskEvent.LOSE, TaskState.RUNNING, 1000, deaths=2),
            move_task(1, TaskEvent.QUEUE, TaskState.SCHEDULED, 1000),
            move_task(1, TaskEvent.GRANT, TaskState.QUEUED, 1000, token=1001),
        ],
    )
    with pytest.raises(GuardFailed):
        store.commit(epoch, [taken_back(state, token)])
    assert store.load().tasks[0].deaths == 2


# -- runs that have ended ----------------------------------------------------------------------


def test_a_run_that_has_ended_is_loaded_by_name_with_all_its_tasks(store: Store) -> None:
    epoch = running(store)
    store.commit(
        epoch,
        [
            SetCancelled(run_pk=1, by="user ada", actor="user ada", at=at(1)),
            move_task(1, TaskEvent.FAIL, TaskState.RUNNING, 1000),
            move_run(1, RunEvent.FAIL, RunState.RUNNING, at(2)),
        ],
    )
    assert store.load().runs == ()
    loaded = store.load_run("etl", "run-1")
    assert loaded is not None
    assert (loaded.run.state, loaded.run.end_date) == (RunState.FAILED, at(2))
    assert [(task.id, task.state) for task in loaded.tasks] == [(1, TaskState.FAILED)]
    assert loaded.spec.dag_id == "etl"
    assert store.load_run("etl", "run-2") is None


def test_a_restarted_run_forgets_its_dates_and_who_cancelled_it(store: Store) -> None:
    epoch = running(store)
    store.commit(
        epoch,
        [
            SetCancelled(run_pk=1, by="user ada", actor="user ada", at=at(1)),
            move_task(1, TaskEvent.FAIL, TaskState.RUNNING, 1000),
            move_run(1, RunEvent.FAIL, RunState.RUNNING, at(2)),
            move_task(1, TaskEvent.CLEAR, TaskState.FAILED, 1000),
            move_run(1, RunEvent.RESTART, RunState.FAILED, at(3)),
        ],
    )
    (run,) = store.load().runs
    assert (run.state, run.start_date, run.end_date) == (RunState.QUEUED, None, None)
    assert run.cancelled_by == ""


# -- runs by schedule --------------------------------------------------------------------------


def scheduled(pk: int, version_id: int, hour: int, **given: Any) -> RunRow:
    """The run of one hour of the story."""
    start = at(3600 * hour)
    values: dict[str, Any] = {
        "run_id": f"scheduled__{start.isoformat()}",
        "run_type": RunType.SCHEDULED,
        "logical_date": start,
        "data_interval_start": start,
        "data_interval_end": at(3600 * (hour + 1)),
    }
    return run_row(pk, version_id, **{**values, **given})


def test_the_latest_run_by_schedule_is_loaded_even_when_all_have_ended(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    [etl, other] = store.record_dags(epoch, "etl.py", [spec(), spec("other")], "", START)
    runs = [
        scheduled(1, etl.version_id, 7),
        scheduled(2, etl.version_id, 8),
        scheduled(3, etl.version_id, 6),
        run_row(4, etl.version_id, logical_date=at(9 * 3600)),
        scheduled(5, other.version_id, 1, dag_id="other"),
    ]
    inserts = [InsertRun(run=run, tasks=()) for run in runs]
    moves = [move_run(pk, RunEvent.START, RunState.QUEUED) for pk in range(1, 6)]
    moves += [move_run(pk, RunEvent.SUCCEED, RunState.RUNNING) for pk in range(1, 6)]
    store.commit(epoch, [*inserts, *moves])
    store.retire_file(epoch, "etl.py", START)
    loaded = store.load()
    assert loaded.runs == ()
    assert loaded.last_scheduled == {
        "etl": LastScheduled(run_pk=2, interval=Interval(at(8 * 3600), at(9 * 3600))),
        "other": LastScheduled(run_pk=5, interval=Interval(at(3600), at(7200))),
    }
    assert loaded.past == {}


def test_an_interval_has_one_run_whoever_creates_it(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    [dag] = store.record_dags(epoch, "etl.py", [spec()], "", START)
    store.commit(epoch, [InsertRun(run=scheduled(1, dag.version_id, 7), tasks=())])
    with pytest.raises(GuardFailed):
        store.commit(epoch, [InsertRun(run=scheduled(2, dag.version_id, 7), tasks=())])


def test_tasks_without_success_are_loaded_of_runs_that_others_follow(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    [dag] = store.record_dags(epoch, "etl.py", [spec()], "", START)
    rows = [
        scheduled(1, dag.version_id, 1),
        scheduled(2, dag.version_id, 2, previous_pk=1),
        scheduled(3, dag.version_id, 3, previous_pk=2),
        scheduled(4, dag.version_id, 4, previous_pk=3),
    ]
    inserts = [
        InsertRun(run=row, tasks=(task_row(10 * row.id, row.id), task_row(10 * row.id + 1, row.id)))
        for row in rows
    ]
    store.commit(epoch, inserts)
    for pk in (1, 2, 4):  # the third goes on
        skipped = move_task(10 * pk, TaskEvent.SKIP)
        failed = move_task(10 * pk + 1, TaskEvent.UPSTREAM_FAIL)
        started = move_run(pk, RunEvent.START, RunState.QUEUED)
        store.commit(epoch, [skipped, failed, started])
        store.commit(epoch, [move_run(pk, RunEvent.FAIL, RunState.RUNNING)])
    assert store.load().past == {2: frozenset({"task-21"}), 4: frozenset({"task-41"})}
    run_id = f"scheduled__{at(3 * 3600).isoformat()}"
    cleared = store.load_run("etl", run_id)
    assert cleared is not None
    assert cleared.past == frozenset({"task-21"})
