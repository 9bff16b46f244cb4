"""An agent as it can be seen from its node: who consumes its queues, and whether it runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flow.cli.checks.finding import Judgement, note, ok, warning
from flow.cli.checks.rights import connected
from flow.cli.checks.subjects import Subject
from flow.topology import task_queue

_NOT_FOUND, _REFUSED = 404, 403
LOCKS = Path("/proc/locks")


def check_queues(subject: Subject) -> Iterator[Judgement]:
    """How many consumers each of its queues has, and how many messages wait there."""
    runs = bool(subject.agent) and is_locked(subject.config.home / "agents" / str(subject.agent))
    yield _process(subject, runs=runs)
    with connected(subject) as connection:
        for queue in subject.config.agent.queues:
            yield _look(connection, queue, runs=runs)


def _process(subject: Subject, *, runs: bool) -> Judgement:
    if runs:
        return ok(f"agent {subject.agent} runs on this machine")
    start = f"systemctl start {subject.unit_name}" if subject.unit else "start flow-agent"
    return warning(f"no agent {subject.agent} runs with home {subject.config.home}", start)


def is_locked(folder: Path, locks: Path = LOCKS) -> bool:
    """Whether a process holds the lock of an agent's state directory. To try it would keep an
    agent from starting at that moment, so the kernel's list is read (proc(5))."""
    try:
        found = (folder / "lock").stat()
    except FileNotFoundError:
        return False
    inode = str(found.st_ino)
    for line in locks.read_text().splitlines():
        # 1: FLOCK  ADVISORY  WRITE 4711 fe:01:131 0 EOF
        fields = line.split()
        place = next((field for field in fields if field.count(":") == 2), "")  # noqa: PLR2004
        # Its device number is not that of stat(2) on every file system: btrfs, overlay.
        if "FLOCK" in fields and place.rpartition(":")[2] == inode:
            return True
    return False


def _look(connection: object, queue: str, *, runs: bool) -> Judgement:
    from pika import exceptions

    name = task_queue(queue).name
    channel = connection.channel()  # type: ignore[attr-defined]  # pika is not typed
    try:
        found = channel.queue_declare(name, passive=True).method
    except exceptions.ChannelClosedByBroker as error:
        if error.reply_code == _REFUSED:
            return note(f"queue {queue}: its user may not look at it")
        if error.reply_code != _NOT_FOUND:
            raise
        what = f"queue {queue} is not there: no dispatcher has been asked for it"
        return warning(what, "start a dispatcher, and the agent")
    channel.close()
    waiting = f"{found.message_count} task{'' if found.message_count == 1 else 's'} wait"
    if found.consumer_count == 0:
        remedy = "see what the agent says" if runs else "start the agent"
        return warning(f"queue {queue}: no agent consumes it, {waiting}", remedy)
    return ok(f"queue {queue}: {found.consumer_count} consume it, {waiting}")
