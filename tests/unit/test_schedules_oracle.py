"""Cron in all time zones against an oracle that does what a cron daemon does: it lives through
every minute, looks at the clock on the wall, and runs what the text says.

The oracle shares nothing with the implementation but zoneinfo: it reads the fields its own way.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flow.schedules.cron import Cron
from flow.schedules.zoned import ZonedCron

MINUTE = timedelta(minutes=1)
BEGIN, END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2041, 1, 1, tzinfo=UTC)
#: A quarter of all zones per test, so that processes can share the work.
PARTS = 4


# -- the oracle ------------------------------------------------------------------------------------


def values(text: str, low: int, high: int) -> set[int]:
    found = set()
    for number in range(low, high + 1):
        for item in text.split(","):
            span, _, step = item.partition("/")
            first, _, last = ("0-99" if span == "*" else span).partition("-")
            begin = low if span == "*" else int(first)
            ends = int(last) if last else (99 if step else begin)
            if begin <= number <= ends and (number - begin) % int(step or 1) == 0:
                found.add(number)
    return found


class Daemon:
    """Reads the fields once, then answers for single minutes."""

    def __init__(self, text: str) -> None:
        minute, hour, self.day, month, self.weekday = text.split()
        self.minutes, self.hours = values(minute, 0, 59), values(hour, 0, 23)
        self.months = values(month, 1, 12)
        self.fixed = not any(sign in minute + hour for sign in "*-/")

    @functools.cache  # noqa: B019  daemons live as long as their test
    def day_counts(self, wall: datetime) -> bool:
        by_day, by_weekday = self.fits_day(wall), self.fits_weekday(wall)
        if self.day in ("*", "*/1"):
            return by_weekday
        return by_day if self.weekday in ("*", "*/1") else by_day or by_weekday

    def fits_day(self, wall: datetime) -> bool:
        last = (wall + timedelta(days=1)).day == 1
        items = [item for item in self.day.split(",") if item != "l"]
        plain = bool(items) and wall.day in values(",".join(items), 1, 31)
        return plain or ("l" in self.day.split(",") and last)

    def fits_weekday(self, wall: datetime) -> bool:
        def fits(item: str) -> bool:
            name = wall.strftime("%w")
            if "#" in item:
                day, number = item.split("#")
                behind = wall - timedelta(weeks=int(number) - 1)
                return (
                    int(day) % 7 == int(name)
                    and behind.month == wall.month
                    and (behind - timedelta(weeks=1)).month != wall.month
                )
            if item.startswith("l"):
                ahead = wall + timedelta(weeks=1)
                return int(item[1:]) % 7 == int(name) and ahead.month != wall.month
            high = 7 if "-" in item or item == "7" else 6
            return int(name) in {number % 7 for number in values(item, 0, high)}

        return any(fits(item) for item in self.weekday.split(","))

    def fits(self, wall: datetime) -> bool:
        midnight = wall.replace(hour=0, minute=0, second=0, fold=0)
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.month in self.months
            and self.day_counts(midnight)
        )

    def runs(self, zone: ZoneInfo, begin: datetime, end: datetime) -> list[datetime]:
        """The minutes from *begin* (before which nothing odd happened) to before *end*."""
        found = []
        wall_before = local(begin - MINUTE, zone)
        latest = wall_before
        moment = begin
        while moment < end:
            wall = local(moment, zone)
            due = self.fits(wall)
            if self.fixed:
                due = due and wall > latest  # the second time around it has been run already
                skipped = wall_before + MINUTE
                while skipped < wall:
                    due = due or self.fits(skipped)
                    skipped += MINUTE
            if due:
                found.append(moment)
            wall_before, latest = wall, max(latest, wall)
            moment += MINUTE
        return found


def local(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


# -- the days on which clocks change ---------------------------------------------------------------


def changes(zone: ZoneInfo) -> Iterator[datetime]:
    """Every moment from 2000 to 2040 at which the zone's offset changes."""
    step = timedelta(days=5)
    low, before = BEGIN, BEGIN.astimezone(zone).utcoffset()
    while low < END:
        after = (low + step).astimezone(zone).utcoffset()
        if after != before:
            first, last = low, low + step
            while last - first > MINUTE:
                middle = first + (last - first) // 2 // MINUTE * MINUTE
                if middle.astimezone(zone).utcoffset() == before:
                    first = middle
                else:
                    last = middle
            yield last
        low, before = low + step, after


@functools.cache
def distinct_changes() -> list[tuple[ZoneInfo, datetime]]:
    """The changes of all zones; those that zones of one rule share, once."""
    found: dict[tuple[object, ...], tuple[ZoneInfo, datetime]] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for at in changes(zone):
            offsets = ((at - MINUTE).astimezone(zone).utcoffset(), at.astimezone(zone).utcoffset())
            found.setdefault((at, *offsets), (zone, at))
    return list(found.values())


