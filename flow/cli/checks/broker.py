"""RabbitMQ: whether it can be reached the way flow's processes do, and how it is set up."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flow.cli.checks.certificates import check_der, check_file
from flow.cli.checks.finding import Judgement, note, ok, problem, warning
from flow.cli.checks.hosts import is_here
from flow.cli.checks.subjects import Subject
from flow.cli.checks.units import output_of
from flow.errors import BrokerRefused

if TYPE_CHECKING:
    from flow.transport.amqp.greeting import Greeting

#: What flow's tests run with, and the oldest that it was written for.
TESTED = (3, 10)
OLDEST = (3, 10)
#: From here on a message that came back 20 times is dropped, unless a policy says otherwise.
_WITH_DELIVERY_LIMIT = (4, 0)
#: From here on a policy may set the consumer timeout; before, only rabbitmq.conf.
_TIMEOUT_BY_POLICY = (3, 12)
#: Seconds for one connection; and for rabbitmqctl, which starts an Erlang of its own.
PATIENCE = 5.0
CTL_PATIENCE = 8.0
_DAY = 24 * 3600.0


def check_broker(subject: Subject) -> Iterator[Judgement]:
    """Log in as its process does. Raises :class:`~flow.errors.TransportError`."""
    from flow.cli.broker import tls_of
    from flow.transport.amqp import AmqpBroker

    broker = AmqpBroker(subject.url, tls_of(subject.config), connect_limit=PATIENCE)
    try:
        greeting = asyncio.run(broker.greet("flow doctor"))
    except BrokerRefused as error:
        remedy = "check user, password and virtual host in broker.url"
        if subject.unit is not None:
            remedy += f", and see journalctl -u {subject.unit_name} -n 20"
        if subject.unit is not None and "CREDENTIALS_DIRECTORY" not in subject.environ:
            remedy += "; root is told its password while it runs"
        raise BrokerRefused(f"{error}; {remedy}") from error
    yield ok(
        f"{broker.address}: user {broker.user} is let in by {greeting.product} {greeting.version}"
    )
    yield from judge_version(greeting)
    yield from judge_heartbeat(greeting.heartbeat, broker.asked_heartbeat)
    if greeting.certificate is not None:
        yield from check_der(greeting.certificate, "its certificate", datetime.now(UTC))


def judge_version(greeting: Greeting) -> Iterator[Judgement]:
    """Whether flow knows this release."""
    release = greeting.release
    if greeting.product != "RabbitMQ" or release is None:
        what = f"{greeting.product} {greeting.version} is none that flow was tried with"
        yield warning(what, f"use RabbitMQ {_dotted(OLDEST)} or later")
        return
    if release < OLDEST:
        what = f"RabbitMQ {greeting.version} is older than flow supports"
        yield problem(what, f"upgrade it to {_dotted(OLDEST)} or later")
    elif release > TESTED:
        yield note(f"flow's tests run with RabbitMQ {_dotted(TESTED)}, not with {_dotted(release)}")
    if release >= _WITH_DELIVERY_LIMIT:
        yield note(
            "RabbitMQ 4 drops a message that came back 20 times, unless a policy sets "
            "delivery-limit to -1 for flow's queues; whether one does is not known from here",
            "rabbitmqctl list_policies shows it; `flow broker rights USER --dispatcher --rabbitmq "
            f"{_dotted(release)}` prints the one to set",
        )


def judge_heartbeat(agreed: int, asked: int) -> Iterator[Judgement]:
    """A broker may lower the heartbeat, or switch it off."""
    if agreed == 0:
        yield problem(
            "the broker has switched heartbeats off: a lost connection is noticed after minutes",
            "remove `heartbeat = 0` from rabbitmq.conf",
        )
    elif agreed != asked:
        yield note(f"a heartbeat of {agreed} s was agreed on, where {asked} s were asked for")


def check_security(subject: Subject) -> Iterator[Judgement]:
    """TLS, and this side's files for it. Raises OSError for those that are not there."""
    from flow.cli.broker import tls_of

    parts = urlsplit(subject.url)
    host = parts.hostname or ""
    if parts.scheme != "amqps":
        if is_here(host):
            yield ok(f"without encryption, but {host} is this machine")
        else:
            yield warning(
                f"passwords and messages go to {host} without encryption",
                "use amqps:// and broker.ca_file, see docs/broker.md",
            )
        return
    now = datetime.now(UTC)
    tls = tls_of(subject.config).or_of(subject.url)
    if tls.ca_file is not None:
        yield from check_file(tls.ca_file, "the authority of broker.ca_file", now)
    if tls.cert_file is not None:
        yield from check_file(tls.cert_file, "this side's certificate", now)
    if tls.ca_file is None and tls.cert_file is None:
        yield ok(f"what goes to {host} is encrypted, and the system's authorities vouch for it")


def check_consumer_timeout(subject: Subject) -> Iterator[Judgement]:
    """After how long RabbitMQ takes a task's message from an agent that still runs it. AMQP does
    not tell; on the broker's own machine rabbitmqctl does, for those whom it obeys."""
    host = urlsplit(subject.url).hostname or ""
    program = rabbitmqctl()
    said = None
    if is_here(host) and program is not None:
        question = "application:get_env(rabbit, consumer_timeout)."
        said = output_of(program, "-q", "eval", question, patience=CTL_PATIENCE)
    if said is None:
        yield note(
            "not known from here",
            "on the broker's machine, as root: rabbitmqctl eval "
            "'application:get_env(rabbit, consumer_timeout).'",
        )
        return
    yield judge_consumer_timeout(said)


def rabbitmqctl() -> str | None:
    """Where it is on this machine."""
    return shutil.which("rabbitmqctl")


def judge_consumer_timeout(said: str) -> Judgement:
    """*said* is ``{ok,MILLISECONDS}``, or ``undefined`` where there is none."""
    found = re.search(r"\{ok,\s*(\d+)\}", said)
    if found is None:
        return ok("RabbitMQ has none" if "undefined" in said else f"{said.strip()!r}")
    seconds = int(found[1]) / 1000
    if seconds >= _DAY:
        return ok(f"{seconds / _DAY:.0f} days, for RabbitMQ as a whole")
    return warning(
        f"while a task runs longer than {seconds / 60:g} minutes, RabbitMQ makes its agent connect "
        "anew again and again; no task is lost or repeated by it",
        f"set consumer_timeout in rabbitmq.conf, or from RabbitMQ {_dotted(_TIMEOUT_BY_POLICY)} on "
        "by the policy that `flow broker rights USER --dispatcher` prints",
    )


def _dotted(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))
