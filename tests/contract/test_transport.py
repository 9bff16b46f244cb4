"""The contract of :mod:`flow.transport.port`, for every implementation of it."""

from __future__ import annotations

import asyncio
import os

import pytest

from flow.errors import BrokerRefused, TransportError, Unroutable
from flow.topology import (
    CONTROL,
    EVENTS,
    LOGS,
    TASKS,
    QueueSpec,
    control_queue,
    event_queue,
    log_queue,
    task_queue,
)
from flow.transport.port import Link, Outlet, Publication
from tests.contract.conftest import Connect
from tests.contract.inbox import DEADLINE, Inbox, eventually

GPU = task_queue("gpu")
EVENT_QUEUE = event_queue()


def event(number: int, *, expiration: float | None = None) -> Publication:
    return Publication(EVENTS, "node1.started", b"%d" % number, expiration=expiration)


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def task(body: bytes = b"{}") -> Publication:
    return Publication(TASKS, "gpu", body)


async def put(outlet: Outlet, *publications: Publication) -> None:
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(outlet.publish(each) for each in publications))


async def filled(link: Link, queue: QueueSpec, count: int) -> None:
    """Declare *queue* (of tasks for gpu) and put messages 1 to *count* into it."""
    await link.declare(queue)
    await put(await link.outlet(), *(task(body) for body in numbers(1, count)))


async def ready(link: Link, queue: QueueSpec, count: int | None) -> None:
    await eventually(lambda: link.ready_count(queue.name), lambda found: found == count)


# -- routing -------------------------------------------------------------------------------------


async def test_a_task_reaches_the_queue_of_exactly_its_key(connect: Connect) -> None:
    link = await connect()
    queues = [task_queue(name) for name in ("gpu", "gpu.a100", "gpuu")]
    for queue in queues:
        await link.declare(queue)
    await put(await link.outlet(), Publication(TASKS, "gpu", b"{}"))
    await ready(link, queues[0], 1)
    assert [await link.ready_count(queue.name) for queue in queues[1:]] == [0, 0]


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("#", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#.c", "a.c", True),
        ("a.b", "a.b", True),
        ("a.b", "a.bc", False),
    ],
)
async def test_a_star_is_one_word_and_a_hash_any_number_of_words(
    connect: Connect, pattern: str, key: str, matches: bool
) -> None:
    link = await connect()
    await link.declare(QueueSpec("follower", CONTROL, pattern, durable=False, exclusive=True))
    publishing = (await link.outlet()).publish(Publication(CONTROL, key, b"{}"))
    if matches:
        await publishing
    else:
        with pytest.raises(Unroutable):
            await publishing


async def test_every_queue_that_matches_gets_its_own_copy(connect: Connect) -> None:
    link = await connect()
    inboxes = [Inbox(), Inbox()]
    for number, inbox in enumerate(inboxes):
        await link.declare(control_queue("node1", f"copy{number}"))
        await link.consume(f"flow.control.node1.copy{number}", inbox, prefetch=1)
    await put(await link.outlet(), Publication(CONTROL, "agent.node1", b"{}"))
    assert [await inbox.bodies(1) for inbox in inboxes] == [[b"{}"], [b"{}"]]


async def test_a_mandatory_message_that_fits_no_queue_is_unroutable(connect: Connect) -> None:
    link = await connect()
    await link.declare(GPU)
    outlet = await link.outlet()
    with pytest.raises(Unroutable) as caught:
        await outlet.publish(Publication(TASKS, "gpuu", b"{}"))
    assert str(caught.value) == (
        "message to flow.tasks with key 'gpuu': no queue is bound under this key"
    )
    await put(outlet, task())


async def test_a_message_that_is_not_mandatory_may_fit_no_queue(connect: Connect) -> None:
    link = await connect()
    await link.declare(GPU)
    await put(await link.outlet(), Publication(TASKS, "gpuu", b"{}", mandatory=False))


async def test_only_the_unroutable_ones_of_many_messages_in_flight_fail(connect: Connect) -> None:
    link = await connect()
    await link.declare(GPU)
    outlet = await link.outlet()
    keys = ["gpu" if number % 3 else "nowhere" for number in range(300)]
    publishing = [outlet.publish(Publication(TASKS, key, b"{}")) for key in keys]
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert [isinstance(each, Unroutable) for each in outcomes] == [key != "gpu" for key in keys]
    await ready(link, GPU, 200)


# -- publishing ----------------------------------------------------------------------------------


