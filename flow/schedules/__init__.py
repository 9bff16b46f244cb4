"""When a DAG is due: pure, standard library only; docs/schedules.md has the rules."""

from __future__ import annotations

from flow.schedules.schedule import Interval, Schedule

__all__ = ["Interval", "Schedule"]
