"""The socket at which a running task asks, spoken to with the runtime's own client."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agent.core.events import Asked
from agent.taskserver import TaskServer
from flow import wire
from flow.runtime import client
from flow.runtime.client import Refused
from tests.waiting import eventually

WANTED = [{"kind": "xcom", "name": "a", "key": "k"}, {"kind": "variable", "name": "v"}]


class Agent:
    """A server, and answers in the place of the dispatcher's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[Asked] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.answer: Callable[[Asked], wire.Answer | None] = lambda _: None
        self.server = TaskServer(self._post, self._spawn)

    @property
    def path(self) -> Path:
        return self.folder / "socket"

    def _post(self, event: Asked) -> None:
        self.asked.append(event)
        if (answer := self.answer(event)) is not None:
            self.server.answer(event.request, answer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.ensure_future(work))

    async def ask(self, wanted: list[dict[str, str]]) -> list[list[Any]]:
        return await asyncio.to_thread(client.ask, str(self.path), wanted)


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    # Longer than the address of a socket may be.
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    made = Agent(folder)
    made.server.open(11, made.path)
    yield made
    made.server.close(11)
    await asyncio.gather(*made.tasks)


def found(event: Asked, *values: bytes | None) -> wire.Answer:
    raws = tuple(() if value is None else (msgspec.Raw(value),) for value in values)
    return wire.Answer(session=1, request=event.request, values=raws)


async def test_a_request_reaches_the_core_and_its_answer_the_task(agent: Agent) -> None:
    agent.answer = lambda event: found(event, b'{"x": [1, null]}', None)
    assert await agent.ask(WANTED) == [[{"x": [1, None]}], []]
    (asked,) = agent.asked
    assert asked.token == 11
    assert asked.wanted == (
        wire.Wanted(kind="xcom", name="a", key="k"),
        wire.Wanted(kind="variable", name="v"),
    )


async def test_what_did_not_fit_into_an_answer_is_asked_for_again(agent: Agent) -> None:
    agent.answer = lambda event: found(event, b"1")
    assert await agent.ask(WANTED * 2) == [[1], [1], [1], [1]]
    assert [len(asked.wanted) for asked in agent.asked] == [4, 3, 2, 1]
    assert len({asked.request for asked in agent.asked}) == 4


async def test_a_refusal_is_an_error_with_its_reason(agent: Agent) -> None:
    agent.answer = lambda event: wire.Answer(session=1, request=event.request, error="it is over")
    with pytest.raises(Refused, match=r"^it is over$"):
        await agent.ask(WANTED)


async def test_a_request_waits_for_its_answer_as_long_as_it_takes(agent: Agent) -> None:
    asking = asyncio.ensure_future(agent.ask(WANTED[:1]))
    await eventually(lambda: bool(agent.asked))
    assert not asking.done()
    agent.server.answer(agent.asked[0].request, found(agent.asked[0], b'"late"'))
    assert await asking == [["late"]]


async def test_an_answer_that_nobody_waits_for_is_dropped(agent: Agent) -> None:
    agent.server.answer(99, wire.Answer(session=1, request=99))


async def test_a_task_that_dies_while_it_waits_leaves_nothing_behind(agent: Agent) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        await asyncio.to_thread(client._connect, connection, str(agent.path))
        connection.sendall(json.dumps({"wanted": WANTED}).encode() + b"\n")
        await eventually(lambda: bool(agent.asked))
    await eventually(lambda: not agent.server._waiting)


@pytest.mark.parametrize(
    "line", [b"hello\n", b"{}\n", b'{"wanted": [{"kind": "secret", "name": "a"}]}\n', b"\n"]
)
async def test_a_line_that_is_no_request_is_answered_with_why(agent: Agent, line: bytes) -> None:
    def speak() -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            client._connect(connection, str(agent.path))
            connection.sendall(line)
            return json.loads(connection.makefile("rb").readline())

    answer = await asyncio.to_thread(speak)
    assert answer["error"].startswith("request: expected what flow's runtime asks: ")
    assert agent.asked == []


async def test_after_the_task_has_ended_nobody_listens(agent: Agent) -> None:
    agent.server.close(11)
    agent.server.close(11)
    await asyncio.gather(*agent.tasks)
    with pytest.raises(ConnectionRefusedError):
        await agent.ask(WANTED)
