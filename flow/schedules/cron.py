"""Five cron fields over naive local time. Which moments those are is :mod:`flow.schedules.zoned`'s.

Reads the canonical texts that ``flow.authoring.schedule`` makes. As in crontab(5), where day of
month and day of week are both restricted, a day counts when either fits.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

#: Nothing is due outside of these; every zone can convert what is between.
FIRST, LAST = date(1899, 1, 1), date(9000, 1, 1)

_DAY = timedelta(days=1)
_WEEK = 7
_PLAIN = re.compile(r"\d+(,\d+)*", re.ASCII)
_EVERY = ("*", "*/1")


@dataclass(frozen=True, slots=True)
class Cron:
    """One cron text, read."""

    times: tuple[time, ...]
    """Of every day that counts, ascending."""
    months: frozenset[int]
    days: frozenset[int]
    """Of the month; 0 is the last one. Empty: any."""
    weekdays: frozenset[tuple[int, int]]
    """(day, n): the n-th of its kind in the month, Sunday is 0; n is 0 for each, -1 for the last.
    Empty: any."""
    at_fixed_times: bool
    """Minute and hour are plain numbers: it means times of day, not a pace."""

    @classmethod
    def read(cls, text: str) -> Cron:
        """Raises :class:`ValueError` for what is no canonical text."""
        minute, hour, day, month, weekday = text.split(" ")
        hours, minutes = _numbers(hour, 0, 23), _numbers(minute, 0, 59)
        return cls(
            times=tuple(time(h, m) for h in sorted(hours) for m in sorted(minutes)),
            months=frozenset(_numbers(month, 1, 12)),
            days=frozenset() if day in _EVERY else frozenset(_numbers(day, 1, 31)),
            weekdays=frozenset() if weekday in _EVERY else frozenset(_weekdays(weekday)),
            at_fixed_times=bool(_PLAIN.fullmatch(minute) and _PLAIN.fullmatch(hour)),
        )

    def forward(self, start: datetime) -> Iterator[datetime]:
        """The local times from *start* on, itself included."""
        day, first = start.date(), bisect_left(self.times, start.time())
        while FIRST <= day < LAST:
            if day.month not in self.months:
                day, first = _first_of_next_month(day), 0
                continue
            if self._counts(day):
                for moment in self.times[first:]:
                    yield datetime.combine(day, moment)
            day, first = day + _DAY, 0

    def backward(self, end: datetime) -> Iterator[datetime]:
        """The local times up to *end*, itself included, latest first."""
        day, behind = end.date(), bisect_right(self.times, end.time())
        while FIRST <= day < LAST:
            if day.month not in self.months:
                day, behind = day.replace(day=1) - _DAY, len(self.times)
                continue
            if self._counts(day):
                for moment in reversed(self.times[:behind]):
                    yield datetime.combine(day, moment)
            day, behind = day - _DAY, len(self.times)

    def _counts(self, day: date) -> bool:
        if not self.days:
            return not self.weekdays or self._weekday_fits(day)
        in_month = day.day in self.days or (0 in self.days and _days_left(day) == 0)
        return in_month or (bool(self.weekdays) and self._weekday_fits(day))

    def _weekday_fits(self, day: date) -> bool:
        weekday = day.isoweekday() % _WEEK
        nth = (day.day - 1) // _WEEK + 1
        last = _days_left(day) < _WEEK
        return any(
            wanted == weekday and (n in (0, nth) or (n == -1 and last))
            for wanted, n in self.weekdays
        )


def _numbers(text: str, low: int, high: int) -> set[int]:
    """The numbers that one field stands for; ``l`` is 0."""
    found: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, dash, last = span.partition("-")
        if item == "l":
            found.add(0)
        elif span == "*":
            found.update(range(low, high + 1, int(step or 1)))
        elif dash:
            found.update(range(int(first), int(last) + 1, int(step or 1)))
        else:
            found.update(range(int(first), (high if step else int(first)) + 1, int(step or 1)))
    return found


def _weekdays(text: str) -> Iterator[tuple[int, int]]:
    for item in text.split(","):
        day, nth, n = item.partition("#")
        if nth:
            yield int(day) % _WEEK, int(n)
        elif item[0] == "l":
            yield int(item[1:]) % _WEEK, -1
        else:
            yield from ((number % _WEEK, 0) for number in _numbers(item, 0, 6))


def _days_left(day: date) -> int:
    """Days of its month after *day*."""
    return monthrange(day.year, day.month)[1] - day.day


def _first_of_next_month(day: date) -> date:
    return day.replace(day=1) + timedelta(days=monthrange(day.year, day.month)[1])
