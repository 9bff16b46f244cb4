"""The scenarios by group. Those that hit agents come first, the soak last."""

from __future__ import annotations

from tests.chaos.faults import (
    agents,
    alarms,
    broker,
    clocks,
    dagfiles,
    database,
    disks,
    dispatchers,
    links,
    partitions,
    pauses,
    restarts,
    soak,
    tasks,
    wishes,
)
from tests.chaos.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *agents.SCENARIOS,
    *links.SCENARIOS,
    *broker.SCENARIOS,
    *partitions.SCENARIOS,
    *alarms.SCENARIOS,
    *pauses.SCENARIOS,
    *dispatchers.SCENARIOS,
    *database.SCENARIOS,
    *restarts.SCENARIOS,
    *wishes.SCENARIOS,
    *disks.SCENARIOS,
    *tasks.SCENARIOS,
    *clocks.SCENARIOS,
    *dagfiles.SCENARIOS,
    *soak.SCENARIOS,
)
