"""Between the tables and the records of the core, column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from peewee import ModelSelect

from dispatcher.core.records import DagRow
from dispatcher.store.models import Dag, DagVersion, Table
from flow.dagspec import DagSpec

Record = TypeVar("Record")
Row = TypeVar("Row")
Raw = tuple[Any, ...]

#: JSON has no tuples: for :func:`records` of agents.
AGENT_LISTS: dict[str, Callable[[Any], Any]] = {
    "queues": tuple,
    "gpus": tuple,
    "charged": tuple,
    "wanted_queues": lambda value: None if value is None else tuple(value),
}

#: Rows per statement: SQLite allows 32,766 parameters, and a task has 18 columns.
_CHUNK = 1000


def columns(table: type[Table], record: type[Any]) -> tuple[Any, ...]:
    """The columns of *table* that carry the fields of *record*, in their order."""
    return tuple(table.column(field.name) for field in fields(record))


def chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """*rows* in parts that fit into one statement."""
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def select(table: type[Table], record: type[Any]) -> ModelSelect[Any]:
    """A query whose answer :func:`records` reads."""
    return table.select(*columns(table, record))


def fetch(database: Any, query: Any) -> list[Raw]:
    """The answer as the driver gives it, whole, without the columns' own conversions."""
    return list(database.execute(query).fetchall())


def records(
    table: type[Table],
    record: type[Record],
    answer: Iterable[Raw],
    **convert: Callable[[Any], Any],
) -> Iterator[Record]:
    """The rows of an *answer* to :func:`select`; *convert* is applied to fields by name, after
    the conversion of their column."""
    readers = [(column.column_name, column.python_value) for column in columns(table, record)]
    for raw in answer:
        values = {name: read(value) for (name, read), value in zip(readers, raw, strict=True)}
        for name, change in convert.items():
            values[name] = change(values[name])
        yield record(**values)


def values(table: type[Table], record: Any) -> list[Any]:
    """*record* as an insert takes it beside ``columns(table, type(record))``."""
    return [getattr(record, column.column_name) for column in columns(table, type(record))]


def dag_query() -> ModelSelect[Any]:
    """DAGs with their current version, as :func:`dag_records` reads them."""
    chosen = (Dag.dag_id, Dag.version, DagVersion.spec, Dag.paused, Dag.active, Dag.bundle)
    return Dag.select(*chosen).join(DagVersion).order_by(Dag.dag_id)


def dag_records(answer: Iterable[Raw]) -> Iterator[DagRow]:
    """The rows of an *answer* to :func:`dag_query`."""
    for dag_id, version_id, spec, paused, active, bundle in answer:
        yield DagRow(
            dag_id=dag_id,
            version_id=version_id,
            spec=DagSpec.from_json(spec),
            paused=bool(paused),
            active=bool(active),
            bundle=bundle,
        )
