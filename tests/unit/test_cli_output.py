"""Tables and JSON on stdout."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from flow.cli.output import moment, print_listing, print_object


def test_times_have_microseconds_and_an_offset() -> None:
    assert moment(datetime(2026, 11, 21, 12, 0, tzinfo=UTC)) == "2026-11-21T12:00:00.000000+00:00"
    berlin = timezone(timedelta(hours=1))
    assert (
        moment(datetime(2026, 11, 21, 12, 0, tzinfo=berlin)) == "2026-11-21T11:00:00.000000+00:00"
    )
    assert moment(None) is None


def test_a_table_into_a_pipe_is_never_wrapped_cut_or_coloured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "x" * 500
    print_listing(
        "table", ("name", "state", "reason"), [{"name": long, "state": "failed", "reason": long}]
    )
    header, row, *rest = capsys.readouterr().out.splitlines()
    assert rest == []
    assert header.split() == ["name", "state", "reason"]
    assert row.split() == [long, "failed", long]


def test_columns_line_up_and_lines_have_no_blanks_at_their_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_listing("table", ("a", "b"), [{"a": "one", "b": None}, {"a": "three", "b": True}])
    assert capsys.readouterr().out == "a      b\none\nthree  yes\n"


def test_markup_and_control_characters_of_others_are_shown_not_obeyed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_listing("table", ("a",), [{"a": "[red]x[/red]\x1b[31m\nnext\u202e"}])
    assert capsys.readouterr().out == "a\n[red]x[/red]\\x1b[31m\\nnext\\u202e\n"


def test_json_is_an_array_of_whole_objects(capsys: pytest.CaptureFixture[str]) -> None:
    print_listing("json", ("a",), [{"a": 1, "b": ["ü"]}])
    out = capsys.readouterr().out
    assert json.loads(out) == [{"a": 1, "b": ["ü"]}]
    assert out.isascii()


def test_an_empty_listing_is_an_empty_array_or_a_header(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_listing("json", ("a",), [])
    print_listing("table", ("a", "b"), [])
    assert capsys.readouterr().out == "[]\na  b\n"


def test_one_object_is_a_line_for_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    print_object("table", {"a": 1, "long_name": ["x", "y"], "none": None, "conf": {"k": 1}})
    assert capsys.readouterr().out == ('a          1\nlong_name  x, y\nnone\nconf       {"k": 1}\n')
