"""Output on its way: cut, batched, bounded, repeated."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable

import pytest

from agent import output
from agent.output import CHUNK, KEEP, LogSender, TaskLog
from flow import wire
from flow.transport.port import Publication
from tests.unit.agent_world import task
from tests.waiting import eventually


class FakeOutlet:
    """Takes what is published; confirms at once, or when told."""

    def __init__(self, *, prompt: bool = True) -> None:
        self.prompt = prompt
        self.chunks: list[wire.LogChunk] = []
        self.publications: list[Publication] = []
        self.open: deque[asyncio.Future[None]] = deque()

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        chunk = wire.decode(publication.body)
        assert isinstance(chunk, wire.LogChunk)
        self.chunks.append(chunk)
        self.publications.append(publication)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.prompt:
            confirmed.set_result(None)
        else:
            self.open.append(confirmed)
        return confirmed

    def confirm(self, count: int = 1) -> None:
        for _ in range(min(count, len(self.open))):
            self.open.popleft().set_result(None)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def ended(self) -> bool:
        return any(chunk.last for chunk in self.chunks)


def begin(
    sender: LogSender, limit: int = 10**9, ti: int = 1
) -> tuple[TaskLog, Callable[[bytes], None]]:
    """A log and a function that writes into its pipe; b"" closes it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    log = sender.open(task(ti), 11, limit)
    log.read_from(read)

    def put(data: bytes) -> None:
        if data:
            os.write(write, data)
        else:
            os.close(write)
            log.complete()

    return log, put


async def test_text_goes_out_at_once_and_the_end_is_marked() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    sender.attach(outlet)
    log, put = begin(sender)
    put(b"hello\n")
    await eventually(lambda: outlet.text == "hello\n")
    put(b"")
    await log.handed_over
    assert [(c.offset, c.text, c.last) for c in outlet.chunks] == [
        (0, "hello\n", False),
        (6, "", True),
    ]
    publication = outlet.publications[0]
    assert (publication.exchange, publication.key) == ("flow.logs", "node1.dag.task1")
    assert publication.headers == {"run_id": "run", "task_instance_id": 1, "try_number": 1}
    assert not publication.mandatory


async def test_the_end_waits_for_the_task_even_if_it_has_closed_its_output() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    sender.attach(outlet)
    read, write = os.pipe()
    log = sender.open(task(), 11, 1000)
    log.read_from(read)
    os.close(write)
    await eventually(lambda: log.due_in(0.0) is None)
    log.note("cannot start: no such directory")
    log.complete()
    await log.handed_over
    assert outlet.text == "[flow: cannot start: no such directory]\n"
    assert [chunk.last for chunk in outlet.chunks][-1]


async def test_characters_are_never_cut_and_bad_bytes_are_replaced() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    sender.attach(outlet)
    log, put = begin(sender)
    euro = "€".encode()
    put(euro[:1])
    put(euro[1:] + b"\0\xff" + "é".encode()[:1])
    put(b"")
    await log.handed_over
    assert outlet.text == "€\ufffd\ufffd\ufffd"
    offset = 0
    for chunk in outlet.chunks:
        assert chunk.offset == offset
        offset += len(chunk.text.encode())


async def test_chunks_are_bounded_and_offsets_count_bytes() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    sender.attach(outlet)
    log, put = begin(sender)
    text = "ä€" * 10_000
    data = text.encode()
    for start in range(0, len(data), 7_001):
        put(data[start : start + 7_001])
        await asyncio.sleep(0)
    put(b"")
    await log.handed_over
    assert outlet.text == text
    assert max(len(chunk.text.encode()) for chunk in outlet.chunks) <= CHUNK


async def test_many_small_writes_are_batched() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    sender.attach(outlet)
    log, put = begin(sender)
    for number in range(200):
        put(b"%d\n" % number)
        await asyncio.sleep(0)
    put(b"")
    await log.handed_over
    assert len(outlet.chunks) < 20
    assert outlet.text.splitlines() == [str(number) for number in range(200)]


async def test_output_beyond_the_limit_is_thrown_away_with_one_line() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    sender.attach(outlet)
    log, put = begin(sender, limit=10)
    for _ in range(5):
        put(b"123456")
        await asyncio.sleep(0)
    put(b"")
    await log.handed_over
    assert outlet.text == "1234561234[flow: output beyond 10 bytes is not kept]\n"


async def test_output_of_exactly_the_limit_needs_no_line() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    sender.attach(outlet)
    log, put = begin(sender, limit=6)
    put(b"123456")
    put(b"")
    await log.handed_over
    assert outlet.text == "123456"


