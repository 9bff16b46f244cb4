"""Column types that hold the same values on Postgres and on SQLite.

None of them needs to know its database, so models stay unbound: a query is given its database when
it runs. Only the name of a column's SQL type differs (see ``database.open_database``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from peewee import Field, TextField


class UtcField(Field):
    """A moment: an aware datetime, exact to the microsecond, always read back in UTC.

    It is written as ISO 8601 text of fixed width: Postgres reads that as ``timestamptz``, and in
    SQLite, which has no type for it, text of this form sorts in the order of time.
    """

    field_type = "TIMESTAMPTZ"

    def db_value(self, value: Any) -> Any:
        if not isinstance(value, datetime):
            return value
        if value.tzinfo is None:
            raise ValueError(f"{self.name}: expected a datetime with a time zone, got {value!r}")
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def python_value(self, value: Any) -> datetime | None:
        if value is None:
            return None
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.astimezone(UTC)


class JsonField(TextField):
    """A JSON value kept as text: Postgres' own JSON types reject NUL and change large numbers."""

    def db_value(self, value: Any) -> str | None:
        if value is None:
            return None
        return json.dumps(value, separators=(",", ":"), default=_plain)

    def python_value(self, value: Any) -> Any:
        return None if value is None else json.loads(value)


def _plain(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected a JSON value, got {value!r}")


class EnumField(TextField):
    """A member of one ``StrEnum``, kept as its text."""

    def __init__(self, kind: type[StrEnum], **options: Any) -> None:
        super().__init__(**options)
        self.kind = kind

    def db_value(self, value: Any) -> Any:
        return str(value.value) if isinstance(value, StrEnum) else value

    def python_value(self, value: Any) -> StrEnum | None:
        return None if value is None else self.kind(value)


class FreeTextField(TextField):
    """Text from outside, such as a task's failure or a file's source.

    A database takes neither NUL (Postgres) nor half a surrogate pair; one such character in an
    agent's message must not make a whole flush fail for ever, so it becomes U+FFFD.
    """

    def db_value(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        clean = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return clean.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class BytesField(Field):
    """Bytes as they are. (The library's own field must know its database first.)"""

    field_type = "BLOB"  # BYTEA on Postgres

    def python_value(self, value: Any) -> bytes | None:
        return None if value is None else bytes(value)