async def test_a_confirmed_message_is_in_its_queue(connect: Connect) -> None:
    link, other = await connect(), await connect()
    await filled(link, GPU, 1)
    await ready(other, GPU, 1)


async def test_publishes_of_one_outlet_arrive_in_call_order(connect: Connect) -> None:
    link = await connect()
    await link.declare(EVENT_QUEUE)
    inbox = Inbox()
    await link.consume(EVENT_QUEUE.name, inbox, prefetch=100)
    outlet = await link.outlet()
    publishing = []
    for number in range(1, 1001):
        publishing.append(outlet.publish(event(number)))
        if number % 77 == 0:
            await asyncio.sleep(0)  # a burst ends here, and the next begins while it is under way
    received = [body for _ in range(10) for body in await inbox.bodies(100)]
    assert received == numbers(1, 1000)
    await asyncio.gather(*publishing)


async def test_headers_arrive_with_the_message(connect: Connect) -> None:
    link = await connect()
    await link.declare(GPU)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=1)
    headers: dict[str, str | int] = {
        "run_id": "manual ü",
        "try_number": 3,
        "task_instance_id": 2**40,
    }
    await put(await link.outlet(), Publication(TASKS, "gpu", b"{}", headers=headers))
    [delivery] = await inbox.take(1)
    assert dict(delivery.headers) == headers
    assert delivery.routing_key == "gpu"
    assert not delivery.redelivered


async def test_the_publisher_is_named_to_the_receiver(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 1)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=1)
    assert [delivery.user_id for delivery in await inbox.take(1)] == [link.user] == ["guest"]


@pytest.mark.parametrize("size", [0, 1, 131_063, 131_064, 131_065, 1024 * 1024])
async def test_bodies_arrive_unchanged(connect: Connect, size: int) -> None:
    body = os.urandom(size)
    link = await connect()
    await link.declare(GPU)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=1)
    await put(await link.outlet(), task(body))
    assert await inbox.bodies(1) == [body]


async def test_a_message_that_has_expired_is_not_delivered(connect: Connect) -> None:
    link = await connect()
    await link.declare(EVENT_QUEUE)
    outlet = await link.outlet()
    await put(outlet, event(1, expiration=0.05), event(2, expiration=600))
    await ready(link, EVENT_QUEUE, 1)
    inbox = Inbox()
    await link.consume(EVENT_QUEUE.name, inbox, prefetch=10)
    assert await inbox.bodies(1) == [b"2"]


async def test_a_routing_key_that_is_too_long_is_a_mistake_of_the_caller(connect: Connect) -> None:
    outlet = await (await connect()).outlet()
    with pytest.raises(ValueError, match="at most 255 bytes"):
        outlet.publish(Publication(TASKS, "ü" * 128, b"{}"))


async def test_nobody_is_called_back_from_within_publish(connect: Connect) -> None:
    link = await connect()
    await link.declare(GPU)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=1)
    publishing = (await link.outlet()).publish(task())
    assert (publishing.done(), inbox.all) == (False, [])
    await publishing
    await inbox.take(1)


# -- consuming -----------------------------------------------------------------------------------


async def test_one_consumer_gets_the_messages_of_a_queue_in_order(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 50)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=7)
    received = [body for _ in range(50) for body in await inbox.bodies(1)]
    assert received == numbers(1, 50)


async def test_no_more_messages_come_than_the_prefetch_allows(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 10)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=3)
    held = await inbox.take(3)
    await ready(link, GPU, 7)
    held[0].ack()
    await inbox.take(1)
    await ready(link, GPU, 6)
    assert inbox.waiting == 0


async def test_each_consumer_has_a_prefetch_of_its_own(connect: Connect) -> None:
    link = await connect()
    queues = [task_queue("a"), task_queue("b")]
    inboxes = [Inbox(), Inbox()]
    outlet = await link.outlet()
    for queue, inbox in zip(queues, inboxes, strict=True):
        await link.declare(queue)
        await put(outlet, *(Publication(TASKS, queue.key, b"{}") for _ in range(5)))
        await link.consume(queue.name, inbox, prefetch=2)
    for queue, inbox in zip(queues, inboxes, strict=True):
        await inbox.take(2)
        await ready(link, queue, 3)


async def test_an_ack_can_settle_everything_before_it(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 6)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=4)
    held = await inbox.take(4)
    held[2].ack(multiple=True)
    await inbox.take(2)
    await link.close()
    again = await connect()
    second = Inbox()
    await again.consume(GPU.name, second, prefetch=10)
    assert await second.bodies(3) == numbers(4, 6)


