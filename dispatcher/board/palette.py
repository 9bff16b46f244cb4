"""What every state looks like: a glyph and a colour, so that neither carries the meaning alone.

The colours are Okabe and Ito's (Color Universal Design, 2008), which people with any of the usual
kinds of colour blindness can tell apart; those of them that are hard to read on either a dark or a
light background are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.core.records import AgentState
from flow.states import RunState, TaskState

GREEN = "#009e73"
SKY = "#56b4e9"
BLUE = "#0072b2"
ORANGE = "#e69f00"
RED = "bold #d55e00"
PURPLE = "#cc79a7"
GREY = "#999999"

TITLE = "bold"
QUIET = GREY


@dataclass(frozen=True, slots=True)
class Look:
    """How a state is shown. ``glyph`` takes one cell; ``name`` is short enough for a legend."""

    glyph: str
    style: str
    name: str


#: By name, in the order of the bar: what has ended, what runs, what waits. With those of Airflow's
#: states that flow does not have yet.
_BY_NAME = {
    "success": Look("█", GREEN, "success"),
    "skipped": Look("»", GREY, "skipped"),
    "failed": Look("✗", RED, "failed"),
    "upstream_failed": Look("⊘", PURPLE, "upstream"),
    "running": Look("▓", SKY, "running"),
    "deferred": Look("◇", SKY, "deferred"),
    "up_for_retry": Look("↻", ORANGE, "retry"),
    "up_for_reschedule": Look("↺", ORANGE, "reschedule"),
    "queued": Look("▒", BLUE, "queued"),
    "scheduled": Look("░", GREY, "scheduled"),
    "none": Look("·", GREY, "none"),
    "removed": Look("-", GREY, "removed"),
}

#: Every state of a task instance, in the order of the bar.
TASK_LOOKS: dict[TaskState, Look] = {
    state: _BY_NAME[state] for state in sorted(TaskState, key=list(_BY_NAME).index)
}
#: A run looks like a task in the state of the same name.
RUN_LOOKS: dict[RunState, Look] = {state: _BY_NAME[state] for state in RunState}

AGENT_LOOKS: dict[AgentState, Look] = {
    AgentState.ONLINE: Look("●", GREEN, "online"),
    AgentState.LOST: Look("◐", ORANGE, "lost"),
    AgentState.DEAD: Look("✗", RED, "dead"),
    AgentState.OFFLINE: Look("○", GREY, "offline"),
}

SLOT_BUSY, SLOT_FREE = "■", "□"
ELLIPSIS = "…"

#: For terminals and files that are not UTF-8.
ASCII = str.maketrans("█»✗⊘▓◇↻↺▒░·●◐○■□…", "#sx^>drR=-.*?o#.~")
