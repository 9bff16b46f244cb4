"""From a DAG to its data intervals, with Airflow's meaning of the words.

A run belongs to a data interval; its logical date is the interval's start, and it is due at the
interval's end. All moments are aware and in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flow.dagspec import DagSpec
from flow.errors import DagError
from flow.schedules.cron import FIRST, LAST, Cron
from flow.schedules.zoned import ZonedCron

#: Presets and what they stand for.
PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@quarterly": "0 0 1 */3 *",
    "@yearly": "0 0 1 1 *",
}
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII)
_EARLIEST = datetime(FIRST.year + 1, 1, 1, tzinfo=UTC)
_LATEST = datetime(LAST.year, 1, 1, tzinfo=UTC)


class Interval(NamedTuple):
    """The time that one run is about: *start* is its logical date, *end* when it is due."""

    start: datetime
    end: datetime


class Pace(Protocol):
    """The intervals of one kind of schedule, whatever has been run of them."""

    def first_from(self, moment: datetime) -> Interval | None:
        """The first interval that does not begin before *moment*."""

    def last_ended(self, now: datetime) -> Interval | None:
        """The last interval that is over by *now*."""

    def before(self, now: datetime) -> Interval | None:
        """What a run that somebody starts *now* is about; ``None``: the moment itself."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """Between two ticks of a cron text that follow each other."""

    cron: ZonedCron

    def first_from(self, moment: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        return self._from(self.cron.after(moment - timedelta.resolution))

    def last_ended(self, now: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        end = self.cron.at_or_before(now)
        start = end and self.cron.at_or_before(end - timedelta.resolution)
        return Interval(start, end) if start and end else None

    def before(self, now: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        return self.last_ended(now)

    def _from(self, start: datetime | None) -> Interval | None:
        end = start and self.cron.after(start)
        return Interval(start, end) if start and end else None


@dataclass(frozen=True, slots=True)
class Steps:
    """Of one *length*, one after the other from *start* on."""

    start: datetime
    length: timedelta

    def first_from(self, moment: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        return self._step(max(0, -((self.start - moment) // self.length)))

    def last_ended(self, now: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        return self._step((now - self.start) // self.length - 1)

    def before(self, now: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        return Interval(now - self.length, now)

    def _step(self, number: int) -> Interval | None:
        if number < 0 or self.start + number * self.length >= _LATEST:
            return None
        start = self.start + number * self.length
        return Interval(start, start + self.length)


@dataclass(frozen=True, slots=True)
class Once:
    """One run, about the moment *start*."""

    start: datetime

    def first_from(self, moment: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        return Interval(self.start, self.start) if self.start >= moment else None

    def last_ended(self, now: datetime) -> Interval | None:
        """As in :class:`Pace`."""
        return self.first_from(self.start) if self.start <= now else None

    def before(self, now: datetime) -> Interval | None:  # noqa: ARG002  as in Pace
        """As in :class:`Pace`."""
        return None


@dataclass(frozen=True, slots=True)
class Schedule:
    """One DAG version's schedule with its dates."""

    pace: Pace
    start: datetime
    end: datetime | None
    """The last possible logical date."""
    catchup: bool
    zone: tzinfo

    @classmethod
    def of(cls, spec: DagSpec) -> Schedule | None:
        """``None`` for a DAG that runs only when triggered.

        Raises :class:`DagError` where this machine cannot compute it: the DAG file was read under
        another Python, which may know more time zones.
        """
        if spec.schedule is None or spec.start_date is None:
            return None
        zone = _zone(spec)
        start = _moment(spec.start_date)
        return cls(
            pace=_pace(spec, spec.schedule, start, zone),
            start=start,
            end=_moment(spec.end_date) if spec.end_date is not None else None,
            catchup=spec.catchup,
            zone=zone,
        )

    def next(self, last: Interval | None, now: datetime) -> Interval | None:
        """The interval to run after *last*, the latest that has a run; due at its end, which may
        be past. Without catchup, what is past but the latest is left out."""
        floor = self.start if last is None else max(self.start, last.end)
        found = self.pace.first_from(floor)
        if found is not None and not self.catchup:
            ended = self.pace.last_ended(now)
            found = ended if ended is not None and ended.start > found.start else found
        if found is None or (last is not None and found.start <= last.start):
            return None
        return found if self.end is None or found.start <= self.end else None

    def upcoming(self, last: Interval | None, now: datetime) -> Iterator[Interval]:
        """The intervals that will be run from *now* on, if nothing changes. Endless, mostly."""
        while (last := self.next(last, now)) is not None:
            yield last

    def manual(self, now: datetime) -> Interval:
        """What a run that somebody starts *now* is about."""
        return self.pace.before(now) or Interval(now, now)


def _pace(spec: DagSpec, text: str, start: datetime, zone: tzinfo) -> Pace:
    if text == "@once":
        return Once(start)
    try:
        if text.startswith("P"):
            return Steps(start, _duration(text))
        return Ticks(ZonedCron(Cron.read(PRESETS.get(text, text)), zone))
    except ValueError:
        raise DagError(
            f"dag {spec.dag_id!r}: expected a schedule that this release knows, got {text!r}; "
            "upgrade the dispatcher"
        ) from None


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(text)
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not length:
        raise ValueError(text)
    return length


def _zone(spec: DagSpec) -> tzinfo:
    if spec.timezone == "UTC":
        return UTC  # needs no time zone database
    try:
        return ZoneInfo(spec.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise DagError(
            f"dag {spec.dag_id!r}: expected a time zone that the dispatcher's machine knows, got "
            f"{spec.timezone!r}; install its package tzdata"
        ) from None


def _moment(text: str) -> datetime:
    """A date of the DAG's in UTC, within what can be computed with: ``datetime.max`` is a way to
    say never."""
    try:
        return min(max(datetime.fromisoformat(text).astimezone(UTC), _EARLIEST), _LATEST)
    except OverflowError:
        return _LATEST if datetime.fromisoformat(text).year > _EARLIEST.year else _EARLIEST
