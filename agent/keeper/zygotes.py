"""Which zygotes there are: made for what is started again and again, ended when nothing is.

A task never waits for an interpreter to start: until its zygote is ready, it gets a fresh one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.keeper.spawn import SpawnError
from agent.keeper.standby import StandbyGone, fits
from agent.keeper.zygote import Kind, Start, Zygote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from agent.keeper.standby import Standby
    from agent.keeper.trees import Trees

#: Zygotes at the same time: each has the memory of an interpreter with a DAG file.
MOST = 4
#: Seconds without a task after which one ends.
IDLE = 60.0
#: Seconds without a task after which one may make room for another.
SETTLED = 5.0
#: Seconds that a task waits for a fork, which takes some milliseconds; then it is started anew.
FORK_WITHIN = 2.0
#: Of unasked ends: after so many, tasks of this kind are started anew.
_DEATHS = 3
#: Kinds of which something is remembered.
_KNOWN = 256
#: Tokens of zygotes are above all tokens of tasks, which are milliseconds of Unix time and more.
FIRST_TOKEN = 1 << 62


class _Kept:
    """What is known of one kind of tasks."""

    __slots__ = ("cold", "deaths", "seen_at")

    def __init__(self) -> None:
        self.seen_at: float | None = None
        self.deaths = 0
        self.cold = False  # no zygote any more


class Zygotes:
    """All of this keeper. Times are CLOCK_BOOTTIME seconds, passed in as ``now``.

    *launch* starts a task, as a standby or anew, closes its descriptor, and tells the agent; it
    raises StandbyGone, and has done nothing then. *tell* sends the agent an event.
    """

    def __init__(
        self,
        trees: Trees,
        launch: Callable[[Start, Standby | None], None],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._trees = trees
        self._launch = launch
        self._tell = tell
        self._zygotes: dict[Kind, Zygote] = {}
        self._tokens: set[int] = set()  # of all that have not been proven dead
        self._known: dict[Kind, _Kept] = {}  # in the order of their last use
        self._next_token = FIRST_TOKEN

    def __iter__(self) -> Iterator[Zygote]:
        """Those that may say something."""
        return iter(tuple(self._zygotes.values()))

    def has(self, token: int) -> bool:
        """Whether *token* is a zygote's."""
        return token in self._tokens

    def proven_dead(self, token: int) -> None:
        """Nothing of the zygote with *token* is left, whether or not that was wanted."""
        self._tokens.discard(token)
        for zygote in self:
            if zygote.task.token == token:
                self._know(zygote.kind).deaths += 1
                self._let_go(zygote)

    # -- tasks ---------------------------------------------------------------------------------

    def take(self, start: Start, session: int, now: float) -> bool:
        """Whether the task is started from a zygote, or will be; else start it anew."""
        message = start.message
        if not fits(message["argv"], message["env"], message["cwd"]):
            return False
        kind = Kind.of(message)
        zygote = self._zygotes.get(kind)
        if zygote is None:
            self._consider(kind, start, session, now)
            return False
        if not zygote.ready:
            return False
        zygote.used_at = now
        zygote.waiting.append(start)
        self._serve(zygote)
        return True

    def waits(self, token: int) -> bool:
        """Whether the task *token* waits for a fork."""
        return any(start.token == token for zygote in self for start in zygote.waiting)

    def withdraw(self, token: int) -> Start | None:
        """The task *token*, which is not to wait for a fork any more; None if it does not."""
        for zygote in self:
            for start in zygote.waiting:
                if start.token == token:
                    zygote.waiting.remove(start)
                    return start
        return None

    def _serve(self, zygote: Zygote) -> None:
        while zygote.waiting and zygote.standbys:
            start, standby = zygote.waiting.popleft(), zygote.standbys.popleft()
            try:
                self._launch(start, standby)
            except StandbyGone:
                standby.close()
                zygote.waiting.appendleft(start)
        zygote.ask()

    # -- zygotes -------------------------------------------------------------------------------

    def hear(self, zygote: Zygote, now: float) -> None:
        """Take note of all that *zygote* says."""
        try:
            while self._zygotes.get(zygote.kind) is zygote:
                message, standby = zygote.hear()
                if "unfit" in message:
                    self._give_up(zygote, message["unfit"], now)
                elif "ready" in message:
                    self._begin_to_use(zygote, now)
                elif standby is not None:
                    zygote.standbys.append(standby)
                    self._serve(zygote)
        except BlockingIOError:
            return
        except EOFError:
            self._know(zygote.kind).deaths += 1
            self._end(zygote, now)

    def tidy(self, now: float) -> None:
        """End those that nothing was started from for long, and those that do not fork."""
        for zygote in self:
            if zygote.waiting and now - zygote.waiting[0].at >= FORK_WITHIN:
                self._know(zygote.kind).deaths += 1
                self._end(zygote, now)
            elif now - zygote.used_at >= IDLE:
                self._end(zygote, now)

    def next_event(self) -> float | None:
        """When :meth:`tidy` should be called."""
        return min(
            (
                zygote.waiting[0].at + FORK_WITHIN if zygote.waiting else zygote.used_at + IDLE
                for zygote in self
            ),
            default=None,
        )

    def abandon(self) -> list[Start]:
        """Forget all zygotes, which are being killed; return what waited for a fork."""
        waiting: list[Start] = []
        for zygote in self:
            waiting += zygote.waiting
            zygote.waiting.clear()
            self._lose(zygote)
        return waiting

    def _consider(self, kind: Kind, start: Start, session: int, now: float) -> None:
        """Make a zygote if this is not the first of its kind for long, and there is room."""
        known = self._know(kind)
        again = known.seen_at is not None and now - known.seen_at < IDLE
        known.seen_at = now
        if not again or known.cold or known.deaths >= _DEATHS or not self._make_room(now):
            return
        token = self._next_token
        self._next_token += 1
        try:
            zygote = Zygote.begin(kind, start, self._trees, token=token, session=session, now=now)
        except (SpawnError, OSError):  # what starts the task itself will say why
            known.deaths += 1
            return
        self._zygotes[kind] = zygote
        self._tokens.add(token)

    def _know(self, kind: Kind) -> _Kept:
        known = self._known.pop(kind, None) or _Kept()
        self._known[kind] = known
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        return known

    def _make_room(self, now: float) -> bool:
        if len(self._zygotes) < MOST:
            return True
        oldest = min(self, key=lambda zygote: zygote.used_at)
        if oldest.waiting or now - oldest.used_at < SETTLED:
            return False
        self._end(oldest, now)
        return True

    def _begin_to_use(self, zygote: Zygote, now: float) -> None:
        if self._trees.leaves_orphans(zygote.task):
            self._give_up(zygote, "it starts processes", now)
            return
        zygote.task.timeout = None
        zygote.ready = True
        zygote.ask()

    def _give_up(self, zygote: Zygote, reason: str, now: float) -> None:
        """Tasks of this kind get fresh interpreters from now on."""
        self._know(zygote.kind).cold = True
        self._tell({"is": "unfit", "about": zygote.kind.argv[-1], "reason": reason})
        self._end(zygote, now)

    def _end(self, zygote: Zygote, now: float) -> None:
        """Kill it with its standbys; what waits for a fork is started anew."""
        self._trees.kill_at_once([zygote.task], "", now)
        self._let_go(zygote)

    def _let_go(self, zygote: Zygote) -> None:
        waiting = tuple(zygote.waiting)
        zygote.waiting.clear()
        self._lose(zygote)
        for start in waiting:
            self._launch(start, None)

    def _lose(self, zygote: Zygote) -> None:
        if self._zygotes.get(zygote.kind) is zygote:
            del self._zygotes[zygote.kind]
        zygote.close()