def texts(chance: random.Random, wall: datetime) -> Iterator[str]:
    """Cron texts that have something to do around *wall*."""
    hour = (wall.hour + chance.choice((-1, 0, 0, 0, 1))) % 24
    minute = chance.choice((0, 0, 15, 30, 59))
    yield f"{minute} {hour} * * *"
    yield f"{chance.randrange(30)},{chance.randrange(30, 60)} {hour},{(hour + 2) % 24} * * *"
    yield f"{chance.choice(('*/10', '0-20/5', '7-59/13', '*/45'))} * * * *"
    hours = f"{hour}-23/{chance.randint(1, 3)}"
    yield f"{chance.choice(('*/20', '30', '1-50/7'))} {hours} * * *"


@pytest.mark.parametrize("part", range(PARTS))
def test_every_tick_around_every_change_of_clocks_is_run_once_and_none_is_missed(part: int) -> None:
    chance = random.Random(part)
    days = distinct_changes()[part::PARTS]
    assert len(days) > 300
    for zone, at in days:
        shift = abs(_offset(at, zone) - _offset(at - MINUTE, zone))
        begin, end = at - shift - timedelta(hours=2), at + shift + timedelta(hours=2)
        fixed, fixed_too, pace, paced_hours = texts(chance, local(at, zone))
        for text in (chance.choice((fixed, fixed_too)), chance.choice((pace, paced_hours))):
            expected = Daemon(text).runs(zone, begin, end)
            cron = ZonedCron(Cron.read(text), zone)
            assert list(run_forward(cron, begin, end)) == expected, (zone, text)
            assert list(run_backward(cron, begin, end))[::-1] == expected, (zone, text)
            now = begin + chance.random() * (end - begin)
            past = [tick for tick in expected if tick <= now]
            if past:
                assert cron.at_or_before(now) == past[-1], (zone, text, now)
            if past != expected:
                assert cron.after(now) == expected[len(past)], (zone, text, now)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    found = moment.astimezone(zone).utcoffset()
    assert found is not None
    return found


def run_forward(cron: ZonedCron, begin: datetime, end: datetime) -> Iterator[datetime]:
    tick = cron.after(begin - timedelta.resolution)
    while tick is not None and tick < end:
        yield tick
        tick = cron.after(tick)


def run_backward(cron: ZonedCron, begin: datetime, end: datetime) -> Iterator[datetime]:
    tick = cron.at_or_before(end - timedelta.resolution)
    while tick is not None and tick >= begin:
        yield tick
        tick = cron.at_or_before(tick - timedelta.resolution)


# -- the fields ------------------------------------------------------------------------------------


def naive(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day)  # noqa: DTZ001  the fields are about clocks on walls


def items(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, high).map(lambda step: f"/{step}")
    return st.builds(str.__add__, st.just("*") | number.map(str) | spans, st.just("") | steps)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    return st.lists(items(low, high), min_size=1, max_size=3).map(",".join)


DAYS = field(1, 28) | st.just("*") | st.sampled_from(["l", "l,1", "15,l"])
WEEKDAYS = st.just("*") | field(0, 6) | st.sampled_from(["1-7", "7", "5-7", "1#1", "5#2,1#5", "l5"])


@given(
    st.tuples(field(0, 59), field(0, 23), DAYS, field(1, 12), WEEKDAYS),
    st.datetimes(naive(2023, 1, 1), naive(2024, 12, 31)),
)
@example(("0", "0", "*", "*", "6-6"), naive(2023, 11, 5))
@example(("0", "0", "*/13", "*", "*/1"), naive(2023, 7, 5))
def test_the_fields_mean_what_crontab_says(fields: tuple[str, ...], start: datetime) -> None:
    text = " ".join(fields)
    daemon, cron = Daemon(text), Cron.read(text)
    end = start + timedelta(days=4)
    minute = start.replace(second=0, microsecond=0)
    minute += MINUTE * (minute < start)
    expected = []
    while minute <= end:
        if daemon.fits(minute):
            expected.append(minute)
        minute += MINUTE
    assert list(takewhile(lambda tick: tick <= end, cron.forward(start))) == expected
    back = list(takewhile(lambda tick: tick >= start, cron.backward(end)))
    assert back[::-1] == expected


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 * 2 5#5", "0 0 l 2 *"])
def test_rare_days_are_found(text: str) -> None:
    daemon, cron = Daemon(text), Cron.read(text)
    day, days = naive(2000, 1, 1), []
    while day < naive(2040, 1, 1):
        days += [day] if daemon.fits(day) else []
        day += timedelta(days=1)
    assert list(takewhile(lambda tick: tick.year < 2040, cron.forward(naive(2000, 1, 1)))) == days


def test_a_text_that_never_fits_comes_to_an_end() -> None:
    never = Cron.read("0 0 30 2 *")
    assert list(never.forward(naive(8000, 1, 1))) == []
    assert list(never.backward(naive(2000, 1, 1))) == []
