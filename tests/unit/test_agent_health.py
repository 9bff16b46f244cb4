"""The line that ``systemctl status flow-agent@gpu`` shows, and what the watchdog is told."""

from __future__ import annotations

from typing import Any

import pytest

from agent.health import LAST_STEPS, Seen, standing, status_line


def seen(**changed: Any) -> Seen:
    """An agent at work."""
    values: dict[str, Any] = {
        "tasks": 2,
        "busy": 2,
        "slots": 4,
        "queues": ("gpu",),
        "session": 1,
        "fenced": False,
        "greeted": True,
        "link": True,
        "connection": "connected; serving gpu",
        "suspended": "",
        "drained": "",
        "draining": None,
        "drain_timeout": 3600.0,
        "late": -1.0,
        "keeper_silence": 0.0,
    }
    return Seen(**{**values, **changed})


AWAY = {"link": False, "greeted": False, "connection": "waiting for the broker: refused"}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "2/4 slots busy, queue gpu"),
        ({"busy": 3}, "3/4 slots busy, queue gpu"),
        ({"queues": ("gpu", "gpu.a100")}, "2/4 slots busy, queues gpu, gpu.a100"),
        (
            {"queues": ("gpu", "cpu"), "refused": ("cpu",)},
            "2/4 slots busy, queue gpu; refused by the broker: queue cpu",
        ),
        ({"refused": ("gpu",)}, "2/4 slots busy; refused by the broker: queue gpu"),
        ({**AWAY, "tasks": 0}, "waiting for the broker: refused"),
        (AWAY, "waiting for the broker: refused; 2/4 slots busy"),
        ({"link": False, "connection": "", "tasks": 0}, "waiting for the broker"),
        ({"greeted": False, "tasks": 0}, "waiting for a dispatcher"),
        ({"suspended": "disk is full"}, "suspended: disk is full; 2/4 slots busy"),
        ({"suspended": "disk is full", **AWAY}, "suspended: disk is full; 2/4 slots busy"),
        ({"drained": "new disk"}, "drained: new disk; 2/4 slots busy"),
        ({"draining": 3.0}, "draining, 2 tasks left"),
        ({"draining": 3.0, "tasks": 1, **AWAY}, "draining, 1 task left"),
        ({"session": 0, "fenced": True}, "starting: until nothing of an earlier session runs"),
        ({"fenced": True}, "between sessions: until nothing of the last one runs"),
    ],
)
def test_the_status_says_what_matters_most(changed: dict[str, Any], line: str) -> None:
    assert status_line(seen(**changed)) == line


def test_an_agent_is_ready_once_nothing_of_an_earlier_session_runs() -> None:
    assert not standing(seen(session=0, fenced=True)).ready
    assert standing(seen(session=1, **AWAY)).ready


@pytest.mark.parametrize(
    ("changed", "stuck"),
    [
        ({}, ""),
        ({"late": 4.9, "keeper_silence": 4.9}, ""),
        ({"late": 6.0}, "the agent's rules wanted to be called 6 s ago"),
        ({"keeper_silence": 7.0}, "the keeper has not answered for 7 s"),
        ({**AWAY, "suspended": "disk is full"}, ""),
    ],
)
def test_only_an_agent_whose_own_parts_stand_still_is_stuck(
    changed: dict[str, Any], stuck: str
) -> None:
    assert standing(seen(**changed)).stuck == stuck


def test_a_drain_gets_time_until_its_timeout_and_the_last_steps_are_over() -> None:
    drain = {"drain_timeout": 100.0}
    assert standing(seen(draining=0.0, **drain)).stopping
    assert standing(seen(draining=99.0 + LAST_STEPS, **drain)).takes_time
    assert not standing(seen(draining=101.0 + LAST_STEPS, **drain)).takes_time
