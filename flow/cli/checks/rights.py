"""What the broker's user may do: all that its process needs, and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flow.cli.checks import attempts
from flow.cli.checks.attempts import Answer, Attempt
from flow.cli.checks.finding import Judgement, note, ok, problem, warning
from flow.cli.checks.subjects import Subject
from flow.errors import TransportError
from flow.topology import (
    CONTROL,
    EVENTS,
    LOGS,
    MARKER_KEY,
    TASKS,
    agent_key,
    control_queue,
    event_key,
    log_key,
    task_queue,
)

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user must be allowed and what it must be refused."""

    needed: tuple[Attempt, ...]
    forbidden: tuple[Attempt, ...]


def of_agent(name: str, queues: tuple[str, ...]) -> Wanted:
    """See :mod:`flow.brokerrights`."""
    other = f"not-{name}"
    foreign = f"not-{queues[0]}-{secrets.token_hex(4)}"
    suffix = secrets.token_hex(8)
    control = control_queue(name, suffix)

    def make_control(channel: BlockingChannel) -> None:
        channel.queue_declare(control.name, exclusive=True, auto_delete=True)
        channel.queue_bind(control.name, control.exchange, control.key)
        channel.queue_delete(control.name)

    return Wanted(
        needed=(
            *(
                attempts.reading(f"read queue {queue!r}", task_queue(queue).name)
                for queue in queues
            ),
            Attempt("make a queue for the dispatcher's replies", make_control),
            attempts.publishing("report to the dispatcher", EVENTS, event_key(name, "started")),
            attempts.publishing("send output", LOGS, log_key(name, "dag", "task")),
        ),
        forbidden=(
            attempts.publishing("publish tasks", TASKS, queues[0]),
            attempts.publishing("publish to any queue by its name", "", EVENTS),
            attempts.publishing("answer other agents", CONTROL, agent_key(other)),
            attempts.publishing("report as another agent", EVENTS, event_key(other, "started")),
            attempts.publishing("send output as another agent", LOGS, log_key(other, "d", "t")),
            attempts.forging("state another user", EVENTS, event_key(name, "started")),
            attempts.reading("read queues that it does not serve", task_queue(foreign).name),
            attempts.reading("read the events of all agents", EVENTS),
            attempts.reading("read the output of all tasks", LOGS),
            attempts.binding("bind queues to the tasks", EVENTS, TASKS),
            attempts.making_queues("make and delete queues of tasks", task_queue("").name),
            attempts.making_exchanges("make and delete exchanges"),
        ),
    )


def of_dispatcher() -> Wanted:
    """See :mod:`flow.brokerrights`."""
    return Wanted(
        needed=(
            attempts.reading("read the events", EVENTS),
            attempts.reading("read the output of tasks", LOGS),
            attempts.publishing("publish tasks", TASKS, "doctor"),
            attempts.publishing("answer agents", CONTROL, agent_key("doctor")),
            attempts.publishing("send markers to itself", EVENTS, MARKER_KEY),
            attempts.making_queues("make queues of tasks", task_queue("").name),
        ),
        forbidden=(
            attempts.publishing("publish to any queue by its name", "", EVENTS),
            attempts.publishing("report as an agent", EVENTS, event_key("doctor", "started")),
            attempts.reading("read queues that are not flow's", f"doctor-{secrets.token_hex(8)}"),
            attempts.making_exchanges("make and delete exchanges that are not flow's"),
        ),
    )


def check_rights(subject: Subject) -> Iterator[Judgement]:
    """Try everything. Raises :class:`~flow.errors.TransportError`."""
    if subject.agent is None:
        wanted = of_dispatcher()
        whose, grant = "the dispatcher", "flow broker rights USER --dispatcher"
    else:
        queues = subject.config.agent.queues
        wanted = of_agent(subject.agent, queues)
        whose = f"agent {subject.agent}"
        named = " ".join(f"--queue {queue}" for queue in queues)
        grant = f"flow broker rights {subject.agent} {named}"
    with connected(subject) as connection, _alarms_told():
        needed = attempts.try_each(connection, wanted.needed)
        forbidden = attempts.try_each(connection, wanted.forbidden)
    yield from judge_needed(whose, needed, grant)
    yield judge_forbidden(whose, forbidden, grant)


@contextmanager
def _alarms_told() -> Iterator[None]:
    """A broker with an alarm stops reading from whoever publishes, whatever it thinks of it."""
    from pika import exceptions

    try:
        yield
    except exceptions.ConnectionBlockedTimeout as error:
        raise TransportError(
            "expected the broker to take messages, got an alarm of its memory or disk; "
            "look at rabbitmqctl status, and see check_local_alarms of rabbitmq-diagnostics"
        ) from error


@contextmanager
def connected(subject: Subject) -> Iterator[BlockingConnection]:
    """A connection as the subject's user."""
    from flow.cli.broker import open_channel, tls_of

    with open_channel(subject.url, tls_of(subject.config)) as channel:
        yield channel.connection


def judge_needed(whose: str, answers: Mapping[str, Answer], grant: str) -> Iterator[Judgement]:
    """What its process could not do its work without."""
    refused = _those(answers, Answer.REFUSED)
    missing = _those(answers, Answer.MISSING)
    if refused:
        yield problem(
            f"the user of {whose} may not {', '.join(refused)}",
            f"grant it what `{grant}` prints",
        )
    if missing:
        yield note(
            f"not there yet, for the user of {whose} to {', '.join(missing)}: a dispatcher makes "
            "queues and exchanges when it leads",
            "start one",
        )
    if not refused and not missing:
        yield ok(f"the user of {whose} may do all that it needs")


def judge_forbidden(whose: str, answers: Mapping[str, Answer], grant: str) -> Judgement:
    """Where nothing of it is refused, nobody has restricted the user at all, as on a developer's
    machine. Where some of it is, somebody meant to, and left a gap."""
    refused = _those(answers, Answer.REFUSED)
    allowed = [what for what in answers if what not in refused]
    if not allowed:
        return ok(f"the user of {whose} is refused all {len(answers)} things that it must not do")
    # RabbitMQ lets nobody do that, so it says nothing of anybody's rights.
    if set(refused) <= {"state another user"}:
        return warning(
            f"the user of {whose} may do everything, such as to {allowed[0]}",
            f"give it a user of its own, with what `{grant}` prints (docs/broker.md)",
        )
    return problem(
        f"the user of {whose} may {', '.join(allowed)}, which it must not",
        f"grant it only what `{grant}` prints",
    )


def _those(answers: Mapping[str, Answer], wanted: Answer) -> list[str]:
    return [what for what, answer in answers.items() if answer is wanted]
