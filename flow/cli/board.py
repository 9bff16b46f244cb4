"""``flow board``: everything at one glance."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from flow.cli.grammar import Command
from flow.cli.invocation import Invocation, pass_invocation
from flow.errors import DatabaseRefused, SchemaError, StoreError, UsageError

if TYPE_CHECKING:
    from dispatcher.store.boardreader import BoardReader

#: Where nothing says how wide to print, and how many lines one frame has at most.
_WIDTH, _HEIGHT = 100, 100
_DIGITS = 5


@click.command("board", cls=Command)
@click.option("--once", is_flag=True, help="Print one frame on stdout, and end.")
@pass_invocation
def board(invocation: Invocation, *, once: bool) -> int:
    """Show agents, queues, runs and failures, live, until q or Ctrl-C."""
    if once:
        _print_frame(invocation)
        return 0
    _require_terminal()
    return _show(invocation)


def _print_frame(invocation: Invocation) -> None:
    from dispatcher.board.render import render
    from dispatcher.board.terminal import printed

    now = _now()
    view = _reader(invocation).board(now)
    width = _number("COLUMNS") or (_terminal_width() if sys.stdout.isatty() else _WIDTH)
    frame = render(view, width, _number("LINES") or _HEIGHT, now)
    for line in printed(sys.stdout, frame, width).splitlines():
        print(line.rstrip())


def _show(invocation: Invocation) -> int:
    from dispatcher.board.live import Watcher, show
    from dispatcher.board.terminal import Terminal

    # That it is refused, or not migrated, will not change by itself; that it is away may.
    try:
        reader = _reader(invocation)
    except (DatabaseRefused, SchemaError):
        raise
    except StoreError:
        reader = _reader(invocation, checked=False)
    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    signum = show(Terminal(sys.stdout, keys), Watcher(reader, _now), _now)
    return 128 + signum if signum else 0


def _reader(invocation: Invocation, *, checked: bool = True) -> BoardReader:
    from dispatcher.store import check_schema
    from dispatcher.store.boardreader import BoardReader

    if checked:
        check_schema(invocation.database())
    return BoardReader(invocation.database())


def _require_terminal() -> None:
    if not sys.stdout.isatty():
        raise UsageError("board: expected a terminal on stdout, got none; use `flow board --once`")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError(
            "board: expected a terminal that can be redrawn, got TERM 'dumb'; "
            "use `flow board --once`"
        )


def _terminal_width() -> int:
    return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH


def _number(variable: str) -> int | None:
    """What a shell says of its window; whatever is no size is none."""
    text = os.environ.get(variable, "")
    return int(text) or None if text.isascii() and text.isdigit() and len(text) < _DIGITS else None


def _now() -> datetime:
    return datetime.now(UTC)
