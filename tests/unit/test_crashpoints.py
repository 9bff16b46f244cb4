"""The moments at which chaos makes dispatchers die still exist in the dispatcher."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.crash import Trap, arm, locate
from tests.chaos.crashpoints import POINTS, Point


@pytest.mark.parametrize("target", sorted({point.target for point in POINTS}))
def test_every_crash_point_names_something_of_the_dispatcher(target: str) -> None:
    owner, name = locate(target)
    assert callable(getattr(owner, name))


def test_there_are_at_least_thirty_crash_points_of_different_names() -> None:
    names = [point.name for point in POINTS]
    assert len(set(names)) == len(names) >= 30


def test_a_trap_kills_at_the_armed_point_and_call_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: kills.append(pid))
    file = tmp_path / "armed"
    trap = Trap(file)
    armed = Point("armed", "os:getpid", "before", lambda arguments, _: arguments == ("yes",))
    trap.pass_by(armed, ("yes",))
    arm(file, armed)
    trap.pass_by(Point("other", "os:getpid", "before"), ("yes",))
    trap.pass_by(armed, ("no",))
    assert file.exists()
    assert kills == []
    trap.pass_by(armed, ("yes",))
    assert kills == [os.getpid()]
    assert not file.exists()
    trap.pass_by(armed, ("yes",))
    assert len(kills) == 1
