"""Results on disk, and messages set aside."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from agent.spool import Spool
from flow import wire
from tests.unit.agent_world import finished


def test_what_was_written_is_loaded_by_token(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for token in (10, 9):
        spool.write(finished(token))
    assert Spool(tmp_path).load() == (finished(9), finished(10))


def test_a_result_keeps_every_field(tmp_path: Path) -> None:
    full = msgspec.structs.replace(finished(7), state="failed", exit_code=3, reason="exit code 3 ü")
    Spool(tmp_path).write(full)
    assert Spool(tmp_path).load() == (full,)


def test_a_dropped_result_is_gone_and_dropping_it_again_is_harmless(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(finished(7))
    spool.drop(7)
    spool.drop(7)
    assert spool.load() == ()


def test_a_write_that_a_crash_cut_short_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "7.json.new").write_bytes(b'{"type": "fini')
    assert Spool(tmp_path).load() == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", wire.encode(wire.Wake())])
def test_a_damaged_result_is_set_aside_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "7.json").write_bytes(content)
    Spool(tmp_path).write(finished(8))
    with caplog.at_level(logging.ERROR):
        assert Spool(tmp_path).load() == (finished(8),)
    assert "7.json is no result and was renamed to 7.bad" in caplog.text
    assert (tmp_path / "7.bad").read_bytes() == content
