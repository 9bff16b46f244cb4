"""Many rows in one statement, whatever they hold: the writes that come with every task.

Postgres gets one array per column and the same short statement however many rows there are, SQLite
a prepared statement that is repeated. Both are several times cheaper than a statement that the
library composes value by value (docs/performance.md). A column in which all rows agree, and most
do, travels once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import peewee
from peewee import Database, Field, SqliteDatabase

from dispatcher.store.models import Table
from dispatcher.store.rows import chunks

#: Postgres' names of the library's types.
_TYPES = {
    "BIGAUTO": "bigint",
    "BIGINT": "bigint",
    "INT": "integer",
    "BOOL": "boolean",
    "DOUBLE": "double precision",
    "TEXT": "text",
    "TIMESTAMPTZ": "timestamptz",
}
#: Makes the library's exceptions of the driver's, as its own calls do. (The stubs leave it out.)
_translated: Any = getattr(peewee, "__exception_wrapper__")  # noqa: B009

Row = Sequence[Any]


def insert(database: Database, table: type[Table], into: Sequence[Field], rows: list[Any]) -> None:
    """Insert *rows*, whose values are those of the columns *into*."""
    names = ", ".join(map(_name, into))
    target = f'"{table.sql_name()}" ({names})'
    if isinstance(database, SqliteDatabase):
        marks = ", ".join("?" * len(into))
        repeat(database, f"INSERT INTO {target} VALUES ({marks})", into, rows)  # noqa: S608
        return
    for chunk in chunks(rows):
        source = Source(into, chunk)
        chosen = ", ".join(source.columns)
        statement = f"INSERT INTO {target} SELECT {chosen} FROM {source} ORDER BY v.n"  # noqa: S608
        execute(database, statement, source)


def update(
    database: Database,
    table: type[Table],
    changed: Sequence[Field],
    key: Sequence[Field],
    guarded: Sequence[Field],
    rows: list[Any],
    *,
    only: str = "",
) -> int:
    """For each of *rows*, change the row of *table* that has its values in the columns *key*, which
    an index makes unique, if it has them in the columns *guarded* too. A row has its values for
    *changed*, *key* and *guarded*, in this order. *only* is one more condition, as SQL. No two may
    have the same key.

    Returns how many were changed: fewer than *rows* if some are not there, or do not pass.
    """
    name = f'"{table.sql_name()}"'
    columns = [*changed, *key, *guarded]
    if isinstance(database, SqliteDatabase):
        changes = ", ".join(f"{_name(column)} = ?" for column in changed)
        tests = [*(f"{_name(column)} = ?" for column in (*key, *guarded)), only or "TRUE"]
        statement = f"UPDATE {name} SET {changes} WHERE {' AND '.join(tests)}"  # noqa: S608
        return repeat(database, statement, columns, rows)
    total = 0
    for chunk in chunks(rows):
        source = Source(columns, chunk, varying=range(len(changed), len(changed) + len(key)))
        news, olds = source.columns[: len(changed)], source.columns[len(changed) :]
        changes = ", ".join(f"{_name(c)} = {value}" for c, value in zip(changed, news, strict=True))
        pairs = zip((*key, *guarded), olds, strict=True)
        tests = [f"{name}.{_name(column)} = {value}" for column, value in pairs]
        # Nearly all rows pass their guards, but the planner takes what they test for rare. It would
        # rather find such rows by going through the whole table, and compare each that it finds
        # with each of these, than look these up by their key. Into a CASE it cannot look.
        passed = " AND ".join([*tests[len(key) :], only or "TRUE"])
        found = " AND ".join([*tests[: len(key)], f"CASE WHEN {passed} THEN TRUE ELSE FALSE END"])
        statement = f"UPDATE {name} SET {changes} FROM {source} WHERE {found}"  # noqa: S608
        total += execute(database, statement, source).rowcount
    return total


def execute(database: Database, statement: str, source: Source) -> Any:
    """Execute a *statement* for Postgres that *source* is part of; the driver's cursor."""
    return database.execute_sql(statement, source.parameters)  # type: ignore[no-untyped-call]


def repeat(
    database: SqliteDatabase, statement: str, types: Sequence[Field], rows: list[Any]
) -> int:
    """Execute *statement* for each of *rows*, whose values are of these columns' types. Returns how
    many rows it changed."""
    if not rows:
        return 0
    with _translated:
        cursor: Any = database.cursor()  # type: ignore[no-untyped-call]
        cursor.executemany(statement, list(zip(*_by_column(types, rows), strict=True)))
    return int(cursor.rowcount)


class Source:
    """Rows as a table ``v`` in a statement for Postgres, whose column ``v.n`` numbers them from 1.
    Their values are of the types of the columns *types*; those at the places *varying* are never
    taken for a constant, which the planner would think that few rows have."""

    def __init__(
        self, types: Sequence[Field], rows: Sequence[Row], varying: Collection[int] = (0,)
    ) -> None:
        self.columns: list[str] = []
        """How a statement names the values, in the order of *types*."""
        self.parameters: dict[str, Any] = {}
        self._arrays: list[str] = []
        for number, values in enumerate(_by_column(types, rows)):
            name, kind = f"c{number}", _TYPES[types[number].field_type]
            same = values.count(values[0]) == len(values)
            if same and number not in varying:
                self.columns.append(f"%({name})s::{kind}")
                self.parameters[name] = values[0]
            else:
                self.columns.append(f"v.{name}")
                self._arrays.append(f"%({name})s::{kind}[]")
                self.parameters[name] = values
        self._names = [name.removeprefix("v.") for name in self.columns if name.startswith("v.")]

    def __str__(self) -> str:
        names = ", ".join([*self._names, "n"])
        return f"unnest({', '.join(self._arrays)}) WITH ORDINALITY AS v({names})"


def _by_column(types: Sequence[Field], rows: Iterable[Row]) -> Iterator[list[Any]]:
    """The values column by column, as the driver takes them."""
    for column, values in zip(types, zip(*rows, strict=True), strict=True):
        if values.count(values[0]) == len(values):
            yield [_plain(column, values[0])] * len(values)
        else:
            yield [_plain(column, value) for value in values]


def _plain(column: Field, value: Any) -> Any:
    return None if value is None else column.db_value(value)  # type: ignore[no-untyped-call]


def _name(column: Field) -> str:
    return f'"{column.column_name}"'
