"""Two dispatchers over one database: the real core and the real store, agents played by messages.

One of them leads. Its connection may be lost before or after a COMMIT has taken effect, and the
other one may begin a reign at any moment; what was read but not acked is then delivered again, as
the broker does. Time passes by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar
from unittest.mock import patch

from peewee import Database

from dispatcher.core.core import Core, Effects, Instant, Rules
from dispatcher.core.records import Write
from dispatcher.store import Store
from dispatcher.store.models import TABLES, Leader
from dispatcher.store.reader import Reader
from flow import wire
from flow.dagspec import DagSpec
from flow.errors import StoreError

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LEASE = 60.0

#: When a connection is lost around a COMMIT: the sender cannot tell the two apart.
Lost = Literal["before", "after"]
Answer = TypeVar("Answer")


class StoreWorld:
    """Drives the leading core, and keeps what agents would have received. *outside* is the
    connection of commands, which no reign ends. The database is emptied first."""

    def __init__(
        self, stores: Sequence[Store], outside: Database, *specs: DagSpec, rules: Rules
    ) -> None:
        _empty(outside)
        self.stores = stores
        self.rules = rules
        self.elapsed = 0.0
        self.leading = 0
        self.epoch = 0
        self.core: Core
        self.pending = Effects()
        """What the next flush commits and sends."""
        self.unacked: list[wire.Message] = []
        """Read since the last flush: delivered again if that one fails."""
        self.held = 0
        """So many events more go into the flush that is pending."""
        self.losing: Lost | None = None
        """What happens to the connection at the next COMMIT."""
        self.committed: list[Sequence[Write]] = []
        self.published: list[wire.Task] = []
        self.replies: list[tuple[str, wire.Reply]] = []
        self.markers: list[int] = []
        self._reader = Reader(outside)
        self.lead(0)
        for spec in specs:
            self.core.dags_changed(
                self.store.record_dags(self.epoch, spec.file, [spec], "", self.now.wall)
            )
        self.pass_time(0)

    @property
    def store(self) -> Store:
        """That of the dispatcher which leads."""
        return self.stores[self.leading]

    @property
    def now(self) -> Instant:
        return Instant(START + timedelta(seconds=self.elapsed), 1000.0 + self.elapsed)

    # -- reigns and flushes ----------------------------------------------------------------------

    def lead(self, which: int) -> None:
        """A dispatcher begins a reign: everything is loaded, and what was not acked comes again."""
        self.leading = which
        self.epoch = _persistent(lambda: self.store.begin_reign(f"d{which}", self.now.wall))
        self.core = Core(self.store.load(), reign=self.epoch, rules=self.rules, now=self.now)
        again, self.unacked = self.unacked, []
        self.pending, self.markers, self.held = Effects(), [], 0
        self.take(self.core.begin(self.now))
        for message in again:
            self.send(message)

    def take(self, effects: Effects, message: wire.Message | None = None) -> None:
        """Flush, unless the dispatcher is busy with an earlier flush and gathers more."""
        self.pending.absorb(effects)
        if message is not None:
            self.unacked.append(message)
        if self.held:
            self.held -= 1
        else:
            self.flush()

    def flush(self) -> None:
        """One transaction, then acks and messages; a commit of unknown outcome ends the reign."""
        effects, self.pending = self.pending, Effects()
        losing, self.losing = self.losing, None
        self.held = 0
        if effects.writes and losing is not None:
            self._fail_to_commit(effects.writes, losing)
            self.lead(self.leading)
            return
        if effects.writes:
            self.store.commit(self.epoch, effects.writes)
            self.committed.append(effects.writes)
        self.unacked.clear()
        self.replies += effects.replies
        self.published += effects.publications
        self.markers += effects.markers

    def _fail_to_commit(self, writes: Sequence[Write], losing: Lost) -> None:
        try:
            with _connection_lost(self.store, losing):
                self.store.commit(self.epoch, writes)
        except StoreError:
            if losing == "after":
                self.committed.append(writes)
        else:
            raise AssertionError("a commit whose connection was lost came to a good end")

    # -- what happens ----------------------------------------------------------------------------

    def send(self, message: wire.Message) -> None:
        """An event is delivered to the leader."""
        self.take(self.core.receive(message, self.now), message)

    def request(self, kind: str, **arguments: Any) -> None:
        """A command writes an intent; it is carried out at the next :meth:`serve`."""
        self._reader.request(kind, arguments, actor="user test", at=self.now.wall)

    def serve(self) -> None:
        """Carry out what commands asked for, as the service does."""
        intents = self.store.pending_intents()
        if not intents:
            return
        loaded = {
            intent: self.store.load_run(dag_id, run_id)
            for intent, (dag_id, run_id) in self.core.wanted_runs(intents).items()
        }
        self.take(self.core.request(intents, self.now, loaded))

    def pass_time(self, seconds: float, *, returning: bool = False) -> None:
        """Let time pass, calling the core when it asked to be called. *returning*: the broker
        gives markers back at once, so that the silent are taken over."""
        end = self.elapsed + seconds
        while True:
            if returning:
                self.return_markers()
            wakeup = self.core.next_wakeup()
            if wakeup is None or wakeup - 1000.0 > end:
                break
            self.elapsed = max(self.elapsed, wakeup - 1000.0)
            self.take(self.core.tick(self.now))
        self.elapsed = end

    def return_markers(self) -> None:
        """The broker delivers the reign's markers, behind all events sent before."""
        markers, self.markers = self.markers, []
        for number in markers:
            self.send(wire.Marker(reign=self.core.state.reign, number=number))


def _empty(database: Database) -> None:
    """Nothing of an earlier example is left, except that epochs go on growing."""
    with database.atomic():
        for table in reversed(TABLES):
            if table is not Leader:
                table.delete().execute(database)


def _persistent(call: Callable[[], Answer]) -> Answer:
    """The other dispatcher's reign has ended this one's session: the second call has a new one."""
    try:
        return call()
    except StoreError:
        return call()


def _connection_lost(store: Store, when: Lost) -> AbstractContextManager[object]:
    """Within the block the connection is cut around the next COMMIT; the driver says so itself."""
    database = store.database
    commit = database.commit

    def cut_around_commit() -> None:
        if when == "after":
            commit()
        database.connection().close()  # type: ignore[no-untyped-call]  # the library's own
        commit()

    return patch.object(database, "commit", cut_around_commit)
