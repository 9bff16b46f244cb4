from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.authoring.schedule import canonical, is_by_clock
from flow.authoring.values import BadValue

FIVE = "5 cron fields (minute, hour, day of month, month, day of week)"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, None),
        ("@daily", "@daily"),
        (" @Hourly ", "@hourly"),
        ("@once", "@once"),
        ("* * * * *", "* * * * *"),
        (" 0  6\t* * MON-FRI ", "0 6 * * 1-5"),
        ("*/05 00 1,15 jan,6-dec/2 0", "*/5 0 1,15 1,6-12/2 0"),
        ("0 0 * * mon-sun", "0 0 * * 1-7"),
        ("0 0 * * sun", "0 0 * * 0"),
        ("0 0 * * 7", "0 0 * * 7"),
        ("5/20 * * * *", "5/20 * * * *"),
        ("0 0 L * *", "0 0 l * *"),
        ("0 0 * * fri#2,1#1", "0 0 * * 5#2,1#1"),
        ("0 0 * * L5", "0 0 * * l5"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("0 0 31 2 1", "0 0 31 2 1"),
        (timedelta(minutes=90), "PT1H30M"),
        (timedelta(days=1), "P1D"),
        (timedelta(days=2, seconds=1, microseconds=500000), "P2DT1.5S"),
    ],
)
def test_a_schedule_has_one_text(given: object, text: str | None) -> None:
    assert canonical(given) == text
    assert canonical(text if text is None or text[0] != "P" else given) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (5, "expected None, cron text, a preset such as '@daily' or a timedelta, got 5"),
        (
            "@dayly",
            (
                "expected one of @once, @hourly, @daily, @weekly, @monthly, "
                "@quarterly, "
                "@yearly, got '@dayly'; did you mean '@daily'?"
            ),
        ),
        (
            timedelta(0),
            "expected a timedelta from 1 second to 3650 days, got datetime.timedelta(0)",
        ),
        ("", f"expected {FIVE}, got 0 in ''; for example '30 6 * * 1-5'"),
        ("0 0 * *", f"expected {FIVE}, got 4 in '0 0 * *'; for example '30 6 * * 1-5'"),
        (
            "0 0 0 * * *",
            f"expected {FIVE}, got 6 in '0 0 0 * * *'; for example '30 6 * * 1-5'",
        ),
        ("60 * * * *", "expected minute 0-59 in a cron text, got '60'"),
        ("0 24 * * *", "expected hour 0-23 in a cron text, got '24'"),
        ("0 0 0 * *", "expected day of month 1-31 in a cron text, got '0'"),
        ("0 0 1 13 *", "expected month 1-12 or jan-dec in a cron text, got '13'"),
        ("0 0 * * mo", "expected day of week 0-7 or sun-sat in a cron text, got 'mo'"),
        ("0 0 * * 8", "expected day of week 0-7 or sun-sat in a cron text, got '8'"),
        ("0 0 * * 1#6", "expected day of week 0-7 or sun-sat in a cron text, got '1#6'"),
        (
            "0 22-2 * * *",
            "expected hour 0-23 in a cron text, got '22-2'; write a range from low to high",
        ),
        ("*/0 * * * *", "expected minute 0-59 in a cron text, got '*/0'; a step is from 1 to 59"),
        ("*/90 * * * *", "expected minute 0-59 in a cron text, got '*/90'; a step is from 1 to 59"),
        ("1,,2 * * * *", "expected minute 0-59 in a cron text, got ''"),
        ("? * * * *", "expected minute 0-59 in a cron text, got '?'"),
        ("²  * * * *", "expected minute 0-59 in a cron text, got '²'"),
        (
            "0 0 * * 1#1,3",
            (
                "expected plain days or nth and last days of week in a cron text, "
                "got both in '1#1,3'; make two DAGs of it"
            ),
        ),
        (
            "0 0 30 2 *",
            "expected a day that its months have, got '0 0 30 2 *'; this date never comes",
        ),
    ],
)
def test_a_bad_schedule_is_explained(given: object, text: str) -> None:
    with pytest.raises(BadValue, match=f"^{re.escape(text)}$"):
        canonical(given)


def test_only_schedules_by_the_clock_need_a_time_zone() -> None:
    found = [is_by_clock(text) for text in (None, "@once", "PT1H", "@daily", "* *")]
    assert found == [False, False, False, True, True]


def items(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, high).map(lambda step: f"/{step}")
    plain = st.just("*") | number.map(str) | spans
    return st.builds(str.__add__, plain, st.just("") | steps)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    return st.lists(items(low, high), min_size=1, max_size=3).map(",".join)


@given(st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)))
def test_cron_text_is_accepted_and_its_canonical_text_is_itself(fields: tuple[str, ...]) -> None:
    text = " ".join(fields)
    assert canonical(text) == text


@given(st.text("0123456789*/,-#lL @jansu", max_size=20))
def test_whatever_is_written_is_read_or_explained(text: str) -> None:
    try:
        found = canonical(text)
    except BadValue:
        return
    else:
        assert canonical(found) == found


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=3650)))
def test_a_duration_says_the_same_time(value: timedelta) -> None:
    found = re.fullmatch(
        r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", canonical(value) or ""
    )
    assert found
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    again = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    assert abs(again - value) < timedelta(microseconds=2)
