"""Messages that nobody can read: kept for a person, within bounds."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from flow.parking import Parking


def test_parked_messages_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    parking = Parking(tmp_path, keep=3)
    for number in range(5):
        parking.park(b"\xff body", key="q1", reason=f"reason {number}")
    Parking(tmp_path, keep=3).park(b"x" * 100_000, key="q1", reason="reason 5")
    notes = [json.loads(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert [note["reason"] for note in notes] == ["reason 3", "reason 4", "reason 5"]
    assert (notes[2]["bytes"], len(notes[2]["body"])) == (100_000, 65536)
    assert notes[0] == {
        "key": "q1",
        "reason": "reason 3",
        "bytes": 6,
        "body": "\N{REPLACEMENT CHARACTER} body",
    }


def test_a_folder_that_takes_nothing_leaves_the_reason_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with caplog.at_level(logging.WARNING):
        Parking(blocked / "parked").park(b"body", key="q1", reason="not JSON")
    assert "unreadable message with key q1: not JSON; not kept" in caplog.text
