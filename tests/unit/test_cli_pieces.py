"""Output in pieces: each byte once, in order, whatever comes twice or late."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from flow.cli.pieces import Assembly


def test_pieces_in_order_pass_at_once() -> None:
    written: list[bytes] = []
    output = Assembly(written.append)
    output.add(0, b"ab")
    output.add(2, b"cd")
    assert written == [b"ab", b"cd"]


def test_a_piece_that_overlaps_passes_its_new_part_only() -> None:
    written: list[bytes] = []
    output = Assembly(written.append)
    output.add(0, b"abc")
    output.add(1, b"bcde")
    assert written == [b"abc", b"de"]


def test_a_piece_beyond_a_gap_waits_for_what_is_missing() -> None:
    written: list[bytes] = []
    output = Assembly(written.append)
    output.add(2, b"cd")
    assert written == []
    assert output.has_gap
    output.add(0, b"ab")
    assert b"".join(written) == b"abcd"
    assert not output.has_gap


def test_a_gap_that_is_given_up_is_counted_and_never_printed_later() -> None:
    written: list[bytes] = []
    output = Assembly(written.append)
    output.add(3, b"de")
    assert output.give_up_gap() == 3
    output.add(0, b"abc")
    assert b"".join(written) == b"de"
    assert output.give_up_gap() == 0


def test_it_is_complete_once_everything_up_to_the_end_has_passed() -> None:
    output = Assembly(lambda _: None)
    assert not output.complete
    output.ends_at(2)
    assert not output.complete
    output.add(0, b"ab")
    assert output.complete


@given(data=st.data())
def test_any_order_with_any_repetition_gives_every_byte_once(data: st.DataObject) -> None:
    whole = bytes(range(40))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    bounds = [0, *cuts, len(whole)]
    pieces = [(start, whole[start:end]) for start, end in itertools.pairwise(bounds)]
    more = data.draw(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39))))
    pieces += [(min(pair), whole[min(pair) : max(pair)]) for pair in more]
    written: list[bytes] = []
    output = Assembly(written.append)
    for offset, piece in data.draw(st.permutations(pieces)):
        output.add(offset, piece)
    assert b"".join(written) == whole
