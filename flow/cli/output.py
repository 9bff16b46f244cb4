"""What commands print on stdout: tables for people, JSON for programs, and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flow.visible import visible

#: Columns that may be broken over lines on a narrow terminal; names and times never are.
_PROSE = frozenset({"reason", "file", "queues", "message", "value", "description", "upstream"})
_STYLES = {
    "success": "green",
    "running": "cyan",
    "online": "green",
    "failed": "red",
    "upstream_failed": "red",
    "dead": "red",
    "lost": "yellow",
    "up_for_retry": "yellow",
}
#: Wider than any table: into a file or a pipe nothing is wrapped.
_UNBOUNDED = 100_000


def moment(when: datetime | None) -> str | None:
    """ISO 8601 in UTC, with offset and microseconds."""
    return None if when is None else when.astimezone(UTC).isoformat(timespec="microseconds")


def print_listing(output: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print *rows*: as a JSON array of whole objects, or as a table of their *columns*."""
    if output == "json":
        _print_json(list(rows))
    else:
        _print_table(columns, rows)


def print_object(output: str, fields: Mapping[str, Any]) -> None:
    """Print one thing: as a JSON object, or a line for each of its fields."""
    if output == "json":
        _print_json(dict(fields))
        return
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print(f"{name:<{width}}  {_cell(value)}".rstrip())


def print_line(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on one line, at once."""
    print(json.dumps(fields), flush=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        prose = name in _PROSE
        table.add_column(Text(name), no_wrap=not prose, overflow="fold", min_width=len(name))
    for row in rows:
        cells = [_cell(row[name]) for name in columns]
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    console = Console(file=sys.stdout, width=_UNBOUNDED, color_system=None, highlight=False)
    if sys.stdout.isatty():
        # A terminal breaks a long line by itself; rich would cut names off.
        needed = Measurement.get(console, console.options, table).minimum
        console = Console(file=sys.stdout, highlight=False)
        console.width = max(console.width, needed)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case dict():
            return json.dumps(value) if value else ""
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return visible(str(value))
