"""One frame of the board, from a view and a size. Pure: the same arguments give the same frame.

No line is wider than the width, and there are no more lines than the height.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group
from rich.text import Text

from dispatcher.board.bars import span
from dispatcher.board.columns import crop, spread
from dispatcher.board.palette import GREEN, ORANGE, QUIET, RED
from dispatcher.board.sections import (
    Section,
    agents_section,
    errors_section,
    failures_section,
    legend,
    queues_section,
    runs_section,
)
from dispatcher.store.views import BoardView
from flow.visible import visible

#: A dispatcher writes every 5 s that it is there (``dispatcher.reign``): it has missed two.
NOT_HEARD_AFTER = 11.0

_SIDE_BY_SIDE = 130
#: Blank lines are left where this many rows of each section fit nevertheless.
_ROWS_FIRST = 4
_WITH_LEGEND = 13
_SPACE_BETWEEN = 4


def render(
    view: BoardView | None,
    width: int,
    height: int,
    now: datetime,
    *,
    trouble: str = "",
    hint: str = "",
) -> Group:
    """The board in *width* x *height* cells.

    *trouble* says why *view* (``None``: nothing was read yet) is not up to date: all ages are then
    those of its moment. *hint* stands in the last line of the height.
    """
    as_of = view.at if view is not None and trouble else now
    lines = _header(view, width, now, trouble)
    if view is not None:
        bottom = _bottom(view, hint, width) if height >= _WITH_LEGEND else []
        lines += _body(view, width, height - len(lines) - len(bottom), as_of)
        if hint:  # it stands still while rows come and go
            lines += [Text()] * (height - len(lines) - len(bottom))
        lines += bottom
    return Group(*_fitting(lines, width, height))


def _fitting(lines: Sequence[Text], width: int, height: int) -> list[Text]:
    shown = [crop(line, width) for line in lines[: max(0, height)]]
    for line in shown:
        line.no_wrap = True
        line.overflow = "crop"
    return shown


# -- first and last lines ----------------------------------------------------------------------


def _header(view: BoardView | None, width: int, now: datetime, trouble: str) -> list[Text]:
    time = Text(f"{now:%Y-%m-%d %H:%M:%S} UTC", QUIET)
    title = Text.assemble(("flow", "bold"), "  ")
    if view is None:
        title.append("reading the database" if not trouble else "nothing is known yet", QUIET)
    else:
        title.append_text(_dispatcher(view, view.at if trouble else now))
    lines = [spread(title, time, width)]
    if trouble:
        since = "" if view is None else f" for {span((now - view.at).total_seconds())}"
        said = f"✗ database: away{since}, trying again"
        if view is not None:
            said += f"; this is its state of {view.at:%H:%M:%S}"
        lines += [crop(Text(said, RED), width), crop(Text(visible(trouble), QUIET), width)]
    return lines


def _dispatcher(view: BoardView, now: datetime) -> Text:
    leader = view.leader
    if leader is None:
        return Text("○ dispatcher: none has led yet; start one: flow dispatcher", ORANGE)
    name = f"{visible(leader.dispatcher)}, epoch {leader.epoch}"
    silence = (now - leader.heard_at).total_seconds()
    if silence < NOT_HEARD_AFTER:
        return Text.assemble(("● ", GREEN), "dispatcher ", name)
    return Text.assemble(
        (f"✗ dispatcher: not heard for {span(silence)}", RED), (f"  {name}", QUIET)
    )


def _bottom(view: BoardView, hint: str, width: int) -> list[Text]:
    line = spread(legend(view), Text(hint, QUIET), width)
    return [line] if line.plain.strip() else []


# -- what is between them ----------------------------------------------------------------------


def _body(view: BoardView, width: int, height: int, now: datetime) -> list[Text]:
    blocks = _blocks(view, width, now)
    wanted = [_wanted(block) for block in blocks]
    headings = len(blocks)
    blanks = len(blocks) + 1
    spacious = height >= sum(min(rows, _ROWS_FIRST) for rows in wanted) + headings + blanks
    grants = divide(wanted, height - headings - blanks * spacious)
    lines: list[Text] = []
    for block, grant in zip(blocks, grants, strict=True):
        lines += [Text()] if spacious else []
        lines += _lines(block, width, grant)
    return [*lines, Text()] if spacious else lines[: max(0, height)]


def _blocks(view: BoardView, width: int, now: datetime) -> list[list[Section]]:
    """What stands below each other, each of one section or of two side by side."""
    agents, queues = agents_section(view, now), queues_section(view)
    top = [[agents, queues]] if width >= _SIDE_BY_SIDE else [[agents], [queues]]
    blocks = [*top, [runs_section(view, now, width)]]
    if view.failures:
        blocks.append([failures_section(view, now)])
    if view.errors:
        blocks.append([errors_section(view, now)])
    return blocks


def _wanted(block: Sequence[Section]) -> int:
    return max(section.wanted for section in block)


def divide(wanted: Sequence[int], lines: int) -> list[int]:
    """*lines* given out one by one, round after round, to whoever still wants one."""
    grants = [0] * len(wanted)
    while lines > 0 and grants != list(wanted):
        for index, most in enumerate(wanted):
            if grants[index] < most and lines > 0:
                grants[index] += 1
                lines -= 1
    return grants


def _lines(block: Sequence[Section], width: int, height: int) -> list[Text]:
    if len(block) == 1:
        return block[0].lines(width, height)
    left, right = block
    right_width = (width - _SPACE_BETWEEN) * 2 // 5
    left_width = width - _SPACE_BETWEEN - right_width
    beside, rows = right.lines(right_width, height), left.lines(left_width, height)
    lines = []
    for index in range(max(len(rows), len(beside))):
        line = rows[index] if index < len(rows) else Text()
        if index < len(beside):
            line.append(" " * (left_width + _SPACE_BETWEEN - line.cell_len))
            line.append_text(beside[index])
        lines.append(line)
    return lines
