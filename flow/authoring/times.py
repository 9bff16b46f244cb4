"""Dates and time zones of a DAG."""

from __future__ import annotations

from datetime import datetime, timezone, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from flow.authoring.values import bad
from flow.errors import nearest

#: Fixed here because a slim machine has no time zone database, and needs none for UTC.
_UTC_NAMES = ("UTC", "Etc/UTC", "Z")


def read_timezone(value: object) -> tuple[str, tzinfo]:
    """Name and zone of a time zone given by either. Raises :class:`BadValue`."""
    name = value if isinstance(value, str) else _name(value)
    if name is None:
        raise bad("a time zone such as 'Europe/Berlin'", value)
    if name in _UTC_NAMES:
        return "UTC", timezone.utc  # noqa: UP017  datetime.UTC is new in Python 3.11
    try:
        return name, ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; a path; a directory of the database
        known = available_timezones()
        remedy = nearest(name, known) if known else "; install the package tzdata"
        raise bad("a time zone such as 'Europe/Berlin'", value, remedy) from None


def timezone_of(date: object) -> str | None:
    """The time zone a DAG takes over from its start date: ``None`` where that is naive, or has
    an offset without a name."""
    return _name(date.tzinfo) if isinstance(date, datetime) else None


def read_date(value: object, zone: tzinfo) -> datetime | None:
    """A date with an offset; a naive one is read in *zone*. Raises :class:`BadValue`."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise bad("a datetime", value, "; write for example datetime(2025, 1, 1)")
    plain = datetime(*value.timetuple()[:6], value.microsecond, fold=value.fold)  # noqa: DTZ001
    offset = value.utcoffset()
    return plain.replace(tzinfo=zone if offset is None else timezone(offset))


def _name(value: object) -> str | None:
    if not isinstance(value, tzinfo):
        return None
    # zoneinfo's zones have a key, pendulum 2's a name, pytz's a zone; a fixed offset has none.
    for attribute in ("key", "name", "zone"):
        name = getattr(value, attribute, None)
        if isinstance(name, str):
            return name
    return "UTC" if value.tzname(None) == "UTC" else None
