"""The model database and the real store come to the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dispatcher.core.records import Write
from dispatcher.store import Store, migrate, models, open_database
from flow.errors import EpochLost, GuardFailed
from tests.sim.database import ModelDatabase
from tests.sim.plan import plan_of
from tests.sim.workload import START
from tests.sim.world import World


def committed(seed: int) -> tuple[World, list[tuple[int, list[Write]]]]:
    """What the dispatchers of a seed have written, in order."""
    world = World(seed, plan_of(seed))
    commits: list[tuple[int, list[Write]]] = []
    watch = world.database.watch

    def record(epoch: int, writes: Sequence[Write]) -> None:
        commits.append((epoch, list(writes)))
        watch(epoch, writes)

    world.database.watch = record
    world.run()
    return world, commits


def store_of(path: Path, world: World) -> Store:
    """A real store with the world's DAGs and intents."""
    store = Store(open_database(f"sqlite:///{path}"))
    migrate(store.database)
    epoch = store.begin_reign("setup", START)
    if world.workload.bundle is not None:
        bundle = {"id": world.workload.bundle, "created_at": START}
        models.Bundle.insert(bundle).execute(store.database)
    for spec in world.workload.specs:
        store.record_dags(epoch, f"{spec.dag_id}.py", [spec], "", START)
    models.Leader.update(epoch=0).execute(store.database)
    for intent in world.database.rows.intents.values():
        row = {"id": intent.id, "kind": intent.kind, "created_at": intent.created_at}
        models.Intent.insert(row | {"arguments": "{}"}).execute(store.database)
    return store


def dump(rows: Any, names: Sequence[str]) -> dict[Any, tuple[Any, ...]]:
    return {row["id"]: tuple(row[name] for name in names) for row in rows}


@pytest.mark.parametrize("seed", [1, 42, 300, 777, 1111, 2024])
def test_the_model_database_comes_to_the_rows_of_the_real_store(seed: int, tmp_path: Path) -> None:
    world, commits = committed(seed)
    assert len(commits) > 10
    store = store_of(tmp_path / "flow.db", world)
    reign = 0
    for epoch, writes in commits:
        while reign < epoch:
            reign = store.begin_reign("sim", START)
        store.commit(epoch, writes)
    rows, database = world.database.rows, store.database
    for model, table, names in (
        (rows.runs, models.DagRun, ("state", "run_id", "cancelled_by", "start_date", "end_date")),
        (rows.tasks, models.TaskInstance, TASK_COLUMNS),
    ):
        found = {row["id"]: row for row in table.select().dicts().execute(database)}
        assert found.keys() == model.keys()
        for pk, row in model.items():
            assert {n: found[pk][n] for n in names} == {n: getattr(row, n) for n in names}
    tries = models.TaskTry.select().tuples().execute(database)
    assert len(list(tries)) == len(rows.tries)
    snapshot, modelled = store.load(), world.database.load()
    assert snapshot.agents == modelled.agents
    assert snapshot.last_scheduled == modelled.last_scheduled
    assert snapshot.past == modelled.past
    assert (snapshot.last_run_pk, snapshot.last_task_pk, snapshot.last_token) == (
        modelled.last_run_pk,
        modelled.last_task_pk,
        modelled.last_token,
    )
    assert {intent.id for intent in store.pending_intents()} == {
        intent.id for intent in world.database.pending_intents()
    }
    store.close()


TASK_COLUMNS = (
    "state",
    "try_number",
    "failures",
    "deaths",
    "releases",
    "token",
    "agent",
    "session",
    "not_before",
    "queued_at",
    "start_date",
    "end_date",
    "reason",
    "wish",
    "wish_by",
)


@pytest.mark.parametrize("back", [0, 1])
def test_both_refuse_the_same_writes(back: int, tmp_path: Path) -> None:
    """Every commit of a seed, sent once more: it is refused, and changes nothing."""
    world, commits = committed(42)
    store = store_of(tmp_path / "flow.db", world)
    model = ModelDatabase()
    model.add_dags(world.workload.specs)
    model.rows.intents = world.database.rows.intents
    refused = 0
    reign = 0
    for epoch, writes in commits:
        while reign < epoch:
            reign = store.begin_reign("sim", START)
            assert model.begin_reign() == reign
        store.commit(epoch, writes)
        model.commit(epoch, writes)
        by_store, by_model = (_refusal(each, epoch - back, writes) for each in (store, model))
        assert by_store == by_model, writes
        refused += by_store != "nothing"
    assert refused > 10
    assert model.load().tasks == store.load().tasks
    store.close()


def _refusal(database: Store | ModelDatabase, epoch: int, writes: Sequence[Write]) -> str:
    try:
        database.commit(epoch, writes)
    except (EpochLost, GuardFailed) as error:
        return type(error).__name__
    return "nothing"
