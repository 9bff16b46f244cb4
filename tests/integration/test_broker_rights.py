"""What an agent's broker user may not do: tried on the real broker, which must be what says no."""

from __future__ import annotations

import json
import secrets
import shlex
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from flow import topology, wire
from flow.brokerrights import agent_rights, dispatcher_rights
from flow.cli.main import main
from flow.cli.rights import revocation
from flow.errors import MessageError
from flow.senders import Senders
from flow.topology import CONTROL, EVENTS, LOGS, TASKS
from tests.integration import broker_users
from tests.integration.agent_harness import AgentProcess, FakeDispatcher
from tests.integration.broker_users import Management, channel, declare
from tests.waiting import eventually, until

FORBIDDEN = 403
OWN_QUEUE = "flow.q.gpu"
OTHER_QUEUE = "flow.q.cpu"
OTHER_CONTROL = "flow.control.gpu2.0123ab"
QUORUM = {"x-queue-type": "quorum"}


@dataclass
class Site:
    """A virtual host as flow's processes make it, and agent ``me`` of queue gpu."""

    url: str
    me: str
    mine: str
    """Its URL."""

    @property
    def own_control(self) -> str:
        return f"flow.control.{self.me}.0123ab"


@pytest.fixture
def site(broker_url: str, management_api: Management) -> Iterator[Site]:
    me = f"gpu1-{secrets.token_hex(4)}"
    with channel(broker_url) as admin:
        declare(admin, topology.event_queue())
        declare(admin, topology.log_queue())
        for queue in ("gpu", "cpu"):
            declare(admin, topology.task_queue(queue))
        # Not exclusive here, as it really is: then its owner, too, could not be told from others.
        admin.exchange_declare(CONTROL, exchange_type="topic", durable=True)
        admin.queue_declare(OTHER_CONTROL, durable=True)
        admin.queue_bind(OTHER_CONTROL, CONTROL, "agent.gpu2")
        rights = agent_rights(me, ["gpu"])
        with broker_users.user(management_api, broker_url, me, rights) as mine:
            yield Site(broker_url, me, mine)


Operation = Callable[[BlockingChannel, Site], object]


def publish(exchange: str, key: str, **properties: object) -> Operation:
    def operation(opened: BlockingChannel, _: Site) -> None:
        wanted = pika.BasicProperties(**properties)
        opened.basic_publish(exchange, key, b"{}", wanted, mandatory=False)

    return operation


def own(opened: BlockingChannel, site: Site, **arguments: object) -> str:
    """Declare the control queue that everybody in these tests may declare."""
    opened.queue_declare(site.own_control, exclusive=True, arguments=arguments)
    return site.own_control


def bind(exchange: str, key: str) -> Operation:
    """Bind one's own control queue."""

    def operation(opened: BlockingChannel, site: Site) -> None:
        opened.queue_bind(own(opened, site), exchange, key)

    return operation


def consume(queue: str) -> Operation:
    return lambda opened, _: opened.basic_consume(queue, lambda *_: None)


def get(queue: str) -> Operation:
    return lambda opened, _: opened.basic_get(queue)


def delete(exchange: str) -> Operation:
    return lambda opened, _: opened.exchange_delete(exchange)


def own_exchange(opened: BlockingChannel, site: Site, **arguments: object) -> str:
    """Of a name that its rights cover: RabbitMQ has one set of names for queues and exchanges."""
    name = f"flow.control.{site.me}.eee"
    opened.exchange_declare(name, exchange_type="topic", auto_delete=True, arguments=arguments)
    return name


def bind_exchange(source: str, key: str) -> Operation:
    def operation(opened: BlockingChannel, site: Site) -> None:
        opened.exchange_bind(own_exchange(opened, site), source, key)

    return operation


