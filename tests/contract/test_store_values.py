"""XComs and variables, on every database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dispatcher.core.records import SaveXcoms
from dispatcher.store import Store, migrate, models, open_database, values
from flow.wire import Wanted
from tests.contract.store_fixtures import at, insert_run, reign_with_run, rows_of

LIMIT = 1000


@pytest.fixture(params=["postgres", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = (
        request.getfixturevalue("postgres_url")
        if request.param == "postgres"
        else f"sqlite:///{tmp_path}/flow.db"
    )
    made = Store(open_database(url))
    migrate(made.database)
    yield made
    made.close()


def xcom(task: int, key: str = "return_value") -> Wanted:
    return Wanted(kind="xcom", name=f"task-{task}" if task else "", key=key)


def save(store: Store, epoch: int, task_pk: int, when: float = 0, **pushed: str) -> None:
    store.commit(epoch, [SaveXcoms(task_pk=task_pk, values=pushed, at=at(when))])


def test_what_was_pushed_is_found_and_what_was_not_is_none(store: Store) -> None:
    epoch = reign_with_run(store, (1, 2))
    save(store, epoch, 1, return_value='{"ä": "\\u0000"}', k="[1]")
    wanted = [xcom(1), xcom(1, "k"), xcom(1, "none"), xcom(2), xcom(99)]
    assert store.find_values(1, wanted, LIMIT) == ['{"ä": "\\u0000"}', "[1]", None, None, None]


def test_a_later_try_replaces_all_that_an_earlier_one_has_pushed(store: Store) -> None:
    epoch = reign_with_run(store, (1, 2))
    save(store, epoch, 2, k="2")
    save(store, epoch, 1, a="1", b="2")
    save(store, epoch, 1, b="3")
    assert store.find_values(1, [xcom(1, "a"), xcom(1, "b"), xcom(2, "k")], LIMIT) == [
        None,
        "3",
        "2",
    ]
    save(store, epoch, 1)
    assert store.find_values(1, [xcom(1, "b")], LIMIT) == [None]


def test_of_two_tries_in_one_flush_the_last_one_counts(store: Store) -> None:
    epoch = reign_with_run(store)
    first = SaveXcoms(task_pk=1, values={"k": "1"}, at=at(0))
    store.commit(epoch, [first, replace(first, values={"k": "2"})])
    assert store.find_values(1, [xcom(1, "k")], LIMIT) == ["2"]


def test_a_run_does_not_see_what_another_has_pushed(store: Store) -> None:
    epoch = reign_with_run(store, (1,))
    [dag] = store.load().dags
    other = insert_run(2, dag.version_id, ())
    task = replace(insert_run(1, dag.version_id, (1,)).tasks[0], id=5, run_pk=2)
    store.commit(epoch, [replace(other, tasks=(task,))])
    save(store, epoch, 5, return_value='"theirs"')
    assert store.find_values(1, [xcom(1)], LIMIT) == [None]
    assert store.find_values(2, [xcom(1)], LIMIT) == ['"theirs"']


def test_without_a_task_the_newest_value_of_a_key_is_found(store: Store) -> None:
    epoch = reign_with_run(store, (1, 2))
    save(store, epoch, 2, when=5, k='"new"')
    save(store, epoch, 1, when=1, k='"old"')
    assert store.find_values(1, [xcom(0, "k")], LIMIT) == ['"new"']


def test_an_answer_holds_as_much_as_fits_and_one_value_in_any_case(store: Store) -> None:
    epoch = reign_with_run(store)
    large = json.dumps("x" * LIMIT)
    save(store, epoch, 1, a="1", large=large)
    assert store.find_values(1, [xcom(1, "a"), xcom(1, "large"), xcom(1, "a")], LIMIT) == ["1"]
    assert store.find_values(1, [xcom(1, "large"), xcom(1, "a")], LIMIT) == [large]


def test_what_tasks_pushed_goes_with_their_run(store: Store) -> None:
    epoch = reign_with_run(store)
    save(store, epoch, 1, k="1")
    models.DagRun.delete().execute(store.database)
    assert rows_of(models.Xcom, store.database) == []


def test_variables_are_set_changed_listed_and_forgotten(store: Store) -> None:
    values.set_variable(store.database, "b", "1", at(0))
    values.set_variable(store.database, "a", "ä", at(1))
    values.set_variable(store.database, "b", "2", at(2))
    listed = values.variables(store.database)
    assert [(item.name, item.value, item.updated_at) for item in listed] == [
        ("a", "ä", at(1)),
        ("b", "2", at(2)),
    ]
    assert values.delete_variable(store.database, "a")
    assert not values.delete_variable(store.database, "a")
    assert [item.name for item in values.variables(store.database)] == ["b"]


def test_tasks_find_variables_as_json_texts(store: Store) -> None:
    values.set_variable(store.database, "v", 'say "ä"', at(0))
    wanted = [Wanted(kind="variable", name="v"), Wanted(kind="variable", name="w")]
    found = store.find_values(0, wanted, LIMIT)
    assert found[1] is None
    assert json.loads(found[0] or "") == 'say "ä"'
