"""Looking at a database that comes and goes."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime

import pytest

from dispatcher.board.live import Sight, Watcher
from dispatcher.store import open_database
from dispatcher.store.boardreader import BoardReader
from dispatcher.store.views import BoardView
from flow.errors import StoreError
from tests.unit.board_views import NOW, ago
from tests.waiting import until


class Database(BoardReader):
    """One that is away when told."""

    def __init__(self) -> None:
        super().__init__(open_database("sqlite:////never/opened.db"))
        self.away = False
        self.changes = 0
        self.bug: Exception | None = None

    def pulse(self) -> Hashable:
        if self.bug is not None:
            raise self.bug
        if self.away:
            raise StoreError("database x: expected an answer, got none")
        return self.changes

    def board(self, now: datetime) -> BoardView:
        return BoardView(at=now, active_runs=self.changes)


class Clock:
    def __init__(self) -> None:
        self.now = ago(100)

    def __call__(self) -> datetime:
        return self.now


def test_while_the_database_is_away_the_last_view_stays_with_its_moment() -> None:
    database, clock = Database(), Clock()
    watcher = Watcher(database, clock)
    watcher.look()
    database.away, clock.now = True, NOW
    watcher.look()
    assert watcher.sight() == Sight(
        BoardView(at=ago(100)), "database x: expected an answer, got none"
    )
    database.away = False
    database.changes = 3
    watcher.look()
    assert watcher.sight() == Sight(BoardView(at=NOW, active_runs=3))


def test_a_database_that_was_never_there_gives_no_view() -> None:
    database = Database()
    database.away = True
    watcher = Watcher(database, Clock())
    watcher.look()
    assert watcher.sight() == Sight(None, "database x: expected an answer, got none")


def test_a_view_that_could_not_be_read_is_read_again_though_the_pulse_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = Database()
    watcher = Watcher(database, Clock())
    watcher.look()
    database.changes = 1

    def refuse(_: datetime) -> BoardView:
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(database, "board", refuse)
        watcher.look()
    assert watcher.sight().trouble == "no"
    watcher.look()
    assert watcher.sight() == Sight(BoardView(at=ago(100), active_runs=1))


def test_a_bug_on_the_thread_comes_out_where_the_sight_is_asked_for() -> None:
    database = Database()
    database.bug = ZeroDivisionError("a bug")
    watcher = Watcher(database, Clock())
    watcher.start()

    def raised() -> bool:
        try:
            watcher.sight()
        except ZeroDivisionError:
            return True
        return False

    until(raised)
    watcher.stop()
