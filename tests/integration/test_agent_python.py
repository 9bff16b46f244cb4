"""Python tasks and templates on a real agent over a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from flow import wire
from tests.integration.agent_harness import AgentProcess
from tests.integration.test_agent_shipping import Shop
from tests.runtime_world import make_other_python
from tests.waiting import eventually

MakeAgent = Callable[..., AgentProcess]

DAG_FILE = """
from flow import DAG, FailTask, SkipTask, task

@task
def numbers(): ...

@task(task_id="t1")
def total(xs, ti):
    print("adding", xs)
    ti.xcom_push("count", len(xs))
    return sum(xs)

@task(task_id="t2")
def slow(ti):
    return ti.xcom_pull("numbers")

@task(task_id="t3")
def never():
    raise FailTask("no such customer")

with DAG("dag"):
    total(numbers()); slow(); never()
"""
MARK = {"__flow__": {"task_id": "numbers", "key": "return_value"}}


class Books(Shop):
    """Answers what tasks ask, as long as ``reading``."""

    def __init__(self, broker_url: str) -> None:
        super().__init__(broker_url)
        self.reading = True

    def _answer(self, event: wire.Event) -> None:
        if not isinstance(event, wire.Ask):
            super()._answer(event)
        elif self.reading:
            values = tuple(
                (msgspec.Raw(b"[1,2,3]"),) if wanted.name == "numbers" else ()
                for wanted in event.wanted
            )
            answer = wire.Answer(session=event.session, request=event.request, values=values)
            self.reply(event.agent, answer)

    async def python(self, *args: Any, **arguments: Any) -> int:
        """Submit the Python task of the next number, from DAG_FILE."""
        given = {"args": list(args), "kwargs": {}, "meaning": "value", "push": True}
        return await self.submit(
            "",
            operator="python",
            arguments={"multiple_outputs": False, **given, **arguments},
            bundle=self.bundle(**{"x.py": DAG_FILE}),
            dag_file="x.py",
        )


@pytest_asyncio.fixture
async def books(broker_url: str) -> AsyncIterator[Books]:
    async with Books(broker_url) as made:
        yield made


@pytest_asyncio.fixture
async def make_agent(broker_url: str, tmp_path: Path) -> AsyncIterator[MakeAgent]:
    made: list[AgentProcess] = []

    def make(**env: str) -> AgentProcess:
        made.append(AgentProcess(tmp_path, broker_url, **env))
        return made[-1]

    yield make
    for agent in made:
        if agent.process is not None:
            await agent.kill()


async def test_a_python_task_asks_runs_and_pushes(make_agent: MakeAgent, books: Books) -> None:
    agent = await make_agent().start()
    number = await books.python(MARK)
    result = await books.result(number)
    assert (result.state, result.reason) == ("success", "")
    assert {key: bytes(raw) for key, raw in result.xcom.items()} == {
        "count": b"3",
        "return_value": b"6",
    }
    (ask,) = books.of(wire.Ask)
    assert ask.token == result.token
    await eventually(lambda: books.log_ended(number))
    assert books.text(number) == "adding [1, 2, 3]\n"
    await eventually(lambda: not list((agent.state / "work").iterdir()))


async def test_a_request_waits_for_an_absent_dispatcher_and_does_not_fail(
    make_agent: MakeAgent, books: Books
) -> None:
    await make_agent(FLOW_LEASE_HEARTBEAT_INTERVAL="0.5").start()
    await books.python()  # t1 lacks its argument
    number = await books.python()
    books.reading = False
    await eventually(lambda: len(books.of(wire.Ask)) >= 2)
    assert books.of(wire.Finished, task_instance_id=number) == []
    books.reading = True
    result = await books.result(number)
    assert (result.state, bytes(result.xcom["return_value"])) == ("success", b"[1,2,3]")
    assert len({ask.request for ask in books.of(wire.Ask)}) == 1


async def test_how_a_python_task_fails(make_agent: MakeAgent, books: Books) -> None:
    await make_agent().start()
    first, _, third = [await books.python() for _ in range(3)]
    result = await books.result(first)
    assert (result.state, result.exit_code, result.final) == ("failed", 1, False)
    assert result.reason == (
        "x.py:0: DAG 'dag', task 't1': TypeError: missing a required argument: 'xs'"
    )
    result = await books.result(third)
    assert (result.state, result.reason, result.final) == ("failed", "no such customer", True)


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        (
            "/opt/none/bin/python",
            (
                "cannot start: task 't1': expected a Python interpreter on this node, got "
                "'/opt/none/bin/python', which is none that can be run; install it, or change "
                "[agent] python"
            ),
        ),
        (
            "/bin/true",
            (
                "its process ended with exit code 0 and without a result; does it call os._exit, "
                "or is its interpreter no Python?"
            ),
        ),
    ],
)
async def test_an_interpreter_that_is_none_is_named(
    make_agent: MakeAgent, books: Books, python: str, reason: str
) -> None:
    await make_agent(FLOW_AGENT_PYTHON=python).start()
    result = await books.result(await books.python(MARK))
    assert (result.state, result.reason) == ("failed", reason)


async def test_a_command_with_templates_runs_though_the_tasks_python_is_another(
    make_agent: MakeAgent, books: Books, tmp_path: Path
) -> None:
    python = make_other_python(tmp_path / "venv")
    await make_agent(FLOW_AGENT_PYTHON=str(python)).start()
    number = await books.submit(
        "echo {{ ds }} {{ ti.xcom_pull('numbers') }} $A; exit 3",
        arguments={"env": {"A": "{{ run_id }}"}, "templated": True},
        logical_date="2025-03-01T00:00:00+00:00",
    )
    result = await books.result(number)
    assert (result.state, result.reason) == ("failed", "exit code 3")
    await eventually(lambda: books.log_ended(number))
    assert books.text(number) == "2025-03-01 [1, 2, 3] run\n"


async def test_an_empty_task_succeeds_without_a_process_or_a_bundle(
    make_agent: MakeAgent, books: Books
) -> None:
    await make_agent().start()
    number = await books.submit("", operator="empty", arguments={}, bundle="b" * 64)
    assert (await books.result(number)).state == "success"
    await eventually(lambda: books.log_ended(number))
    assert not books.of(wire.Started)
    assert not books.of(wire.PiecesWanted)