async def test_acking_twice_in_any_mixture_is_harmless(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 8)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=4)
    one, two, three, four = await inbox.take(4)
    one.ack()
    one.ack()
    three.ack()
    three.ack(multiple=True)  # settles the second, too
    two.ack()
    two.ack(multiple=True)
    four.ack()
    four.ack(multiple=True)
    assert await inbox.bodies(4) == numbers(5, 8)
    await ready(link, GPU, 0)


async def test_an_ack_after_the_link_has_closed_is_harmless(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 1)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=1)
    [delivery] = await inbox.take(1)
    await link.close()
    delivery.ack()
    delivery.ack(multiple=True)
    await ready(await connect(), GPU, 1)


async def test_an_ack_just_before_closing_still_counts(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 20)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=20)
    for delivery in await inbox.take(20):
        delivery.ack()
    await link.close()
    again = await connect()
    await ready(again, GPU, 0)
    await put(await again.outlet(), task(b"last"))
    await again.consume(GPU.name, inbox, prefetch=20)
    assert await inbox.bodies(1) == [b"last"]


async def test_unacknowledged_messages_come_back_in_order_and_first(connect: Connect) -> None:
    link = await connect()
    await filled(link, GPU, 9)
    inbox = Inbox()
    await link.consume(GPU.name, inbox, prefetch=5)
    held = await inbox.take(5)
    held[1].ack()
    await inbox.take(1)
    await link.close()
    again = await connect()
    await ready(again, GPU, 8)
    second = Inbox()
    await again.consume(GPU.name, second, prefetch=10)
    deliveries = await second.take(8)
    assert [delivery.body for delivery in deliveries] == [b"1", *numbers(3, 9)]
    assert [delivery.redelivered for delivery in deliveries] == [True] * 5 + [False] * 3


async def test_two_consumers_never_share_a_message(connect: Connect) -> None:
    links = [await connect("node1"), await connect("node2")]
    await links[0].declare(GPU)
    inboxes = [Inbox(), Inbox()]
    for link, inbox in zip(links, inboxes, strict=True):
        await link.consume(GPU.name, inbox, prefetch=100)
    await put(await links[0].outlet(), *(task(body) for body in numbers(1, 100)))

    async def received() -> list[bytes]:
        return [delivery.body for inbox in inboxes for delivery in inbox.all]

    bodies = await eventually(received, lambda found: len(found) >= 100)
    assert sorted(bodies) == sorted(numbers(1, 100))
    assert all(inbox.all for inbox in inboxes)


async def test_only_one_of_two_consumers_is_active_where_one_is_asked_for(
    connect: Connect,
) -> None:
    first, second = await connect("first"), await connect("second")
    leader, standby = Inbox(), Inbox()
    await first.declare(EVENT_QUEUE)
    await second.declare(EVENT_QUEUE)
    await first.consume(EVENT_QUEUE.name, leader, prefetch=4)
    await second.consume(EVENT_QUEUE.name, standby, prefetch=4)
    outlet = await second.outlet()
    await put(outlet, *(event(number) for number in range(1, 7)))
    held = await leader.take(4)
    held[0].ack()
    await leader.take(1)
    assert not standby.all

    await first.close()
    deliveries = await standby.take(4)
    assert [delivery.body for delivery in deliveries] == numbers(2, 5)
    assert [delivery.redelivered for delivery in deliveries] == [True] * 4
    for delivery in deliveries:
        delivery.ack()
    assert await standby.bodies(1) == [b"6"]


# -- queues --------------------------------------------------------------------------------------


async def test_declaring_a_queue_again_changes_nothing(connect: Connect) -> None:
    link, other = await connect(), await connect()
    await filled(link, GPU, 2)
    await link.declare(GPU)
    await other.declare(GPU)
    await ready(other, GPU, 2)


async def test_declaring_a_queue_with_other_arguments_is_refused_and_the_link_lives(
    connect: Connect,
) -> None:
    link = await connect()
    await link.declare(log_queue(1000))
    with pytest.raises(BrokerRefused, match=r"^declare queue flow.logs: .*x-max-length-bytes"):
        await link.declare(log_queue(2000))
    await filled(link, GPU, 1)
    await ready(link, GPU, 1)


async def test_a_bounded_queue_drops_its_oldest_messages(connect: Connect) -> None:
    link = await connect()
    queue = log_queue(100)
    await link.declare(queue)
    outlet = await link.outlet()
    for letter in b"abcde":
        await put(outlet, Publication(LOGS, "dag.task", bytes([letter]) * 40))
    await ready(link, queue, 2)
    inbox = Inbox()
    await link.consume(queue.name, inbox, prefetch=5)
    assert await inbox.bodies(2) == [b"d" * 40, b"e" * 40]


