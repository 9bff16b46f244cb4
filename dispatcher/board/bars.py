"""Numbers as bars, and times as words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from dispatcher.board.palette import GREY, SKY, SLOT_BUSY, SLOT_FREE, TASK_LOOKS
from flow.states import TaskState

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def shares(counts: Sequence[int], width: int) -> list[int]:
    """*width* cells divided in proportion to *counts*; what is not zero has one at least.

    Where there are fewer cells than such counts, the largest have one each.
    """
    total = sum(counts)
    cells = [0] * len(counts)
    if not total or width < 1:
        return cells
    present = [index for index, count in enumerate(counts) if count]
    if width <= len(present):
        for index in sorted(present, key=lambda index: -counts[index])[:width]:
            cells[index] = 1
        return cells
    ideal = [count * width / total for count in counts]
    for index in present:
        cells[index] = max(1, int(ideal[index]))
    while sum(cells) > width:
        cells[max(present, key=lambda x: (cells[x] > 1, cells[x] - ideal[x]))] -= 1
    while sum(cells) < width:
        cells[max(present, key=lambda x: ideal[x] - cells[x])] += 1
    return cells


def task_bar(counts: Mapping[TaskState, int], width: int) -> Text:
    """A run's task instances: each state in its own glyph and colour, what has ended first."""
    bar = Text()
    parts = shares([counts.get(state, 0) for state in TASK_LOOKS], width)
    for look, cells in zip(TASK_LOOKS.values(), parts, strict=True):
        bar.append(look.glyph * cells, look.style)
    return bar


def slot_bar(busy: int, slots: int, width: int) -> Text:
    """An agent's slots, a cell for each where they fit, otherwise in proportion."""
    busy = min(busy, slots)
    full, empty = (busy, slots - busy) if slots <= width else shares([busy, slots - busy], width)
    return Text.assemble((SLOT_BUSY * full, SKY), (SLOT_FREE * empty, GREY))


def span(seconds: float) -> str:
    """``8 s``, ``3 m 05 s``, ``2 h 07 m``, ``4 d 11 h``; clocks that disagree give ``0 s``."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} m {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} m"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR:02} h"
