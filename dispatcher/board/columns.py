"""Rows of text in columns that never exceed a width: what does not fit is cropped with ``…``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from dispatcher.board.palette import QUIET, TITLE

_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. One that is rigid, with ``least == most``, does not move from frame to frame."""

    title: str
    least: int
    """Cells it has even where space is short."""
    most: int
    """Cells it takes at most, however long its texts."""
    right: bool = False
    above: int = 0
    """It is shown only in tables wider than this."""
    tail: int = 0
    """Of a text that is cropped, this many characters at its end stay."""


def rigid(title: str, width: int, *, right: bool = False, above: int = 0) -> Column:
    """A column of exactly *width* cells."""
    return Column(title=title, least=width, most=width, right=right, above=above)


def crop(text: Text, width: int, tail: int = 0) -> Text:
    """*text* in at most *width* cells, with its last *tail* characters where they fit."""
    if tail and text.cell_len > width:
        end = text[-tail:]
        if end.cell_len < width:
            return crop(text[:-tail], width - end.cell_len).append_text(end)
    text.truncate(max(0, width), overflow="ellipsis" if width > 0 else "crop")
    return text


def spread(left: Text, right: Text, width: int) -> Text:
    """*left* and *right* at the two ends of a line; *left* is cropped first."""
    space = width - right.cell_len - _GAP
    if space < 1:
        return crop(left, width)
    line = crop(left, space)
    line.append(" " * (width - line.cell_len - right.cell_len))
    return line.append_text(right)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """A line of titles, the first of them prominent, and a line for each of *rows*."""
    shown = [index for index, column in enumerate(columns) if width > column.above]
    chosen = [columns[index] for index in shown]
    titles = [
        Text(column.title, style=TITLE if position == 0 else QUIET)
        for position, column in enumerate(chosen)
    ]
    grid = [titles, *([row[index] for index in shown] for row in rows)]
    widths = _widths(chosen, grid, width)
    return [_line(chosen, cells, widths, width) for cells in grid]


def _widths(columns: Sequence[Column], grid: Sequence[Sequence[Text]], width: int) -> list[int]:
    widths = [
        max(column.least, min(column.most, max(row[index].cell_len for row in grid)))
        for index, column in enumerate(columns)
    ]
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    while excess > 0:
        # The column with the most to give gives, so that two long ones become equally long.
        spare = [has - column.least for has, column in zip(widths, columns, strict=True)]
        giver = max(range(len(widths)), key=lambda index: (spare[index] > 0, widths[index]))
        if spare[giver] <= 0:
            break
        widths[giver] -= 1
        excess -= 1
    return widths


def _line(
    columns: Sequence[Column], cells: Sequence[Text], widths: Sequence[int], width: int
) -> Text:
    line = Text()
    for position, (column, cell, has) in enumerate(zip(columns, cells, widths, strict=True)):
        if position:
            line.append(" " * _GAP)
        cropped = crop(cell, has, column.tail)
        padding = " " * (has - cropped.cell_len)
        if column.right:
            line.append(padding)
        line.append_text(cropped)
        if not column.right:
            line.append(padding)
    line.rstrip()
    return crop(line, width)