async def test_an_exclusive_queue_ends_with_its_link_and_then_messages_are_unroutable(
    connect: Connect,
) -> None:
    owner, other = await connect(), await connect()
    queue = control_queue("node1", "x1")
    await owner.declare(queue)
    outlet = await other.outlet()
    message = Publication(CONTROL, "agent.node1", b"{}")
    await put(outlet, message)
    await ready(owner, queue, 1)
    await owner.close()
    await ready(other, queue, None)
    with pytest.raises(Unroutable):
        await outlet.publish(message)


async def test_another_link_may_not_use_an_exclusive_queue(connect: Connect) -> None:
    owner, other = await connect(), await connect()
    queue = control_queue("node1", "x1")
    await owner.declare(queue)
    with pytest.raises(BrokerRefused):
        await other.consume(queue.name, Inbox(), prefetch=1)
    await other.declare(GPU)


async def test_ready_count_counts_what_waits_and_knows_a_missing_queue(connect: Connect) -> None:
    link = await connect()
    assert await link.ready_count("flow.q.gpu") is None
    await filled(link, GPU, 3)
    await ready(link, GPU, 3)
    await link.consume(GPU.name, Inbox(), prefetch=2)
    await ready(link, GPU, 1)


async def test_consuming_from_a_missing_queue_fails_and_the_link_lives(connect: Connect) -> None:
    link = await connect()
    with pytest.raises(TransportError, match=r"^consume from flow\.q\.gpu: "):
        await link.consume("flow.q.gpu", Inbox(), prefetch=1)
    await filled(link, GPU, 1)


# -- the end of a link ---------------------------------------------------------------------------


async def test_unconfirmed_publishes_fail_when_the_link_closes(connect: Connect) -> None:
    link = await connect()
    await link.declare(GPU)
    outlet = await link.outlet()
    publishing = [outlet.publish(task()) for _ in range(2000)]
    await link.close()
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    failed = [each for each in outcomes if each is not None]
    assert failed
    assert {type(each) for each in failed} == {TransportError}
    assert {str(each) for each in failed} == {
        "closed before the broker confirmed: closed by this side"
    }


async def test_publishing_on_a_closed_link_fails(connect: Connect) -> None:
    link = await connect()
    await link.declare(GPU)
    outlet = await link.outlet()
    await link.close()
    with pytest.raises(TransportError, match="closed by this side"):
        await outlet.publish(task())


async def test_every_call_on_a_closed_link_fails(connect: Connect) -> None:
    link = await connect()
    await link.close()
    for call in (
        link.declare(GPU),
        link.outlet(),
        link.ready_count(GPU.name),
        link.consume(GPU.name, Inbox(), prefetch=1),
    ):
        with pytest.raises(TransportError, match="link is closed: closed by this side"):
            await call
    assert not link.blocked


async def test_an_outlet_asked_for_while_the_link_closes_does_not_hang(connect: Connect) -> None:
    for steps in range(0, 30, 3):
        link = await connect()
        await link.declare(GPU)
        opening = asyncio.create_task(link.outlet())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing = asyncio.create_task(link.close())
        with pytest.raises(TransportError, match="closed by this side"):
            await (await opening).publish(task())
        await closing


async def test_waiting_for_the_end_of_a_link_gives_the_reason(connect: Connect) -> None:
    link = await connect()
    ends = [asyncio.create_task(link.wait_closed()) for _ in range(2)]
    await link.close()
    await link.close()
    assert [await end for end in ends] == ["closed by this side"] * 2
    assert await link.wait_closed() == "closed by this side"


async def test_closing_from_several_places_at_once_is_harmless(connect: Connect) -> None:
    link = await connect()
    await asyncio.gather(*(link.close() for _ in range(3)))


async def test_giving_up_waiting_for_the_end_does_not_end_the_link(connect: Connect) -> None:
    link = await connect()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.wait_closed(), 0.01)
    await filled(link, GPU, 1)


async def test_a_receiver_that_raises_ends_the_link_and_the_message_comes_back(
    connect: Connect,
) -> None:
    link, other = await connect(), await connect()
    await link.declare(GPU)
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

    def receiver(_: object) -> None:
        raise ZeroDivisionError

    await link.consume(GPU.name, receiver, prefetch=1)
    await put(await other.outlet(), task())
    assert await link.wait_closed() == "receiver of flow.q.gpu failed: ZeroDivisionError()"
    assert len(seen) == 1
    await ready(other, GPU, 1)