async def test_a_full_window_stops_the_reading_and_a_confirm_resumes_it() -> None:
    loop = asyncio.get_running_loop()
    sender, outlet = LogSender(loop, "node1", window=2), FakeOutlet(prompt=False)
    sender.attach(outlet)
    read, write = os.pipe()
    os.set_blocking(write, False)
    log = sender.open(task(), 11, 10**9)
    log.read_from(read)
    written = 0

    def fill() -> None:
        nonlocal written
        try:
            written += os.write(write, b"x" * 65536)
        except BlockingIOError:
            return

    for _ in range(200):
        fill()
        await asyncio.sleep(0)
    assert len(outlet.chunks) == 2
    assert written < 1024 * 1024, "the writer feels it"
    before = written
    for _ in range(20):
        outlet.confirm(2)
        await asyncio.sleep(0.001)
        fill()
    assert written > before
    os.close(write)
    log.complete()
    outlet.prompt = True
    outlet.confirm(10)
    await log.handed_over
    assert len(outlet.text) == written


async def test_tasks_share_the_window_in_turn() -> None:
    sender, outlet = (
        LogSender(asyncio.get_running_loop(), "node1", window=2),
        FakeOutlet(prompt=False),
    )
    sender.attach(outlet)
    logs = [begin(sender, ti=ti) for ti in (1, 2)]
    for _, put in logs:
        put(b"x" * 60_000)
    await eventually(lambda: len(outlet.chunks) == 2)
    for _ in range(4):
        outlet.confirm()
        await asyncio.sleep(0.06)
    assert {chunk.task_instance_id for chunk in outlet.chunks[:3]} == {1, 2}
    outlet.prompt = True
    for log, put in logs:
        put(b"")
        outlet.confirm(9)
        await log.handed_over


async def test_without_a_broker_the_task_is_not_held_up_and_the_newest_output_is_kept() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet()
    log, put = begin(sender)
    total = 0
    while total < 3 * KEEP:
        put(b"%07d\n" % (total // 8) * 1000)
        total += 8000
        await asyncio.sleep(0)
    put(b"the end\n")
    put(b"")
    sender.attach(outlet)
    await log.handed_over
    first, _, rest = outlet.text.partition("\n")
    assert first.startswith("[flow: ")
    assert first.endswith(" bytes of output are missing: the broker was away]")
    assert rest.endswith("the end\n")
    missing = int(first.split()[1])
    assert missing + len(rest) == total + len("the end\n")
    assert len(rest) <= KEEP + 2 * 8000, "what came after the broker did is kept as well"


async def test_a_broker_that_confirms_nothing_counts_as_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "STALLED", 0.2)
    sender, outlet = (
        LogSender(asyncio.get_running_loop(), "node1", window=1),
        FakeOutlet(prompt=False),
    )
    sender.attach(outlet)
    read, write = os.pipe()
    os.set_blocking(write, False)
    log = sender.open(task(), 11, 10**9)
    log.read_from(read)
    written = 0

    def flows_on() -> bool:
        nonlocal written
        with contextlib.suppress(BlockingIOError):
            written += os.write(write, b"x" * 65536)
        return written > 3 * KEEP

    await eventually(flows_on)
    os.close(write)
    log.abandon()


async def test_unconfirmed_chunks_are_repeated_after_a_reconnect_at_their_old_offsets() -> None:
    sender, first = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet(prompt=False)
    sender.attach(first)
    log, put = begin(sender)
    put(b"one\n")
    await eventually(lambda: len(first.chunks) == 1)
    put(b"two\n")
    await eventually(lambda: len(first.chunks) == 2)
    sender.detach()
    for confirmed in first.open:
        confirmed.cancel()
    second = FakeOutlet()
    sender.attach(second)
    put(b"three\n")
    put(b"")
    await log.handed_over
    assert second.chunks[:2] == first.chunks
    assert second.text == "one\ntwo\nthree\n"


async def test_finishing_waits_for_confirms_within_bounds() -> None:
    sender, outlet = LogSender(asyncio.get_running_loop(), "node1"), FakeOutlet(prompt=False)
    sender.attach(outlet)
    log, put = begin(sender)
    put(b"text")
    put(b"")
    await log.handed_over
    finishing = asyncio.ensure_future(sender.finish(20.0))
    await asyncio.sleep(0.01)
    assert not finishing.done()
    outlet.confirm(9)
    await asyncio.wait_for(finishing, 5.0)
