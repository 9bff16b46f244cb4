"""What only a real RabbitMQ shows: refusals, lost connections, forgotten consumers."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pamqp.frame
import pytest
from aiormq import spec

from flow.errors import BrokerRefused, ConfigError, TransportError
from flow.topology import EVENTS, TASKS, QueueSpec, event_queue, task_queue
from flow.transport.amqp import AmqpBroker
from flow.transport.amqp.link import AmqpLink
from flow.transport.port import Publication
from tests import services
from tests.contract.inbox import DEADLINE, Inbox, eventually
from tests.proxy import Proxy

GPU = task_queue("gpu")
Management = Callable[..., bytes]


@pytest.fixture
async def proxy(broker_url: str) -> AsyncIterator[Proxy]:
    async with Proxy.to(broker_url) as running:
        yield running


@pytest.fixture
async def links() -> AsyncIterator[list[AmqpLink]]:
    """Links to be closed with the test."""
    opened: list[AmqpLink] = []
    yield opened
    for link in opened:
        await link.close()


@pytest.fixture
async def link(broker_url: str, links: list[AmqpLink]) -> AmqpLink:
    links.append(await AmqpBroker(broker_url).connect("node1"))
    return links[0]


@pytest.fixture
async def fragile(broker_url: str, proxy: Proxy, links: list[AmqpLink]) -> AmqpLink:
    """A link through ``proxy``."""
    links.append(await AmqpBroker(proxy.through(broker_url)).connect("node1"))
    return links[0]


@pytest.fixture
def user(management_api: Management) -> Iterator[str]:
    """A broker user ``<user>`` with the password ``correct`` and no rights."""
    name = f"user-{secrets.token_hex(4)}"
    management_api("PUT", f"/users/{name}", b'{"password":"correct","tags":""}')
    yield name
    management_api("DELETE", f"/users/{name}")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, which is its own authority, and its key."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "Debian's postgresql brings it"
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=broker"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def vhost_of(url: str) -> str:
    return urlsplit(url).path[1:]


def address(url: str, login: str = "guest") -> str:
    parts = urlsplit(url)
    return f"amqp://{login}@{parts.hostname}:{parts.port}{parts.path}"


async def ended(link: AmqpLink) -> str:
    async with asyncio.timeout(DEADLINE):
        return await link.wait_closed()


# -- connecting ----------------------------------------------------------------------------------


async def test_a_wrong_password_is_refused(broker_url: str) -> None:
    with pytest.raises(BrokerRefused) as caught:
        await AmqpBroker(broker_url.replace(":guest@", ":wr0ng@")).connect("node1")
    assert str(caught.value) == (
        f"broker {address(broker_url)}: login refused: ACCESS_REFUSED - Login was refused using "
        "authentication mechanism PLAIN. For details see the broker logfile."
    )


async def test_an_unknown_virtual_host_is_refused(broker_url: str) -> None:
    with pytest.raises(BrokerRefused) as caught:
        await AmqpBroker(broker_url + "-not").connect("node1")
    assert str(caught.value) == (
        f"broker {address(broker_url)}-not: virtual host '{vhost_of(broker_url)}-not' refused: "
        "it does not exist, is down, or user 'guest' has no permission for it"
    )


async def test_a_user_without_permission_for_the_virtual_host_is_refused(
    broker_url: str, user: str
) -> None:
    with pytest.raises(BrokerRefused, match=f"user '{user}' has no permission for it"):
        await AmqpBroker(broker_url.replace("guest:guest", f"{user}:correct")).connect("node1")


async def test_a_port_where_nobody_listens_cannot_be_reached(free_port: int) -> None:
    with pytest.raises(TransportError) as caught:
        await AmqpBroker(f"amqp://guest:s3cret@127.0.0.1:{free_port}/flow").connect("node1")
    assert type(caught.value) is TransportError
    assert str(caught.value) == (
        f"broker amqp://guest@127.0.0.1:{free_port}/flow: cannot be reached: connection refused"
    )


async def test_a_host_name_that_does_not_exist_cannot_be_reached() -> None:
    with pytest.raises(TransportError, match=r"broker amqp://broker\.invalid:5672/: cannot be"):
        await AmqpBroker("amqp://broker.invalid/").connect("node1")


async def test_a_server_that_does_not_answer_cannot_be_reached(
    broker_url: str, proxy: Proxy
) -> None:
    proxy.hold()
    url = proxy.through(broker_url)
    with pytest.raises(TransportError) as caught:
        await AmqpBroker(url, connect_limit=0.3, close_limit=0.5).connect("node1")
    assert str(caught.value) == (f"broker {address(url)}: cannot be reached: no answer in 0.3 s")


async def test_a_server_that_does_not_speak_amqp_cannot_be_reached() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportError, match=f"127.0.0.1:{port}/: cannot be reached: "):
            await AmqpBroker(f"amqp://127.0.0.1:{port}/", connect_limit=2).connect("node1")


async def test_a_connection_attempt_can_be_given_up(broker_url: str, proxy: Proxy) -> None:
    proxy.hold()
    attempt = AmqpBroker(proxy.through(broker_url), close_limit=0.5).connect("node1")
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(attempt, 0.2)
    proxy.cut()

    async def left() -> int:
        return len(asyncio.all_tasks() - before)

    await eventually(left, lambda count: count == 0)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://guest:s3cret@host/", "scheme 'redis'"),
        ("amqp:///flow", "no host"),
        ("amqp://guest:s3cret@host:port/", "something that is not a URL"),
    ],
)
def test_a_url_that_is_not_amqp_is_a_config_error(url: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AmqpBroker(url)
    assert str(caught.value) == (
        f"broker url: expected amqp://user:password@host:port/vhost, got {text}"
    )


async def test_no_text_shows_the_password(
    broker_url: str, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = []
    for url in (
        broker_url.replace("guest:guest", f"{user}:s3cret"),
        broker_url.replace("guest:guest", f"{user}:s3cret") + "-not?heartbeat=5",
        "amqp://guest:s3cret@127.0.0.1:1/",
        "amqps://guest:s3cret@127.0.0.1:1/",
    ):
        broker = AmqpBroker(url)
        with pytest.raises(TransportError) as caught:
            await broker.connect("node1")
        texts += [str(caught.value), repr(broker), broker.address]
    with pytest.raises(ConfigError) as wrong:
        AmqpBroker("amqps://guest:s3cret@127.0.0.1:1/?cafile=/none")
    texts.append(str(wrong.value))
    assert "s3cret" not in "\n".join([*texts, caplog.text])


async def test_the_connections_are_named_in_the_brokers_listing(
    broker_url: str, link: AmqpLink, management_api: Management
) -> None:
    async def names() -> set[str]:
        answer = management_api("GET", f"/vhosts/{vhost_of(broker_url)}/connections")
        return {each.get("user_provided_name", "") for each in json.loads(answer)}

    await eventually(names, lambda found: found == {"node1 consume", "node1 publish"})
    assert not link.blocked


async def test_tls_works_with_the_certificate_authority_named_in_the_url(
    broker_url: str, certificate: tuple[Path, Path], links: list[AmqpLink]
) -> None:
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with Proxy.to(broker_url, tls=context) as proxy:
        url = proxy.through(broker_url).replace("amqp://", "amqps://")
        with pytest.raises(TransportError, match="certificate is signed by nobody"):
            await AmqpBroker(url).connect("node1")
        link = await AmqpBroker(f"{url}?cafile={cert}").connect("node1")
        links.append(link)
        await link.declare(GPU)
        await (await link.outlet()).publish(Publication(TASKS, "gpu", b"x" * 1_000_000))
        await link.close()


@pytest.mark.parametrize("seconds", ["0", "61", "1.5", "soon"])
def test_a_heartbeat_in_the_url_that_is_none_is_refused(seconds: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AmqpBroker(f"amqp://guest:s3cret@localhost/?heartbeat={seconds}")
    assert str(caught.value) == (
        "broker url: expected heartbeat to be a whole number of seconds from 1 to 60, "
        f"got {seconds!r}"
    )


async def test_the_heartbeat_is_that_of_the_url(
    broker_url: str, links: list[AmqpLink], management_api: Management
) -> None:
    links.append(await AmqpBroker(f"{broker_url}?heartbeat=7").connect("node1"))

    async def heartbeats() -> set[int]:
        answer = management_api("GET", f"/vhosts/{vhost_of(broker_url)}/connections")
        return {each.get("timeout") for each in json.loads(answer)}

    await eventually(heartbeats, lambda found: found == {7})


# -- losing the connection -----------------------------------------------------------------------


async def test_a_cut_connection_ends_the_link_and_fails_what_is_unconfirmed(
    fragile: AmqpLink, proxy: Proxy
) -> None:
    await fragile.declare(GPU)
    outlet = await fragile.outlet()
    proxy.hold()
    publishing = [outlet.publish(Publication(TASKS, "gpu", b"{}")) for _ in range(600)]
    waiting = asyncio.create_task(fragile.ready_count(GPU.name))
    await asyncio.sleep(0)
    proxy.cut()
    reason = await ended(fragile)
    assert reason in {
        "connection lost: Connection reset by peer",
        "connection lost: the other side closed it",
    }
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert {str(each) for each in outcomes} == {f"closed before the broker confirmed: {reason}"}
    assert {type(each) for each in outcomes} == {TransportError}
    with pytest.raises(TransportError, match=r"^look at queue flow\.q\.gpu: connection lost: "):
        await waiting


async def test_a_half_open_connection_is_noticed(
    broker_url: str, proxy: Proxy, links: list[AmqpLink]
) -> None:
    link = await AmqpBroker(proxy.through(broker_url), heartbeat=1).connect("node1")
    links.append(link)
    await link.declare(GPU)
    outlet = await link.outlet()
    await link.consume(GPU.name, Inbox(), prefetch=1)
    proxy.hold()
    publishing = outlet.publish(Publication(TASKS, "gpu", b"{}"))
    waiting = asyncio.create_task(link.ready_count(GPU.name))
    assert await ended(link) == "connection lost: no sign of life from the broker"
    with pytest.raises(TransportError, match="no sign of life"):
        await publishing
    with pytest.raises(TransportError, match="no sign of life"):
        await waiting


async def test_a_call_that_the_broker_does_not_answer_ends(
    broker_url: str, proxy: Proxy, links: list[AmqpLink]
) -> None:
    broker = AmqpBroker(proxy.through(broker_url), call_limit=0.2, close_limit=0.5)
    links.append(await broker.connect("node1"))
    proxy.hold()
    with pytest.raises(TransportError) as caught:
        await links[0].declare(GPU)
    assert str(caught.value) == "declare queue flow.q.gpu: the broker does not answer"


async def test_closing_a_link_to_a_silent_broker_takes_a_few_seconds_at_most(
    broker_url: str, proxy: Proxy, links: list[AmqpLink]
) -> None:
    broker = AmqpBroker(proxy.through(broker_url), heartbeat=60, close_limit=1)
    link = await broker.connect("node1")
    links.append(link)
    await link.declare(GPU)
    outlet = await link.outlet()
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=100)
    await outlet.publish(Publication(TASKS, "gpu", b"{}"))
    [delivery] = await inbox.take(1)
    proxy.hold()
    for _ in range(20):  # more than the buffers between here and the broker take
        outlet.publish(Publication(TASKS, "gpu", b"x" * 1_000_000))
    delivery.ack()
    async with asyncio.timeout(DEADLINE):
        await link.close()
    assert await link.wait_closed() == "closed by this side"


async def test_the_broker_closing_one_connection_ends_the_whole_link(
    broker_url: str, link: AmqpLink, management_api: Management
) -> None:
    path = f"/vhosts/{vhost_of(broker_url)}/connections"

    async def publish_connections() -> list[str]:
        connections = json.loads(management_api("GET", path))
        named = [each for each in connections if "user_provided_name" in each]
        return [each["name"] for each in named if each["user_provided_name"] == "node1 publish"]

    [name] = await eventually(publish_connections, lambda found: len(found) == 1)
    management_api("DELETE", f"/connections/{name.replace(' ', '%20').replace('>', '%3E')}")
    assert await ended(link) == (
        "connection closed by the broker: CONNECTION_FORCED - Closed via management plugin"
    )

    async def connections() -> int:
        return len(json.loads(management_api("GET", path)))

    await eventually(connections, lambda count: count == 0)


async def test_rabbitmqctl_closing_the_connections_ends_the_link(
    broker_url: str, link: AmqpLink, rabbitmqctl: Callable[..., str]
) -> None:
    rabbitmqctl("close_all_connections", "--vhost", vhost_of(broker_url), "for a test")
    assert await ended(link) == ("connection closed by the broker: CONNECTION_FORCED - for a test")


async def test_blocking_by_the_broker_shows_until_it_unblocks(
    fragile: AmqpLink, proxy: Proxy
) -> None:
    # A real alarm would block the other tests on this node, so the proxy says it.
    async def blocked() -> bool:
        return fragile.blocked

    proxy.inject(pamqp.frame.marshal(spec.Connection.Blocked("low on memory"), 0))
    await eventually(blocked, lambda state: state)
    proxy.inject(pamqp.frame.marshal(spec.Connection.Unblocked(), 0))
    await eventually(blocked, lambda state: not state)


# -- alarms --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_broker() -> Iterator[services.RabbitMQ]:
    """A node that tests may drive into an alarm."""
    with services.home() as parent, services.running(parent, services.RabbitMQ) as (node,):
        assert isinstance(node, services.RabbitMQ)
        yield node


@pytest.fixture
def own_rabbitmqctl(own_broker: services.RabbitMQ) -> Callable[..., None]:
    program = own_broker.home.parent / "rabbitmqctl"
    own_broker.write_rabbitmqctl(program)

    def call(*arguments: str) -> None:
        subprocess.run([program, "--quiet", *arguments], check=True, capture_output=True)

    return call


@pytest.mark.parametrize(
    ("alarm", "end", "reason"),
    [
        (
            ("set_vm_memory_high_watermark", "0.0001"),
            ("set_vm_memory_high_watermark", "0.4"),
            "low on memory",
        ),
        (
            ("set_disk_free_limit", "1000000GB"),
            ("set_disk_free_limit", "50MB"),
            "low on disk",
        ),
    ],
)
async def test_an_alarm_is_proven_second_by_second_and_never_too_much(
    own_broker: services.RabbitMQ,
    own_rabbitmqctl: Callable[..., None],
    links: list[AmqpLink],
    caplog: pytest.LogCaptureFixture,
    alarm: tuple[str, ...],
    end: tuple[str, ...],
    reason: str,
) -> None:
    url = own_broker.variables["FLOW_TEST_BROKER_URL"]
    link = await AmqpBroker(url, heartbeat=1).connect("node1")
    links.append(link)
    await link.declare(GPU)
    outlet = await link.outlet()
    proofs: list[tuple[float, float]] = []
    link.watch_blocked(lambda proven: proofs.append((time.monotonic(), proven)))
    try:
        await asyncio.to_thread(own_rabbitmqctl, *alarm)

        async def holds_back() -> bool:
            return outlet.publish(Publication(TASKS, "gpu", b"{}")).done() or link.blocked

        # Blocking begins with the first message that is published under the alarm.
        asked = time.monotonic()
        await eventually(holds_back, lambda state: state)
        held = outlet.publish(Publication(TASKS, "gpu", b"held back"))
        assert proofs[0][1] == 0.0

        async def proven() -> float:
            return proofs[-1][1]

        await eventually(proven, lambda seconds: seconds >= 2.0)
        assert [seconds for _, seconds in proofs] == sorted({seconds for _, seconds in proofs})
        assert all(seconds <= moment - asked for moment, seconds in proofs)
        assert not held.done()
    finally:
        await asyncio.to_thread(own_rabbitmqctl, *end)
    async with asyncio.timeout(DEADLINE):
        await held
    assert not link.blocked
    assert [record.message for record in caplog.records if record.name.startswith("flow.")] == [
        f"the broker has an alarm ({reason}) and takes no messages until it is over",
        "the broker's alarm is over: it takes messages again",
    ]
    count = len(proofs)
    await outlet.publish(Publication(TASKS, "gpu", b"{}"))
    assert len(proofs) == count


# -- losing a consumer ---------------------------------------------------------------------------


async def test_deleting_a_queue_under_its_consumer_ends_the_link(
    broker_url: str, link: AmqpLink, management_api: Management
) -> None:
    await link.declare(GPU)
    await link.consume(GPU.name, Inbox(), prefetch=1)
    management_api("DELETE", f"/queues/{vhost_of(broker_url)}/{GPU.name}")
    assert await ended(link) == "broker cancelled consumer of flow.q.gpu"


async def test_a_consumer_that_the_broker_forgot_is_noticed(
    broker_url: str, links: list[AmqpLink]
) -> None:
    link = await AmqpBroker(broker_url, check_interval=0.05).connect("node1")
    links.append(link)
    await link.declare(GPU)
    await link.consume(GPU.name, Inbox(), prefetch=1)
    [consumer] = link._consumers
    channel = consumer._channel
    [tag] = channel.consumers
    await channel.basic_cancel(tag)
    assert await ended(link) == "broker has no consumer of flow.q.gpu any more"


async def test_a_consumer_that_is_passed_over_is_noticed_beside_one_that_is_not(
    broker_url: str, links: list[AmqpLink]
) -> None:
    deaf = await AmqpBroker(broker_url, check_interval=0.05).connect("node1")
    other = await AmqpBroker(broker_url).connect("node2")
    links += [deaf, other]
    await deaf.declare(GPU)
    await deaf.consume(GPU.name, Inbox(), prefetch=1)
    [consumer] = deaf._consumers
    [tag] = consumer._channel.consumers
    busy = Inbox()
    await other.consume(GPU.name, busy, prefetch=1)
    await consumer._channel.basic_cancel(tag)
    outlet = await other.outlet()
    await outlet.publish(Publication(TASKS, "gpu", b"{}"))
    await busy.take(1)
    for _ in range(2):
        await outlet.publish(Publication(TASKS, "gpu", b"{}"))
    assert await ended(deaf) == (
        "broker delivers nothing from flow.q.gpu, although messages wait there"
    )


async def test_a_full_consumer_and_a_stand_in_are_not_taken_for_passed_over(
    broker_url: str, links: list[AmqpLink]
) -> None:
    links += [await AmqpBroker(broker_url, check_interval=0.02).connect("node1") for _ in range(2)]
    leader, standby = links
    for link in links:
        await link.declare(event_queue())
    inboxes = [Inbox(), Inbox()]
    for link, inbox in zip(links, inboxes, strict=True):
        await link.consume(EVENTS, inbox, prefetch=1)
    outlet = await leader.outlet()
    for _ in range(3):
        await outlet.publish(Publication(EVENTS, "node1.started", b"{}"))
    [held] = await inboxes[0].take(1)
    looks = 0

    async def many_looks() -> int:
        nonlocal looks
        assert await standby.ready_count(EVENTS) == 2
        looks += 1
        return looks

    await eventually(many_looks, lambda count: count == 20)
    held.ack()
    await inboxes[0].take(1)
    assert not inboxes[1].all


async def test_checking_the_consumers_does_not_disturb_them(
    broker_url: str, links: list[AmqpLink]
) -> None:
    link = await AmqpBroker(broker_url, check_interval=0.001).connect("node1")
    links.append(link)
    await link.declare(GPU)
    inbox = Inbox()
    # Looks in such a hurry could take an acknowledgement on its way for a place that is free.
    await link.consume(GPU.name, inbox, prefetch=100)
    outlet = await link.outlet()
    for number in range(100):
        await outlet.publish(Publication(TASKS, "gpu", b"%d" % number))
        assert await inbox.bodies(1) == [b"%d" % number]


async def test_a_consumer_that_takes_long_to_begin_is_not_missed(
    broker_url: str, proxy: Proxy, links: list[AmqpLink]
) -> None:
    link = await AmqpBroker(proxy.through(broker_url), check_interval=0.01).connect("node1")
    links.append(link)
    await link.declare(GPU)
    proxy.delay = 0.05
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=1)
    await (await link.outlet()).publish(Publication(TASKS, "gpu", b"{}"))
    assert await inbox.bodies(1) == [b"{}"]


# -- refusals on a live link ---------------------------------------------------------------------


async def test_a_queue_that_refuses_a_message_is_told_apart_from_no_queue(link: AmqpLink) -> None:
    arguments: dict[str, str | int | bool] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await link.declare(QueueSpec("tiny", TASKS, "tiny", arguments=arguments))
    outlet = await link.outlet()
    publishing = [outlet.publish(Publication(TASKS, "tiny", b"{}")) for _ in range(3)]
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert outcomes[0] is None
    assert type(outcomes[2]) is TransportError
    assert str(outcomes[2]) == (
        "message to flow.tasks with key 'tiny': a queue refused it; is it full?"
    )


async def test_publishing_to_a_missing_exchange_ends_the_link(
    broker_url: str, link: AmqpLink
) -> None:
    outlet = await link.outlet()
    lost = outlet.publish(Publication("flow.nothing", "gpu", b"{}"))
    assert await ended(link) == (
        "publish channel closed by the broker: NOT_FOUND - no exchange 'flow.nothing' in vhost "
        f"'{vhost_of(broker_url)}'"
    )
    with pytest.raises(TransportError, match=r"no exchange 'flow\.nothing'"):
        await lost


async def test_a_user_without_the_right_to_declare_is_refused_and_the_link_lives(
    broker_url: str, user: str, link: AmqpLink, links: list[AmqpLink], management_api: Management
) -> None:
    await link.declare(GPU)
    rights = b'{"configure":"^$","write":".*","read":".*"}'
    management_api("PUT", f"/permissions/{vhost_of(broker_url)}/{user}", rights)
    url = broker_url.replace("guest:guest", f"{user}:correct")
    limited = await AmqpBroker(url).connect("node1")
    links.append(limited)
    with pytest.raises(BrokerRefused, match=r"^declare queue flow.q.gpu: ACCESS_REFUSED - "):
        await limited.declare(GPU)
    inbox = Inbox()
    await limited.consume(GPU.name, inbox, prefetch=1)
    await (await limited.outlet()).publish(Publication(TASKS, "gpu", b"{}"))
    [delivery] = await inbox.take(1)
    assert delivery.user_id == user
