"""The broker loses queues, consumers, patience, its process, its disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

from tests.acceptance.ledger import now
from tests.chaos.faults.holding import live_on
from tests.chaos.scenario import DEFAULT, Outcome, Scenario, ScenarioFailed, seconds
from tests.chaos.workload import LedgerTask, short_tasks
from tests.chaos.world import Chaos

QUEUE = "flow.q.q1"
#: Nobody serves it before the broker is back.
UNSERVED = "q9"
#: Takes one consumer out of a quorum queue's state, as if the queue had forgotten it: neither its
#: channel nor its client is told.
_FORGET = """
{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)),
[ok] = [begin
  Cancel = rabbit_fifo:make_checkout({{element(2, C), element(1, C)}}, cancel, #{{}}),
  {{ok, _, _}} = ra:process_command(amqqueue:get_pid(Q), Cancel), ok
end || C <- rabbit_amqqueue:consumers(Q), element(2, C) =:= <<"{tag}">>].
"""


# -- queues and consumers ------------------------------------------------------------------------


def queue_deleted(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    chaos.start_agent("node1", "q1", slots=2)
    held = [LedgerTask(task_id=name, until=chaos.gate(name), weight=9) for name in ("one", "two")]
    short = short_tasks(8, "q1")
    chaos.write_ledger_dag("work", [*held, *short])
    run = chaos.trigger("work")
    chaos.alive(2)
    chaos.until(lambda: chaos.broker.messages()[QUEUE] == 2, "the queue has what runs")
    deleted_at = chaos.fault()
    chaos.broker.api("DELETE", f"/queues/{quote(chaos.broker.vhost)}/{QUEUE}")
    chaos.open("one")
    done = chaos.until(lambda: _finished(chaos) == 9, "all tasks but one have run", 60.0)
    chaos.open("two")
    chaos.wait_terminal(run)
    # Those were handed over: whether the queue is of use is seen by what nobody has just ended.
    chaos.wait_terminal(chaos.trigger("work"))
    return Outcome(recovery=done - deleted_at, detail="made again by the agent")


def consumer_forgotten(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=1)
    chaos.until(lambda: len(_consumer_tags(chaos)) == 1, "node1 consumes")
    [tag] = _consumer_tags(chaos)
    chaos.start_agent("node2", "q1", slots=1)
    chaos.until(lambda: len(_consumer_tags(chaos)) == 2, "node2 consumes, too")
    program = _FORGET.format(vhost=chaos.broker.vhost, queue=QUEUE, tag=tag)
    chaos.fault()
    chaos.broker.rabbitmqctl("eval", program)
    held = LedgerTask(task_id="held", until=chaos.gate("go"), weight=9)
    chaos.write_ledger_dag("work", [held, *short_tasks(4, "q1")])
    run = chaos.trigger("work")
    chaos.alive(1, agent="node2")
    # From here on only node1 has room, and messages that show that it is passed over.
    waiting_since = chaos.until(lambda: chaos.broker.messages()[QUEUE] > 1, "messages wait")
    done = chaos.until(lambda: _finished(chaos) == 4, "node1 has run the others", 60.0)
    if not node.daemon.says("delivers nothing from"):
        raise ScenarioFailed("node1 was to notice that it is passed over, and did not")
    chaos.open("go")
    chaos.wait_terminal(run)
    return Outcome(recovery=done - waiting_since, detail="beside another agent's, which is full")


def consumer_timeout(chaos: Chaos) -> Outcome:
    timeout, tick = chaos.scale.outage(60.0, 3.0), chaos.scale.outage(60.0, 1.0)
    chaos.broker.rabbitmqctl(
        "eval",
        f"ok = application:set_env(rabbit, consumer_timeout, {timeout * 1000:.0f}),"
        f"ok = application:set_env(rabbit, channel_tick_interval, {tick * 1000:.0f}).",
    )
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1")
    chaos.write_ledger_dag("long", [LedgerTask(task_id="long", seconds=3 * timeout)])
    run = chaos.trigger("long")
    chaos.alive(1)
    chaos.fault()
    chaos.wait_terminal(run, within=3 * timeout + 60.0)
    closed = node.daemon.output.read_text().count("timed out")
    if not closed:
        raise ScenarioFailed("the broker was to close the channel of the consumer, and did not")
    return Outcome(detail=f"its channel was closed {closed} times")


def _finished(chaos: Chaos) -> int:
    return sum(life.finished for life in chaos.ledger.lives())


def _consumer_tags(chaos: Chaos) -> list[str]:
    text = chaos.broker.rabbitmqctl(
        "list_consumers", "-p", chaos.broker.vhost, "--quiet", "--formatter", "json"
    )
    return [row["consumer_tag"] for row in json.loads(text) if row["queue_name"] == QUEUE]


# -- the server ----------------------------------------------------------------------------------


def short_outage(chaos: Chaos, end: Callable[[Chaos], None], *, erase: bool = False) -> Outcome:
    """A start of RabbitMQ takes as long as a scaled lease, so the leases are the default ones."""
    chaos.system.settings.update(DEFAULT.settings())
    run = _busy(chaos)
    fault_at = chaos.fault()
    end(chaos)
    back_at = _come_back(chaos, erase=erase)
    chaos.alive(4)
    _serve_the_rest(chaos)
    done = chaos.wait_terminal(run, within=90.0)
    return Outcome(recovery=done - back_at, detail=f"away for {back_at - fault_at:.0f} s")


def long_outage(chaos: Chaos, *, erase: bool = False) -> Outcome:
    run = _busy(chaos)
    fault_at = chaos.fault()
    _kill(chaos)
    trusted = chaos.scale.leases.trusted
    chaos.until(lambda: not live_on(chaos, 1), "the agents kill what runs", trusted + 10.0)
    left = chaos.scale.outage(180.0, 1.5 * chaos.scale.leases.takeover) - (now() - fault_at)
    chaos.lasts(left, lambda: not live_on(chaos, 1), "nothing runs")
    back_at = _come_back(chaos, erase=erase)
    chaos.alive(4, within=90.0)
    _serve_the_rest(chaos)
    done = chaos.wait_terminal(run, within=90.0)
    detail = f"away for {back_at - fault_at:.0f} s"
    return Outcome(recovery=done - back_at, detail=detail, reruns_allowed=4)


def _busy(chaos: Chaos) -> str:
    """Two agents whose slots are taken, more tasks behind, and messages in a queue that nobody
    serves; the run."""
    chaos.start_dispatcher()
    for name in ("node1", "node2"):
        chaos.start_agent(name, "q1", slots=2)
    gate = chaos.gate("go")
    held = [LedgerTask(task_id=f"held{number}", until=gate, weight=9) for number in range(4)]
    others = [LedgerTask(task_id=f"other{number}", queue=UNSERVED) for number in range(4)]
    chaos.write_ledger_dag("work", [*held, *short_tasks(8, "q1"), *others])
    run = chaos.trigger("work")
    chaos.alive(4)
    chaos.until(
        lambda: chaos.broker.messages().get(f"flow.q.{UNSERVED}", 0) > 0, "messages wait in a queue"
    )
    return run


def _serve_the_rest(chaos: Chaos) -> None:
    chaos.start_agent("node3", UNSERVED, slots=2)
    chaos.open("go")


def _stop(chaos: Chaos) -> None:
    chaos.broker.stop()


def _kill(chaos: Chaos) -> None:
    chaos.broker.kill()


def _come_back(chaos: Chaos, *, erase: bool) -> float:
    """When RabbitMQ serves again; with *erase* it is as new, but for the virtual host."""
    if erase:
        chaos.broker.erase()
    chaos.broker.start()
    if erase:
        chaos.broker.make_vhost()
    return chaos.healed()


SCENARIOS = (
    Scenario(
        name="queue-deleted",
        fault="a queue is deleted with its messages, under its consumer",
        expected="noticed, made again, nothing lost, what runs goes on",
        run=queue_deleted,
        bound=seconds(45.0),
    ),
    Scenario(
        name="consumer-forgotten",
        fault="the broker forgets a consumer without telling, beside another agent's",
        expected="noticed as soon as messages wait for it, consumes again",
        run=consumer_forgotten,
        bound=seconds(45.0),
    ),
    Scenario(
        name="consumer-timeout",
        fault="consumer_timeout is a third of what a task takes",
        expected="one run",
        run=consumer_timeout,
        own_services=True,
        waits=True,
    ),
    Scenario(
        name="broker-restarted",
        fault="RabbitMQ is stopped and started",
        expected="tasks go on, no rerun",
        run=partial(short_outage, end=_stop),
        bound=seconds(60.0),
        own_services=True,
    ),
    Scenario(
        name="broker-killed",
        fault="RabbitMQ kill -9, and started again",
        expected="tasks go on, no rerun",
        run=partial(short_outage, end=_kill),
        bound=seconds(60.0),
        own_services=True,
    ),
    Scenario(
        name="broker-erased",
        fault="RabbitMQ kill -9, its data directory erased, started again",
        expected="tasks go on, no rerun, all queued tasks come back",
        run=partial(short_outage, end=_kill, erase=True),
        bound=seconds(60.0),
        own_services=True,
    ),
    Scenario(
        name="broker-away",
        fault="RabbitMQ is away for longer than a takeover takes",
        expected="tasks are killed, and rerun once after its return",
        run=long_outage,
        bound=seconds(60.0),
        own_services=True,
        waits=True,
    ),
    Scenario(
        name="broker-away-erased",
        fault="the same, and its data directory is erased",
        expected="tasks are killed and rerun once, all queued tasks come back",
        run=partial(long_outage, erase=True),
        bound=seconds(60.0),
        own_services=True,
        waits=True,
    ),
)
