"""Reads the ``schedule`` of a DAG into its canonical text. When it is due is computed elsewhere.

Canonical texts are a preset (``@daily``), five cron fields with numbers for names and single
spaces (``30 6 * * 1-5``), or an ISO 8601 duration (``PT90M`` is written ``PT1H30M``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from flow.authoring.values import MAX_SECONDS, BadValue, bad, shown
from flow.errors import nearest

#: Airflow's, except ``@continuous``. ``@once`` has no cron form.
PRESETS = ("@once", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()
    """Names of the values from ``low`` on."""


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_DAY, _MONTH, _WEEKDAY = _FIELDS[2], _FIELDS[3], _FIELDS[4]
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ITEM = re.compile(r"(?:(\*)|([a-z]{3}|\d{1,2})(?:-([a-z]{3}|\d{1,2}))?)(?:/(\d{1,2}))?", re.ASCII)
_NTH_WEEKDAY = re.compile(r"([a-z]{3}|\d)#([1-5])", re.ASCII)
_LAST_WEEKDAY = re.compile(r"l([a-z]{3}|\d)", re.ASCII)


def canonical(value: object) -> str | None:
    """The canonical text of a schedule; ``None`` for a DAG that only runs when triggered.

    Raises :class:`BadValue`.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        return _duration(value)
    if not isinstance(value, str):
        raise bad("None, cron text, a preset such as '@daily' or a timedelta", value)
    if value.strip().startswith("@"):
        preset = value.strip().lower()
        if preset == "@continuous":
            remedy = "; use for example timedelta(seconds=10) and max_active_runs=1"
            raise bad("a schedule that says when", value, remedy)
        if preset not in PRESETS:
            raise bad(f"one of {', '.join(PRESETS)}", value, nearest(preset, PRESETS))
        return preset
    return _cron(value)


def is_by_clock(schedule: str | None) -> bool:
    """Whether a canonical text means times of day, so that the time zone matters."""
    return schedule is not None and schedule[0] != "P" and schedule != "@once"


def _duration(value: timedelta) -> str:
    if not 1 <= value.total_seconds() <= MAX_SECONDS:
        raise bad("a timedelta from 1 second to 3650 days", value)
    hours, rest = divmod(value.seconds, 3600)
    minutes, whole = divmod(rest, 60)
    fraction = f".{value.microseconds:06d}".rstrip("0") if value.microseconds else ""
    clock = "".join(
        (
            f"{hours}H" if hours else "",
            f"{minutes}M" if minutes else "",
            f"{whole}{fraction}S" if whole or fraction else "",
        )
    )
    days = f"{value.days}D" if value.days else ""
    return f"P{days}{'T' + clock if clock else ''}"


def _cron(value: str) -> str:
    fields = value.lower().split()
    if len(fields) != len(_FIELDS):
        raise BadValue(
            "expected 5 cron fields (minute, hour, day of month, month, day of week), "
            f"got {len(fields)} in {shown(value)}; for example '30 6 * * 1-5'"
        )
    read = [_read_field(field, text) for field, text in zip(_FIELDS, fields, strict=True)]
    days, months = read[2][1], read[3][1]
    if fields[4] == "*" and days and min(days) > max(_LONGEST[month - 1] for month in months):
        raise bad("a day that its months have", value, "; this date never comes")
    return " ".join(text for text, _ in read)


def _read_field(field: _Field, text: str) -> tuple[str, set[int]]:
    """Canonical text, and the values it stands for (empty where they depend on the month)."""
    items = [_read_item(field, item) for item in text.split(",")]
    if field is _WEEKDAY and len({"#" in item or "l" in item for item, _ in items}) > 1:
        raise BadValue(
            "expected plain days or nth and last days of week in a cron text, "
            f"got both in {shown(text)}; make two DAGs of it"
        )
    values = (
        set() if any(not values for _, values in items) else set().union(*(v for _, v in items))
    )
    return ",".join(item for item, _ in items), values


def _read_item(field: _Field, item: str) -> tuple[str, set[int]]:
    if field is _DAY and item == "l":
        return "l", set()
    if field is _WEEKDAY and (found := _NTH_WEEKDAY.fullmatch(item)):
        return f"{_number(field, found[1], item) % 7}#{found[2]}", set()
    if field is _WEEKDAY and (found := _LAST_WEEKDAY.fullmatch(item)):
        return f"l{_number(field, found[1], item) % 7}", set()
    found = _ITEM.fullmatch(item)
    if not found:
        raise _bad_item(field, item)
    return _read_span(field, item, *found.groups())


def _read_span(
    field: _Field, item: str, star: str | None, first: str, last: str | None, step: str | None
) -> tuple[str, set[int]]:
    if step and not 1 <= int(step) <= field.high:
        raise _bad_item(field, item, f"; a step is from 1 to {field.high}")
    low = field.low if star else _number(field, first, item)
    high = field.high if star or (step and not last) else low
    if last:
        high = _number(field, last, item)
        if field is _WEEKDAY and high == 0 < low:
            high = 7  # mon-sun: Sunday is the week's first day and its last
    if low > high:
        raise _bad_item(field, item, "; write a range from low to high")
    span = "*" if star else f"{low}-{high}" if last else str(low)
    return f"{span}/{int(step)}" if step else span, set(range(low, high + 1, int(step or 1)))


def _number(field: _Field, text: str, item: str) -> int:
    if text in field.words:
        return field.low + field.words.index(text)
    if not text.isdigit() or not field.low <= int(text) <= field.high:
        raise _bad_item(field, item)
    return int(text)


def _bad_item(field: _Field, item: str, remedy: str = "") -> BadValue:
    names = f" or {field.words[0]}-{field.words[-1]}" if field.words else ""
    return BadValue(
        f"expected {field.name} {field.low}-{field.high}{names} in a cron text, "
        f"got {shown(item)}{remedy}"
    )
