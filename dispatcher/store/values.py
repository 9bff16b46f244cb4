"""What tasks leave for each other (XComs), and what people leave for tasks (variables)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from peewee import Database

from dispatcher.core.records import SaveXcoms
from dispatcher.store.database import errors_translated
from dispatcher.store.models import TaskInstance, Variable, Xcom
from dispatcher.store.rows import chunks, fetch
from flow.wire import Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableView:
    """A variable as people see it."""

    name: str
    value: str
    updated_at: datetime


def save_xcoms(database: Database, saves: Iterable[SaveXcoms]) -> None:
    """Each task's values in the place of all it had, in the transaction that the caller holds."""
    latest = {save.task_pk: save for save in saves}
    for keys in chunks(list(latest)):
        Xcom.delete().where(Xcom.task.in_(keys)).execute(database)
    into = (Xcom.task, Xcom.key, Xcom.value, Xcom.at)
    rows = [
        (save.task_pk, key, value, save.at)
        for save in latest.values()
        for key, value in save.values.items()
    ]
    for chunk in chunks(rows):
        Xcom.insert_many(chunk, into).as_rowcount().execute(database)


def find_values(
    database: Database, run_pk: int, wanted: Sequence[Wanted], limit: int
) -> list[str | None]:
    """For the first of *wanted*, as many as have about *limit* bytes together and at least one:
    the value as JSON, or ``None`` where there is none. XComs are those of one run."""
    found: list[str | None] = []
    size = 0
    with errors_translated(database):
        for item in wanted:
            value = _variable(database, item) if item.kind == "variable" else None
            if item.kind == "xcom":
                value = _xcom(database, run_pk, item)
            size += len(value or "")
            if found and size > limit:
                break
            found.append(value)
    return found


def _variable(database: Database, wanted: Wanted) -> str | None:
    query = Variable.select(Variable.value).where(Variable.name == wanted.name)
    return next((json.dumps(value) for (value,) in fetch(database, query)), None)


def _xcom(database: Database, run_pk: int, wanted: Wanted) -> str | None:
    query = (
        Xcom.select(Xcom.value)
        .join(TaskInstance)
        .where(TaskInstance.run == run_pk, Xcom.key == wanted.key)
        .order_by(Xcom.at.desc(), Xcom.id.desc())
        .limit(1)
    )
    if wanted.name:
        query = query.where(TaskInstance.task_id == wanted.name)
    return next((str(value) for (value,) in fetch(database, query)), None)


def set_variable(database: Database, name: str, value: str, at: datetime) -> None:
    """Make *name* be *value*, whatever it was."""
    with errors_translated(database):
        (
            Variable.insert(name=name, value=value, updated_at=at)
            .on_conflict(
                conflict_target=[Variable.name], preserve=[Variable.value, Variable.updated_at]
            )
            .as_rowcount()
            .execute(database)
        )


def variables(database: Database) -> list[VariableView]:
    """All of them, by name."""
    with errors_translated(database):
        return [
            VariableView(name=row.name, value=row.value, updated_at=row.updated_at)
            for row in Variable.select().order_by(Variable.name).execute(database)
        ]


def delete_variable(database: Database, name: str) -> bool:
    """Forget it; whether there was one."""
    with errors_translated(database):
        return bool(Variable.delete().where(Variable.name == name).execute(database))
