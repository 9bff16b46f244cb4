"""Data intervals, with Airflow's meaning of logical date, catchup and end date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.authoring.schedule import PRESETS
from flow.dagspec import DagSpec
from flow.errors import DagError
from flow.schedules import Interval, Schedule

NOW = datetime(2025, 3, 10, 12, 30, tzinfo=UTC)
PAGE = Path(__file__).parents[2] / "docs" / "schedules.md"


def spec(text: str | None, start: str | None = "2025-03-01T00:00:00+00:00", **more: Any) -> DagSpec:
    return DagSpec(dag_id="d", tasks=(), schedule=text, start_date=start, **more)


def schedule(text: str, start: str = "2025-03-01T00:00:00+00:00", **more: Any) -> Schedule:
    found = Schedule.of(spec(text, start, **more))
    assert found is not None
    return found


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2025, 3, day, hour, minute, tzinfo=UTC)


def test_without_schedule_or_start_date_nothing_is_due() -> None:
    assert Schedule.of(spec(None)) is None
    assert Schedule.of(spec("@daily", None)) is None


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("@hourly", Interval(at(10, 11), at(10, 12))),
        ("@daily", Interval(at(9), at(10))),
        ("@weekly", Interval(at(2), at(9))),
        ("0 6 * * 1-5", Interval(at(7, 6), at(10, 6))),
        ("PT6H", Interval(at(10, 6), at(10, 12))),
        ("P1DT30M", Interval(at(9, 4), at(10, 4, 30))),
    ],
)
def test_without_catchup_the_latest_interval_that_is_over_comes_first(
    text: str, interval: Interval
) -> None:
    assert schedule(text).next(None, NOW) == interval


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("@daily", Interval(at(1), at(2))),
        ("@weekly", Interval(at(2), at(9))),
        ("@monthly", Interval(at(1), datetime(2025, 4, 1, tzinfo=UTC))),
        ("PT6H", Interval(at(1), at(1, 6))),
    ],
)
def test_with_catchup_the_first_since_the_start_comes_first(text: str, first: Interval) -> None:
    assert schedule(text, catchup=True).next(None, NOW) == first


def test_an_interval_that_begins_before_the_start_date_is_never_run() -> None:
    late = schedule("@daily", "2025-03-10T00:00:01+00:00")
    assert late.next(None, NOW) == Interval(at(11), at(12))


def test_an_interval_that_ends_now_is_over() -> None:
    assert schedule("@daily").next(None, at(10)) == Interval(at(9), at(10))
    assert schedule("PT24H").next(None, at(10)) == Interval(at(9), at(10))


def test_the_end_date_is_the_last_possible_logical_date() -> None:
    ending = schedule("@daily", catchup=True, end_date="2025-03-03T00:00:00+00:00")
    assert [interval.start for interval in ending.upcoming(None, NOW)] == [at(1), at(2), at(3)]
    assert schedule("@daily", end_date="2025-03-08T23:00:00+00:00").next(None, NOW) is None


def test_once_is_run_at_the_start_and_never_again() -> None:
    once = schedule("@once")
    assert list(once.upcoming(None, NOW)) == [Interval(at(1), at(1))]
    assert once.next(Interval(at(1), at(1)), NOW) is None


def test_the_latest_in_downtime_is_run_without_catchup_and_all_with() -> None:
    last = Interval(at(5), at(6))
    assert schedule("@daily").next(last, NOW) == Interval(at(9), at(10))
    assert schedule("@daily", catchup=True).next(last, NOW) == Interval(at(6), at(7))


def test_another_schedule_begins_where_the_last_interval_ended() -> None:
    last = Interval(at(9), at(10))
    assert schedule("@hourly", catchup=True).next(last, NOW) == Interval(at(10), at(10, 1))
    assert schedule("@weekly").next(last, NOW) == Interval(at(16), at(23))
    steps = schedule("PT7H", catchup=True)
    assert steps.next(last, NOW) == Interval(at(10, 1), at(10, 8))


def test_a_triggered_run_is_about_the_last_interval_that_is_over() -> None:
    assert schedule("@daily").manual(NOW) == Interval(at(9), at(10))
    assert schedule("PT6H").manual(NOW) == Interval(NOW - timedelta(hours=6), NOW)
    assert schedule("@once").manual(NOW) == Interval(NOW, NOW)


def test_a_daily_interval_has_the_hours_of_its_day() -> None:
    berlin = schedule("@daily", timezone="Europe/Berlin", catchup=True)
    days = islice(berlin.upcoming(None, NOW), 400)
    lengths = [round((day.end - day.start) / timedelta(hours=1)) for day in days]
    assert sorted(set(lengths)) == [23, 24, 25]
    assert (lengths.count(23), lengths.count(25)) == (2, 1)


def test_every_preset_of_authoring_can_be_computed() -> None:
    for text in PRESETS:
        assert schedule(text).next(None, NOW) is not None, text


def test_dates_that_mean_never_are_borne() -> None:
    never = schedule("@daily", catchup=True, end_date="9999-12-31T23:59:59-05:00")
    assert never.next(None, NOW) == Interval(at(1), at(2))
    assert schedule("@daily", "9999-12-31T23:59:59-05:00").next(None, NOW) is None
    assert schedule("PT1H", "9999-12-31T23:59:59-05:00").next(None, NOW) is None
    old = schedule("* * * * *", "0001-01-01T00:00:00+14:00", catchup=True)
    assert old.next(None, NOW) == Interval(
        datetime(1900, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, 0, 1, tzinfo=UTC)
    )


def test_what_this_machine_cannot_compute_is_told() -> None:
    zone = (
        "dag 'd': expected a time zone that the dispatcher's machine knows, got 'No/Such'; "
        "install its package tzdata"
    )
    with pytest.raises(DagError, match=f"^{re.escape(zone)}$"):
        Schedule.of(spec("@daily", timezone="No/Such"))
    later = (
        "dag 'd': expected a schedule that this release knows, got '@blue_moon'; "
        "upgrade the dispatcher"
    )
    with pytest.raises(DagError, match=f"^{re.escape(later)}$"):
        Schedule.of(spec("@blue_moon"))


@pytest.mark.parametrize(
    ("text", "day", "clocks"),
    [
        ("30 2 * * *", "2025-03-30", "03:00"),
        ("30 2 * * *", "2025-10-26", "02:30+02:00"),
        ("30 1,2,3 * * *", "2025-03-30", "01:30 03:00 03:30"),
        ("30 1,2,3 * * *", "2025-10-26", "01:30 02:30+02:00 03:30"),
        ("0 * * * *", "2025-03-30", "00:00 01:00 03:00 04:00"),
        ("0 * * * *", "2025-10-26", "00:00 01:00 02:00+02:00 02:00+01:00 03:00 04:00"),
        ("*/30 2 * * *", "2025-03-30", ""),
        ("*/30 2 * * *", "2025-10-26", "02:00+02:00 02:30+02:00 02:00+01:00 02:30+01:00"),
    ],
)
def test_the_examples_of_the_page_are_true(text: str, day: str, clocks: str) -> None:
    assert f"| `{text}` |" in PAGE.read_text()
    berlin = schedule(text, "2025-01-01T00:00:00+00:00", timezone="Europe/Berlin", catchup=True)
    begin = datetime.fromisoformat(f"{day}T00:00:00").replace(tzinfo=berlin.zone)
    before = begin.astimezone(UTC) - timedelta(seconds=1)
    ticks = [
        found.start.astimezone(berlin.zone).isoformat(timespec="minutes")
        for found in islice(berlin.upcoming(Interval(before, before), NOW), 10)
        if found.start < begin.replace(hour=5).astimezone(UTC)
    ]
    assert len(ticks) == len(clocks.split())
    for tick, clock in zip(ticks, clocks.split(), strict=True):
        assert tick.startswith(f"{day}T{clock}")


@given(
    text=st.sampled_from(["@hourly", "@weekly", "*/7 * * * *", "0 3 1,15 * *", "PT45M", "P3D"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"]),
    catchup=st.booleans(),
    now=st.datetimes(datetime(2011, 12, 20), datetime(2012, 1, 10)),  # noqa: DTZ001  made aware below
)
def test_intervals_go_forward_and_follow_each_other(
    text: str, zone: str, now: datetime, *, catchup: bool
) -> None:
    """Also where a whole day is missing, as on Samoa's 2011-12-30."""
    moment = now.replace(tzinfo=UTC)
    start = "2011-12-25T00:00:00+00:00"
    paced = schedule(text, start, timezone=zone, catchup=catchup)
    found = list(islice(paced.upcoming(None, moment), 20))
    assert found[0].start >= datetime.fromisoformat(start)
    for interval in found:
        assert interval.start < interval.end
    for before, after in pairwise(found):
        assert before.end == after.start
    if not catchup:
        assert found[1].end > moment
