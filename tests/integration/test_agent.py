"""The agent as a process on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pamqp.frame
import pytest
import pytest_asyncio
from aiormq import spec
from pamqp.heartbeat import Heartbeat

from agent.processes import marked
from flow import wire
from tests.integration.agent_harness import SHORT_LEASE, AgentProcess, FakeDispatcher
from tests.proxy import Proxy
from tests.waiting import eventually

MakeAgent = Callable[..., AgentProcess]


@pytest_asyncio.fixture
async def dispatcher(broker_url: str) -> AsyncIterator[FakeDispatcher]:
    async with FakeDispatcher(broker_url) as made:
        yield made


@pytest_asyncio.fixture
async def make_agent(broker_url: str, tmp_path: Path) -> AsyncIterator[MakeAgent]:
    made: list[AgentProcess] = []

    def make(url: str = broker_url, **env: str) -> AgentProcess:
        made.append(AgentProcess(tmp_path, url, **env))
        return made[-1]

    yield make
    for agent in made:
        if agent.process is not None:
            await agent.kill()


def signal_keeper(agent: AgentProcess, number: int) -> None:
    (keeper,) = [found for found in marked(agent.state_id) if found.keeper]
    os.kill(keeper.process.pid, number)


def ledger_lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# -- one task ----------------------------------------------------------------------------------


async def test_a_task_runs_and_its_result_log_and_delivery_are_settled(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    agent = await make_agent().start()
    hello = await dispatcher.heard(wire.Hello)
    assert (hello.agent, hello.session, hello.queues, hello.slots) == ("node1", 1, ("q1",), 4)
    number = await dispatcher.submit("echo héllo; echo oops >&2")
    result = await dispatcher.result(number)
    assert (result.state, result.exit_code, result.reason) == ("success", 0, "")
    assert result.started_at <= result.ended_at <= time.time()
    await eventually(lambda: dispatcher.log_ended(number))
    assert dispatcher.text(number) == "héllo\noops\n"
    await eventually(lambda: not list((agent.state / "spool").iterdir()))
    await eventually(lambda: not list((agent.state / "work").iterdir()))
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert await dispatcher.waiting() == 0


@pytest.mark.parametrize(
    ("command", "fields", "reason"),
    [
        ("exit 3", {}, "exit code 3"),
        ("kill -9 $$", {}, "killed by SIGKILL"),
        ("sleep 60", {"execution_timeout": 0.3}, "execution_timeout 0.3 s reached"),
        (":", {"arguments": {"cwd": "/nowhere"}}, "cannot start: "),
        (":", {"arguments": {"command": 5}}, "cannot start: task 't1': arguments of bash"),
    ],
)
async def test_a_failure_says_why(
    make_agent: MakeAgent,
    dispatcher: FakeDispatcher,
    command: str,
    fields: dict[str, Any],
    reason: str,
) -> None:
    await make_agent().start()
    number = await dispatcher.submit(command, **fields)
    result = await dispatcher.result(number)
    assert result.state == "failed"
    assert result.reason.startswith(reason)
    await eventually(lambda: dispatcher.log_ended(number))


async def test_what_this_agent_cannot_run_is_given_back(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    await make_agent().start()
    number = await dispatcher.submit(":", operator="bsh")
    release = await dispatcher.heard(wire.Release)
    assert release.fault
    assert release.reason.startswith("cannot start here: task 't1': expected an operator that")
    await eventually(lambda: dispatcher.log_ended(number))


async def test_a_timeout_ends_the_whole_process_tree(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    agent = await make_agent().start()
    command = "trap '' TERM; setsid bash -c 'trap \"\" TERM; sleep 60' & sleep 60"
    number = await dispatcher.submit(command, execution_timeout=0.5)
    assert (await dispatcher.result(number)).state == "failed"
    assert agent.task_processes() == 0


async def test_a_task_sees_a_clean_environment_and_its_own_facts(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    agent = make_agent(FLOW_AGENT_PASS_ENV="WANTED,FLOW_BROKER_URL", WANTED="yes", HIDDEN="no")
    await agent.start()
    command = "env; echo PWD_IS $PWD; cat /proc/$PPID/environ | tr '\\0' '\\n'"
    number = await dispatcher.submit(command, arguments={"env": {"OWN": "1"}})
    result = await dispatcher.result(number)
    await eventually(lambda: dispatcher.log_ended(number))
    text = dispatcher.text(number)
    for line in ("WANTED=yes", "OWN=1", "FLOW_TASK_ID=t1", "FLOW_TRY_NUMBER=1", "FLOW_QUEUE=q1"):
        assert f"{line}\n" in text
    assert f"FLOW_TOKEN={result.token}\n" in text
    assert f"PWD_IS {agent.state}/work/{result.token}\n" in text
    assert "HIDDEN" not in text
    assert "amqp://" not in text


async def test_output_arrives_while_the_task_runs(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    await make_agent().start()
    gate = tmp_path / "gate"
    number = await dispatcher.submit(f"printf early; while [ ! -e {gate} ]; do sleep 0.05; done")
    await eventually(lambda: dispatcher.text(number) == "early")
    assert not dispatcher.of(wire.Finished)
    gate.touch()
    await dispatcher.result(number)


async def test_a_flood_of_output_is_cut_and_delays_no_heartbeat(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    agent = make_agent(FLOW_AGENT_LOG_MAX_BYTES="300000", **SHORT_LEASE)
    await agent.start()
    number = await dispatcher.submit("timeout 3 yes abcdefghi; exit 0")
    await dispatcher.result(number)
    await eventually(lambda: dispatcher.log_ended(number))
    text = dispatcher.text(number)
    assert text.endswith("[flow: output beyond 300000 bytes is not kept]\n")
    assert len(text) == 300_000 + len("[flow: output beyond 300000 bytes is not kept]\n")
    assert {hello.session for hello in dispatcher.of(wire.Hello)} == {1}
    assert len(dispatcher.of(wire.Heartbeat)) >= 5


# -- messages ----------------------------------------------------------------------------------


async def test_unreadable_messages_are_parked_and_do_not_come_back(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    agent = await make_agent().start()
    await dispatcher.heard(wire.Hello)
    newer = json.dumps({"type": "task", "version": 99}).encode()
    for body in (b"\xff not json", newer, wire.encode(wire.Wake())):
        await dispatcher.publish_task(body)
    number = await dispatcher.submit("true")
    await dispatcher.result(number)
    parked = [json.loads(path.read_text()) for path in sorted((agent.state / "parked").iterdir())]
    assert [note["key"] for note in parked] == ["q1"] * 3
    assert "upgrade the receiver first" in parked[1]["reason"]
    assert "expected a task, got a Wake" in parked[2]["reason"]
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert await dispatcher.waiting() == 0


async def test_an_agent_that_cannot_read_the_dispatcher_takes_nothing_until_it_can(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    agent = await make_agent().start()
    hello = await dispatcher.heard(wire.Hello)
    await eventually(lambda: "connected; serving q1" in agent.stderr)
    told = wire.Configure(session=hello.session, incarnation=hello.incarnation, terms=wire.Terms())
    dispatcher.reply("node1", msgspec.structs.replace(told, version=2))
    text = "it gets messages of version 2 and reads 1; upgrade this agent"
    await dispatcher.heard(wire.Hello, suspended=text)
    number = await dispatcher.submit("true")
    await dispatcher.heard(wire.Heartbeat, suspended=text)
    assert not dispatcher.of(wire.Claim)
    dispatcher.reply("node1", told)
    await dispatcher.result(number)
    assert list((agent.state / "parked").iterdir()) == []


async def test_a_denied_claim_is_forgotten(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    dispatcher.on_claim = lambda claim: claim.task_instance_id != 1
    agent = await make_agent().start()
    await dispatcher.submit("true")
    second = await dispatcher.submit("true")
    await dispatcher.result(second)
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert await dispatcher.waiting() == 0
    assert [result.task_instance_id for result in dispatcher.of(wire.Finished)] == [second]


# -- connection --------------------------------------------------------------------------------


async def test_a_lost_connection_ends_no_task_and_the_message_is_adopted(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, broker_url: str, tmp_path: Path
) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    async with Proxy.to(broker_url) as proxy:
        agent = await make_agent(proxy.through(broker_url)).start()
        number = await dispatcher.submit(
            f"echo start >> {ledger}; while [ ! -e {gate} ]; do sleep 0.05; done"
        )
        await dispatcher.heard(wire.Started)
        hellos = len(dispatcher.of(wire.Hello))
        proxy.cut()
        await eventually(lambda: len(dispatcher.of(wire.Hello)) > hellos)
        assert {hello.session for hello in dispatcher.of(wire.Hello)} == {1}
        gate.touch()
        assert (await dispatcher.result(number)).state == "success"
        assert len(dispatcher.of(wire.Claim)) == 1, "the same process adopts it without a claim"
        assert ledger_lines(ledger) == [["start"]]
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0
    assert await dispatcher.waiting() == 0


async def test_results_of_a_time_without_broker_follow_when_it_is_back(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, broker_url: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with Proxy.to(broker_url) as proxy:
        agent = await make_agent(proxy.through(broker_url)).start()
        number = await dispatcher.submit(
            f"while [ ! -e {gate} ]; do sleep 0.05; done; echo while away"
        )
        await dispatcher.heard(wire.Started)
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: proxy.connections == 0)
        gate.touch()
        await eventually(lambda: bool(list((agent.state / "spool").glob("*.json"))))
        await proxy.accept()
        assert (await dispatcher.result(number)).state == "success"
        await eventually(lambda: dispatcher.log_ended(number))
        assert dispatcher.text(number) == "while away\n"


async def test_the_lapse_kills_and_the_next_session_comes_back(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    async with Proxy.to(broker_url) as proxy:
        agent = await make_agent(proxy.through(broker_url), **SHORT_LEASE).start()
        await dispatcher.submit("sleep 60")
        await dispatcher.submit("sleep 60", on_agent_lost="wait")
        await eventually(lambda: len(dispatcher.of(wire.Started)) == 2)
        kept = dispatcher.granted[2, 1].token
        proxy.hold()
        cut_at = time.monotonic()
        await eventually(lambda: agent.task_processes() == 1)
        assert 1.0 < time.monotonic() - cut_at < 3.0, "L - M after the last confirmed heartbeat"
        proxy.release()
        hello = await dispatcher.heard(wire.Hello, session=2)
        assert hello.kept == (kept,)
        assert not dispatcher.of(wire.Finished)


async def test_an_agent_that_the_broker_did_not_hear_for_long_comes_back(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    async with Proxy.to(broker_url) as proxy:
        url = proxy.through(f"{broker_url}?heartbeat=2")
        agent = await make_agent(url, **SHORT_LEASE).start()
        await dispatcher.submit("sleep 60")
        await dispatcher.heard(wire.Started)
        proxy.hold(inward=False)
        await eventually(lambda: "waiting for the broker" in agent.stderr, 40.0)
        proxy.release()
        await dispatcher.heard(wire.Hello, session=2)


async def test_an_alarm_that_the_broker_proves_second_by_second_uses_up_no_lease(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    blocked = pamqp.frame.marshal(spec.Connection.Blocked("low on memory"), 0)
    unblocked = pamqp.frame.marshal(spec.Connection.Unblocked(), 0)
    beat = pamqp.frame.marshal(Heartbeat(), 0)
    async with Proxy.to(broker_url) as proxy:
        # RabbitMQ hears nothing for 5.4 s, and must bear that.
        url = proxy.through(f"{broker_url}?heartbeat=4")
        agent = await make_agent(url, **SHORT_LEASE).start()
        number = await dispatcher.submit("sleep 60")
        await dispatcher.heard(wire.Started, task_instance_id=number)
        # A real alarm would block the other tests on this node, so the proxy plays it.
        proxy.hold(inward=False)
        proxy.inject(blocked + beat)
        for _ in range(6):
            await asyncio.sleep(0.9)
            proxy.inject(beat)
            assert agent.task_processes() == 1
        proxy.inject(unblocked)
        proxy.release()
        heartbeats = len(dispatcher.of(wire.Heartbeat))
        await eventually(lambda: len(dispatcher.of(wire.Heartbeat)) > heartbeats + 20)
        assert {hello.session for hello in dispatcher.of(wire.Hello)} == {1}
        assert agent.task_processes() == 1
        assert "the broker has an alarm (low on memory)" in agent.stderr
        await eventually(lambda: agent.stderr.count("the broker's alarm is over") == 1)


async def test_a_broker_that_is_down_at_the_start_is_waited_for(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    async with Proxy.to(broker_url) as proxy:
        proxy.refuse()
        agent = await make_agent(proxy.through(broker_url)).start()
        await eventually(lambda: "waiting for the broker" in agent.stderr)
        await proxy.accept()
        await dispatcher.heard(wire.Hello)
        assert agent.stderr.count("waiting for the broker") == 1
        assert "Traceback" not in agent.stderr


async def test_refused_credentials_end_the_agent_with_one_line(
    make_agent: MakeAgent, broker_url: str
) -> None:
    agent = await make_agent(broker_url.replace("guest:guest", "guest:wrong")).start()
    assert await agent.ended() == 4
    assert "login refused" in agent.stderr
    assert "Traceback" not in agent.stderr
    assert "wrong" not in agent.stderr


async def test_an_agent_that_is_there_before_any_dispatcher_says_hello_when_one_comes(
    make_agent: MakeAgent, broker_url: str
) -> None:
    agent = await make_agent().start()
    await eventually(lambda: "no dispatcher has made its events queue yet" in agent.stderr)
    async with FakeDispatcher(broker_url) as dispatcher:
        await dispatcher.heard(wire.Hello)
        await dispatcher.result(await dispatcher.submit("true"))


# -- process -----------------------------------------------------------------------------------


async def test_a_second_agent_of_the_same_name_is_refused(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    first = await make_agent().start()
    await dispatcher.heard(wire.Hello)
    second = await make_agent().start()
    assert await second.ended() == 1
    assert first.process is not None
    assert (
        f"agent 'node1': expected to be the only one of this name, got the running process "
        f"{first.process.pid}"
    ) in second.stderr
    other = await make_agent(name="node2").start()
    await dispatcher.heard(wire.Hello, agent="node2")
    other.signal(signal.SIGTERM)
    assert await other.ended() == 0


async def test_a_killed_agent_comes_back_after_its_tasks_are_dead_and_they_run_again_alone(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    agent = await make_agent().start()
    # Holds a lock for as long as any process of the task lives: a second copy would not get it.
    command = (
        f"exec 9>{tmp_path}/lock; flock -n 9 || {{ echo overlap >> {ledger}; exit 1; }}; "
        f"trap '' TERM; echo start >> {ledger}; (setsid sleep 60 &); "
        f"while [ ! -e {gate} ]; do sleep 0.05; done; pkill -P $$ sleep; exit 0"
    )
    number = await dispatcher.submit(command)
    await dispatcher.heard(wire.Started)
    await eventually(lambda: ledger_lines(ledger) == [["start"]])
    await agent.kill()
    again = await make_agent().start()
    hello = await dispatcher.heard(wire.Hello, session=2)
    assert (hello.spooled, hello.kept) == ((), ())
    assert again.task_processes() <= 1, "only the new copy can be there"
    await eventually(lambda: ledger_lines(ledger) == [["start"], ["start"]])
    gate.touch()
    assert (await dispatcher.result(number)).state == "success"


async def test_a_result_that_was_not_answered_is_handed_in_after_a_restart(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    agent = await make_agent().start()
    gate = tmp_path / "gate"
    number = await dispatcher.submit(f"while [ ! -e {gate} ]; do sleep 0.05; done")
    await dispatcher.heard(wire.Started)
    dispatcher.answers = False
    gate.touch()
    token = (await dispatcher.result(number)).token
    await agent.kill()
    dispatcher.answers = True
    again = await make_agent().start()
    hello = await dispatcher.heard(wire.Hello, session=2)
    assert hello.spooled == (token,)
    result = await dispatcher.heard(wire.Finished, session=2)
    assert (result.token, result.state) == (token, "success")
    await eventually(lambda: not list((again.state / "spool").iterdir()))


async def test_sigterm_drains_and_new_work_goes_to_others(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    agent = await make_agent().start()
    number = await dispatcher.submit(f"while [ ! -e {gate} ]; do sleep 0.05; done")
    await dispatcher.heard(wire.Started)
    agent.signal(signal.SIGTERM)
    await eventually(lambda: len(dispatcher.of(wire.Hello)) == 2)
    other = await make_agent(name="node2").start()
    second = await dispatcher.submit("true")
    assert (await dispatcher.result(second)).agent == "node2"
    gate.touch()
    assert (await dispatcher.result(number)).agent == "node1"
    assert await agent.ended() == 0
    await dispatcher.heard(wire.Goodbye, agent="node1")
    order = [type(event) for event in dispatcher.events if event.agent == "node1"]
    assert order[-1] is wire.Goodbye
    other.signal(signal.SIGTERM)
    assert await other.ended() == 0


async def test_a_second_signal_kills_at_once_and_gives_the_token_back(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    agent = await make_agent().start()
    await dispatcher.submit("trap '' TERM; sleep 60 & wait; sleep 60")
    await dispatcher.heard(wire.Started)
    agent.signal(signal.SIGTERM)
    await eventually(lambda: len(dispatcher.of(wire.Hello)) == 2)
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 130
    (release,) = dispatcher.of(wire.Release)
    assert release.reason == "the agent was stopped while the task ran"
    assert agent.task_processes() == 0


async def test_a_dead_keeper_is_a_lapse(make_agent: MakeAgent, dispatcher: FakeDispatcher) -> None:
    agent = await make_agent().start()
    await dispatcher.submit("sleep 60")
    await dispatcher.heard(wire.Started)
    signal_keeper(agent, signal.SIGKILL)
    await dispatcher.heard(wire.Hello, session=2)
    await eventually(lambda: len(dispatcher.of(wire.Started)) == 2)


async def test_a_stopped_keeper_does_not_hold_up_the_end_of_a_session(
    make_agent: MakeAgent, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    async with Proxy.to(broker_url) as proxy:
        agent = await make_agent(proxy.through(broker_url), **SHORT_LEASE).start()
        await dispatcher.submit("sleep 60")
        await dispatcher.heard(wire.Started)
        signal_keeper(agent, signal.SIGSTOP)
        proxy.hold()
        await eventually(lambda: agent.task_processes() == 0)
        assert "the keeper proves nothing" in agent.stderr
        proxy.release()
        await dispatcher.heard(wire.Hello, session=2)
        await eventually(lambda: len(dispatcher.of(wire.Started)) == 2)


# -- speed -------------------------------------------------------------------------------------


async def test_grant_to_start_and_exit_to_result_wait_for_no_timer(
    make_agent: MakeAgent, dispatcher: FakeDispatcher
) -> None:
    await make_agent().start()
    await dispatcher.result(await dispatcher.submit("true"))
    took = []
    for _ in range(10):
        begun = time.monotonic()
        await dispatcher.result(await dispatcher.submit("true"))
        took.append(time.monotonic() - begun)
    assert sorted(took)[5] < 0.25, took
