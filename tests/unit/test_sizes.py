from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.sizes import MIN_MEMORY, read_memory, shown


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("4G", 4 << 30),
        ("1.5g", 3 << 29),
        ("512MiB", 512 << 20),
        ("1024k", 1 << 20),
        ("1T", 1 << 40),
        ("1048576", 1 << 20),
        (1 << 20, 1 << 20),
    ],
)
def test_a_size_is_read_in_powers_of_1024(written: object, size: int) -> None:
    assert read_memory(written) == size


@pytest.mark.parametrize(
    "written", ["4 GB", "", "G", "-1G", "1023K", "9999999T", 4, True, 4.5, None]
)
def test_what_is_no_memory_for_a_task_is_none(written: object) -> None:
    assert read_memory(written) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(4 << 30, "4G"), (3 << 29, "1.5G"), (1000 << 20, "1000M"), (70_123_520, "66.88M"), (12, "12")],
)
def test_a_size_is_shown_in_its_largest_unit(size: int, text: str) -> None:
    assert shown(size) == text


@given(st.integers(MIN_MEMORY, 1 << 50))
def test_what_is_shown_is_close_to_what_it_is(size: int) -> None:
    again = read_memory(shown(size))
    assert again is not None
    assert abs(again - size) <= size / 1000