REFUSED: dict[str, Operation] = {
    # -- publishing
    "publish a task to its own queue": publish(TASKS, "gpu"),
    "publish a task to another queue": publish(TASKS, "cpu"),
    "publish to its queue by the default exchange": publish("", OWN_QUEUE),
    "publish to another queue by the default exchange": publish("", OTHER_QUEUE),
    "publish to the events queue by the default exchange": publish("", EVENTS),
    "publish to the log queue by the default exchange": publish("", LOGS),
    "publish to another's control queue by the default exchange": publish("", OTHER_CONTROL),
    "reply to another agent": publish(CONTROL, "agent.gpu2"),
    "reply to itself": lambda opened, site: publish(CONTROL, f"agent.{site.me}")(opened, site),
    "publish to all agents": publish(CONTROL, "all"),
    "publish another agent's event": publish(EVENTS, "gpu2.finished"),
    "publish an event of an agent whose name is the beginning of its own": publish(
        EVENTS, "gpu1.finished"
    ),
    "publish an event of an agent whose name begins with its own": (
        lambda opened, site: publish(EVENTS, f"{site.me}-2.finished")(opened, site)
    ),
    "publish an event with a word before its name": (
        lambda opened, site: publish(EVENTS, f"gpu2.{site.me}.finished")(opened, site)
    ),
    "publish an event with a word too many": (
        lambda opened, site: publish(EVENTS, f"{site.me}.finished.x")(opened, site)
    ),
    "publish the dispatcher's marker": publish(EVENTS, topology.MARKER_KEY),
    "publish the dispatcher's probe": publish(EVENTS, topology.PROBE_KEY),
    "ring the command's bell": publish(EVENTS, topology.WAKE_KEY),
    "write to another agent's log": publish(LOGS, "gpu2.dag.task"),
    "write to a log under no agent's name": publish(LOGS, "dag.task"),
    "publish to amq.topic": publish("amq.topic", "x"),
    "publish to amq.direct": publish("amq.direct", "x"),
    "publish to amq.fanout": publish("amq.fanout", "x"),
    "publish to amq.headers": publish("amq.headers", "x"),
    # -- reading
    "consume another queue": consume(OTHER_QUEUE),
    "get from another queue": get(OTHER_QUEUE),
    "purge another queue": lambda opened, _: opened.queue_purge(OTHER_QUEUE),
    "consume the events": consume(EVENTS),
    "purge the events": lambda opened, _: opened.queue_purge(EVENTS),
    "consume the logs": consume(LOGS),
    "get from the logs": get(LOGS),
    "purge the logs": lambda opened, _: opened.queue_purge(LOGS),
    "consume another agent's control queue": consume(OTHER_CONTROL),
    "get from another agent's control queue": get(OTHER_CONTROL),
    "purge another agent's control queue": lambda opened, _: opened.queue_purge(OTHER_CONTROL),
    # -- making and unmaking
    "declare its own task queue": lambda opened, _: opened.queue_declare(
        OWN_QUEUE, durable=True, arguments=QUORUM
    ),
    "declare a new task queue": lambda opened, _: opened.queue_declare(
        "flow.q.new", durable=True, arguments=QUORUM
    ),
    "declare the events queue": lambda opened, _: opened.queue_declare(
        EVENTS, durable=True, arguments=topology.event_queue().arguments
    ),
    "declare a control queue of another agent": lambda opened, _: opened.queue_declare(
        "flow.control.gpu2.ffffff", exclusive=True
    ),
    "declare a control queue of an agent whose name begins with its own": (
        lambda opened, site: opened.queue_declare(f"flow.control.{site.me}-2.f", exclusive=True)
    ),
    "declare a queue of any other name": lambda opened, _: opened.queue_declare(
        "mine", exclusive=True
    ),
    "declare a queue that the broker names": lambda opened, _: opened.queue_declare(
        "", exclusive=True
    ),
    "declare a follower's queue": lambda opened, _: opened.queue_declare(
        "flow.logs.follow.0123", exclusive=True
    ),
    "delete its own task queue": lambda opened, _: opened.queue_delete(OWN_QUEUE),
    "delete another queue": lambda opened, _: opened.queue_delete(OTHER_QUEUE),
    "delete the events queue": lambda opened, _: opened.queue_delete(EVENTS),
    "delete the log queue": lambda opened, _: opened.queue_delete(LOGS),
    "delete another agent's control queue": lambda opened, _: opened.queue_delete(OTHER_CONTROL),
    "declare the exchange of the tasks": lambda opened, _: opened.exchange_declare(
        TASKS, exchange_type="topic", durable=True
    ),
    "declare a new exchange": lambda opened, _: opened.exchange_declare("mine"),
    **{f"delete {exchange}": delete(exchange) for exchange in topology.EXCHANGES},
    # -- binding
    "bind its control queue to its own tasks": bind(TASKS, "gpu"),
    "bind its control queue to all tasks": bind(TASKS, "#"),
    "bind its control queue to all events": bind(EVENTS, "#"),
    "bind its control queue to another agent's events": bind(EVENTS, "gpu2.*"),
    "bind its control queue to all logs": bind(LOGS, "#"),
    "bind its control queue to what another agent is told": bind(CONTROL, "agent.gpu2"),
    "bind its control queue to what all agents are told": bind(CONTROL, "agent.*"),
    "bind its control queue to all that is said": bind(CONTROL, "#"),
    "bind its control queue to amq.topic": bind("amq.topic", "#"),
    "bind its task queue to its own key": lambda opened, _: opened.queue_bind(
        OWN_QUEUE, TASKS, "gpu"
    ),
    "bind its task queue to another's key": lambda opened, _: opened.queue_bind(
        OWN_QUEUE, TASKS, "cpu"
    ),
    "unbind its task queue": lambda opened, _: opened.queue_unbind(OWN_QUEUE, TASKS, "gpu"),
    "unbind another queue": lambda opened, _: opened.queue_unbind(OTHER_QUEUE, TASKS, "cpu"),
    "unbind the events queue": lambda opened, _: opened.queue_unbind(EVENTS, EVENTS, "#"),
    "unbind another agent's control queue": lambda opened, _: opened.queue_unbind(
        OTHER_CONTROL, CONTROL, "agent.gpu2"
    ),
    "bind an exchange of its own to all tasks": bind_exchange(TASKS, "#"),
    "bind an exchange of its own to all events": bind_exchange(EVENTS, "#"),
    "bind an exchange of its own to all logs": bind_exchange(LOGS, "#"),
    "bind an exchange of its own to another's control": bind_exchange(CONTROL, "agent.gpu2"),
    "bind the exchange of the tasks to that of the logs": (
        lambda opened, _: opened.exchange_bind(TASKS, LOGS, "#")
    ),
    "bind the exchange of the control to that of the events": (
        lambda opened, _: opened.exchange_bind(CONTROL, EVENTS, "#")
    ),
    "bind the events to what agents are told": (
        lambda opened, _: opened.exchange_bind(EVENTS, CONTROL, "#")
    ),
    # -- roundabout ways
    "have a queue dead-letter to the tasks": lambda opened, site: own(
        opened, site, **{"x-dead-letter-exchange": TASKS, "x-dead-letter-routing-key": "cpu"}
    ),
    "have a queue dead-letter to another agent": lambda opened, site: own(
        opened,
        site,
        **{"x-dead-letter-exchange": CONTROL, "x-dead-letter-routing-key": "agent.gpu2"},
    ),
    "have a queue dead-letter to the default exchange": lambda opened, site: own(
        opened, site, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": OTHER_QUEUE}
    ),
    "have an exchange pass on what it cannot route to the tasks": (
        lambda opened, site: own_exchange(opened, site, **{"alternate-exchange": TASKS})
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_broker_refuses_an_agent_to(site: Site, what: str) -> None:
    operation = REFUSED[what]
    with channel(site.mine) as opened, pytest.raises(ChannelClosedByBroker) as caught:
        operation(opened, site)
    assert (caught.value.reply_code, caught.value.reply_text[:14]) == (FORBIDDEN, "ACCESS_REFUSED")
    # It was the right that was missing: somebody who has all of them may do the same.
    with channel(site.url) as opened:
        operation(opened, site)


@pytest.mark.parametrize("user_id", ["gpu2", "guest", "flow-dispatcher"])
def test_the_broker_refuses_a_message_that_states_another_user(site: Site, user_id: str) -> None:
    forged = pika.BasicProperties(user_id=user_id)
    with channel(site.mine) as opened, pytest.raises(ChannelClosedByBroker) as caught:
        opened.basic_publish(EVENTS, f"{site.me}.hello", b"{}", forged)
    assert (caught.value.reply_code, caught.value.reply_text) == (
        406,
        (
            f"PRECONDITION_FAILED - user_id property set to '{user_id}' but authenticated user was "
            f"'{site.me}'"
        ),
    )


def test_the_broker_refuses_an_agent_in_another_virtual_host(site: Site) -> None:
    elsewhere = site.mine.rpartition("/")[0] + "/%2F"
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError, match="refused for user"):
        pika.BlockingConnection(pika.URLParameters(elsewhere))


def test_a_copy_under_a_second_key_does_not_make_a_message_another_agents(site: Site) -> None:
    # RabbitMQ 3.10 holds only the first key to topic permissions (sender-selected distribution).
    copied = pika.BasicProperties(user_id=site.me, headers={"CC": ["gpu2.finished"]})
    with channel(site.mine) as opened:
        opened.basic_publish(EVENTS, f"{site.me}.hello", b"{}", copied)
    with channel(site.url) as admin:
        ((key, user),) = events(admin)
    assert (key, user) == (f"{site.me}.hello", site.me)


def events(admin: BlockingChannel) -> list[tuple[str, str | None]]:
    """Key and user of what waits in the events queue."""
    count = admin.queue_declare(EVENTS, passive=True).method.message_count
    found = []
    for method, properties, _ in admin.consume(EVENTS, inactivity_timeout=5):
        found.append((method.routing_key, properties.user_id))
        if len(found) >= count:
            break
    return found


FORGED = "gpu2.finished"


def forge_by_an_exchange(opened: BlockingChannel, site: Site, user_id: str | None) -> None:
    name = own_exchange(opened, site)
    opened.exchange_bind(EVENTS, name, "#")
    opened.basic_publish(name, FORGED, b"{}", pika.BasicProperties(user_id=user_id))


def forge_by_a_dead_letter(opened: BlockingChannel, site: Site, user_id: str | None) -> None:
    rule = {"x-dead-letter-exchange": EVENTS, "x-dead-letter-routing-key": FORGED}
    queue = own(opened, site, **rule, **{"x-message-ttl": 0})
    name = own_exchange(opened, site)
    opened.queue_bind(queue, name, "#")
    opened.basic_publish(name, "x", b"{}", pika.BasicProperties(user_id=user_id))


@pytest.mark.parametrize("forge", [forge_by_an_exchange, forge_by_a_dead_letter])
@pytest.mark.parametrize("states", [True, False], ids=["states its user", "states none"])
def test_what_permissions_cannot_stop_shows_by_its_user(
    site: Site, forge: Callable[[BlockingChannel, Site, str | None], None], states: bool
) -> None:
    # Why dispatcher.verify_users belongs to these rights (flow.brokerrights). If this test fails
    # with a newer RabbitMQ since nothing arrives, that is good news.
    user = site.me if states else None
    with channel(site.mine) as opened:
        forge(opened, site, user)
        with channel(site.url) as admin:
            ((key, said),) = waiting_events(admin)
    assert (key, said) == (FORGED, user)
    with pytest.raises(MessageError, match=f"expected the broker user 'gpu2', got {user!r}"):
        Senders(verify=True).check_agent("gpu2", key=key, user=said)


@pytest.mark.parametrize("forge", [forge_by_an_exchange, forge_by_a_dead_letter])
def test_not_even_a_forged_message_can_state_another_user(
    site: Site, forge: Callable[[BlockingChannel, Site, str | None], None]
) -> None:
    with channel(site.mine) as opened, pytest.raises(ChannelClosedByBroker) as caught:
        forge(opened, site, "gpu2")
    assert caught.value.reply_code == 406


def waiting_events(admin: BlockingChannel) -> list[tuple[str, str | None]]:
    """The same once there is one: the broker forwards in its own time."""
    until(lambda: bool(admin.queue_declare(EVENTS, passive=True).method.message_count))
    return events(admin)


# -- what is left to it --------------------------------------------------------------------------


@pytest.fixture
def boss(broker_url: str, management_api: Management) -> Iterator[str]:
    """The URL of a dispatcher's user."""
    name = f"flow-dispatcher-{secrets.token_hex(4)}"
    with broker_users.user(management_api, broker_url, name, dispatcher_rights()) as url:
        yield url


@pytest.fixture
def me(broker_url: str, management_api: Management) -> Iterator[tuple[str, str]]:
    """Name and URL of an agent of queue q1."""
    name = f"gpu1-{secrets.token_hex(4)}"
    with broker_users.user(management_api, broker_url, name, agent_rights(name, ["q1"])) as url:
        yield name, url


@pytest.fixture
async def agent(me: tuple[str, str], tmp_path: Path) -> AsyncIterator[AgentProcess]:
    process = AgentProcess(tmp_path, me[1], name=me[0])
    yield process
    await process.kill()


async def test_an_agent_and_a_dispatcher_with_these_rights_run_a_task_with_its_output(
    boss: str, agent: AgentProcess
) -> None:
    async with FakeDispatcher(boss) as dispatcher:
        await agent.start()
        number = await dispatcher.submit("echo out; echo err >&2; sleep 0.2; echo end")
        assert (await dispatcher.result(number)).state == "success"
        await eventually(lambda: dispatcher.log_ended(number))
        assert dispatcher.text(number) == "out\nerr\nend\n"
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0
        await dispatcher.heard(wire.Goodbye)
    assert dispatcher.users == {agent.name}


async def test_an_agent_that_comes_before_everything_waits_and_then_works(
    boss: str, agent: AgentProcess
) -> None:
    await agent.start()
    await eventually(lambda: "waiting for the broker: declare queue " in agent.stderr)
    async with FakeDispatcher(boss) as dispatcher:
        number = await dispatcher.submit("true")
        assert (await dispatcher.result(number)).state == "success"


async def test_an_agent_waits_for_a_queue_that_it_may_not_make(
    broker_url: str, boss: str, me: tuple[str, str], agent: AgentProcess, management_api: Management
) -> None:
    vhost = broker_users.vhost_of(broker_url)
    rights = agent_rights(me[0], ["q1", "q2"])
    broker_users.grant(management_api, vhost, me[0], rights)
    async with FakeDispatcher(boss) as dispatcher:
        await agent.start("--queue", "q2")
        await eventually(lambda: "to make what is missing: queue q2" in agent.stderr)
        first = await dispatcher.submit("true")
        assert (await dispatcher.result(first)).state == "success"
        await dispatcher.make("q2")
        second = await dispatcher.submit("true", queue="q2")
        assert (await dispatcher.result(second)).state == "success"


async def test_a_queue_that_is_refused_keeps_an_agent_from_no_other_and_is_served_once_granted(
    broker_url: str,
    boss: str,
    me: tuple[str, str],
    agent: AgentProcess,
    management_api: Management,
) -> None:
    async with FakeDispatcher(boss) as dispatcher:
        await dispatcher.make("q2")
        await agent.start("--queue", "q2")
        refused = "refused, consume from flow.q.q2: ACCESS_REFUSED"
        await eventually(lambda: refused in agent.stderr)
        for _ in range(3):
            number = await dispatcher.submit("true")
            assert (await dispatcher.result(number)).state == "success"
        assert agent.stderr.count("ACCESS_REFUSED") == 1
        assert agent.stderr.count("connected; serving") == 1
        assert f"`flow broker rights {me[0]} --queue q1 --queue q2`" in agent.stderr
        second = await dispatcher.submit("true", queue="q2")
        vhost = broker_users.vhost_of(broker_url)
        broker_users.grant(management_api, vhost, me[0], agent_rights(me[0], ["q1", "q2"]))
        assert (await dispatcher.result(second, within=30)).state == "success"


async def test_a_deleted_user_is_out_at_once_and_its_agent_stays_out(
    boss: str, agent: AgentProcess, rabbitmqctl: Callable[..., str]
) -> None:
    async with FakeDispatcher(boss) as dispatcher:
        await agent.start()
        await dispatcher.heard(wire.Heartbeat)
        delete, *rest = revocation(agent.name)
        rabbitmqctl(*delete)
        closed = f"CONNECTION_FORCED - user '{agent.name}' is deleted"
        await eventually(lambda: closed in agent.stderr)
        await eventually(lambda: "login refused" in agent.stderr)
        for line in rest:
            rabbitmqctl(*line)
    listed = rabbitmqctl("list_connections", "user", "--quiet")
    assert agent.name not in listed


def rights_at(api: Management, vhost: str, user: str) -> list[dict[str, str]]:
    """What RabbitMQ says of them."""
    found = json.loads(api("GET", f"/permissions/{vhost}/{user}"))
    topics = json.loads(api("GET", f"/topic-permissions/{vhost}/{user}"))
    return [found, *sorted(topics, key=lambda each: str(each["exchange"]))]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["broker", "rights", *arguments]) == 0
    return capsys.readouterr().out


def test_what_the_command_prints_gives_these_rights_either_way(
    site: Site,
    management_api: Management,
    rabbitmqctl: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    vhost = broker_users.vhost_of(site.url)
    wanted = rights_at(management_api, vhost, site.me)
    command = [site.me, "--queue", "gpu", "--vhost", vhost]
    for output in ("commands", "json"):
        management_api("DELETE", f"/permissions/{vhost}/{site.me}")
        management_api("DELETE", f"/topic-permissions/{vhost}/{site.me}")
        text = printed(capsys, *command, "--output", output)
        if output == "json":
            management_api("POST", "/definitions", text.encode())
        else:
            for line in text.splitlines():
                rabbitmqctl(*shlex.split(line)[1:])
        assert rights_at(management_api, vhost, site.me) == wanted
