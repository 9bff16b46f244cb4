"""The database, for those that may use it: never for an agent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flow.cli.checks.finding import Judgement, ok, problem, warning
from flow.cli.checks.hosts import is_here
from flow.cli.checks.subjects import Subject

if TYPE_CHECKING:
    from dispatcher.store.health import Health
    from dispatcher.store.views import LeaderView

#: Seconds by which two clocks may differ: times in listings come from several machines.
SKEW = 1.0
#: A leading dispatcher writes every 5 s that it is there.
SILENT_AFTER = 15.0


def check_database(subject: Subject) -> Iterator[Judgement]:
    """The server, its clock, its settings. Raises :class:`~flow.errors.StoreError`."""
    from dispatcher.store import open_database
    from dispatcher.store.health import look

    with closing(open_database(subject.config.database.url.reveal())) as database:
        yield from judge_server(look(database))


def check_schema(subject: Subject) -> Iterator[Judgement]:
    """Its migrations, and who leads. Raises :class:`~flow.errors.StoreError`."""
    from dispatcher.store import check_schema as check
    from dispatcher.store import open_database
    from dispatcher.store.health import leader

    with closing(open_database(subject.config.database.url.reveal())) as database:
        check(database)
        yield ok("its schema is this release's")
        yield judge_leader(leader(database), datetime.now(UTC), subject.unit_name)


def judge_server(health: Health) -> Iterator[Judgement]:
    """Everything but what flow has made in it."""
    yield ok(f"{health.where}: {health.server}")
    if health.encrypted is False and not is_here(health.host):
        yield warning(
            f"passwords and rows go to {health.host} without encryption",
            "add ?sslmode=verify-full&sslrootcert=FILE to database.url",
        )
    if health.not_durable:
        yield warning(
            f"{', '.join(health.not_durable)} is off: when its machine fails, it may forget what "
            "it has confirmed, and a task that has run may run again",
            "switch it on in postgresql.conf, or for flow's user with ALTER ROLE",
        )
    yield from _clock(health)


def _clock(health: Health) -> Iterator[Judgement]:
    if abs(health.ahead) > SKEW + health.doubt:
        which = "ahead of" if health.ahead > 0 else "behind"
        yield warning(
            f"its clock is {abs(health.ahead):.1f} s {which} this machine's: times in listings "
            "are wrong by as much, promises are not",
            "let both machines follow the same time servers (chrony, systemd-timesyncd)",
        )
    else:
        yield ok(f"its clock and this machine's agree within {max(0.1, health.doubt):.1f} s")


def judge_leader(leader: LeaderView | None, now: datetime, unit: str) -> Judgement:
    """Whether a dispatcher is at work, wherever it runs."""
    start = f"start one: systemctl start {unit}, or flow dispatcher"
    if leader is None:
        return warning("no dispatcher has ever led on it: no task will run", start)
    silence = (now - leader.heard_at).total_seconds()
    if silence > SILENT_AFTER:
        what = f"dispatcher {leader.dispatcher} was last heard {_duration(silence)} ago: no task "
        return problem(f"{what}will start until one leads", start)
    return ok(f"dispatcher {leader.dispatcher} leads, heard {max(0.0, silence):.0f} s ago")


def _duration(seconds: float) -> str:
    units: tuple[tuple[float, str], ...] = ((86400, "days"), (3600, "h"), (60, "min"))
    for size, name in units:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
