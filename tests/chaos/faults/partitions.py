"""The network between an agent and the broker: silent, one-way, slow, cut in the middle of a frame.

The agent's node reaches the broker through a proxy; everybody else reaches it directly.
"""

from __future__ import annotations

from functools import partial

from tests.chaos.faults.holding import hold, last_sign_of, taken_over_by
from tests.chaos.nodes import Node
from tests.chaos.proxies import ProxyThread
from tests.chaos.scenario import Outcome, Scale, Scenario, takeover_plus
from tests.chaos.workload import LedgerTask, short_tasks
from tests.chaos.world import Chaos

HELD = 2


def _node_behind_proxy(chaos: Chaos) -> tuple[Node, ProxyThread]:
    proxy = chaos.proxy(chaos.system.broker_url)
    environment = {"FLOW_BROKER_URL": proxy.url}
    return chaos.start_agent("node1", "q1", slots=HELD, environment=environment), proxy


def partition(chaos: Chaos, *, outward: bool = True, inward: bool = True) -> Outcome:
    dispatcher = chaos.start_dispatcher()
    _, proxy = _node_behind_proxy(chaos)
    chaos.write_ledger_dag("hold", hold(chaos, count=HELD))
    run = chaos.trigger("hold")
    chaos.alive(HELD, agent="node1")
    chaos.start_agent("node2", "q1", slots=HELD)
    held_at = chaos.fault()
    proxy.hold(outward=outward, inward=inward)
    taken_over = taken_over_by(chaos, "node2", HELD)
    proxy.release()
    chaos.until(lambda: dispatcher.says("node1 is here: session 2"), "node1 is back", 60.0)
    chaos.wait_terminal(run)
    return Outcome(
        recovery=max(taken_over) - held_at,
        detail=f"dead {min(taken_over) - last_sign_of(chaos, 'node1'):.2f} s before the takeover",
        reruns_allowed=HELD,
    )


def slow_link(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    _, proxy = _node_behind_proxy(chaos)
    gate = LedgerTask(task_id="held", until=chaos.gate("go"), weight=9)
    short = short_tasks(6, "q1")
    chaos.write_ledger_dag("work", [gate, *short])
    delay = 1.0  # a connection begins with three answers from the broker, which gets 10 s for them
    chaos.fault()
    proxy.slow(delay)
    run = chaos.trigger("work")
    chaos.until(lambda: _finished(chaos) == len(short), "the short tasks have run", 240.0)
    proxy.slow(0.0)
    chaos.open("go")
    chaos.wait_terminal(run)
    return Outcome(detail=f"each chunk {delay:g} s late, in each direction")


def cut_frames(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node, proxy = _node_behind_proxy(chaos)
    held = LedgerTask(task_id="held", until=chaos.gate("go"), weight=9)
    cuts = chaos.scale.count(100, 20)
    short = short_tasks(cuts, "q1", seconds=0.5)
    chaos.write_ledger_dag("work", [held, *short])
    run = chaos.trigger("work")
    chaos.alive(HELD)
    chaos.fault()
    for _ in range(cuts):
        before = _connections_made(node)
        proxy.cut_after(chaos.chance.randint(1, 2000))
        chaos.until(partial(_came_back, node, before), "node1 is back", 60.0)
    chaos.open("go")
    chaos.wait_terminal(run, within=120.0)
    return Outcome(detail=f"{cuts} cuts")


def _connections_made(node: Node) -> int:
    return node.daemon.output.read_text().count("connected; serving")


def _came_back(node: Node, before: int) -> bool:
    return _connections_made(node) > before


def _finished(chaos: Chaos) -> int:
    return sum(life.finished for life in chaos.ledger.lives())


def _lapse_then_takeover(scale: Scale) -> float:
    """An agent that is heard but hears nothing falls silent when it lapses."""
    return scale.leases.trusted + scale.leases.takeover + 5.0


SCENARIOS = (
    Scenario(
        name="partition",
        fault="an agent's network is silent for longer than the lease",
        expected="the agent kills before the takeover; no overlap to the millisecond",
        run=partition,
        bound=takeover_plus(5.0),
        waits=True,
    ),
    Scenario(
        name="partition-unheard",
        fault="the same in one direction: the broker does not hear the agent",
        expected="the agent kills before the takeover",
        run=partial(partition, inward=False),
        bound=takeover_plus(5.0),
        waits=True,
    ),
    Scenario(
        name="partition-deaf",
        fault="the same in the other direction: the agent does not hear the broker",
        expected="the agent kills before the takeover",
        run=partial(partition, outward=False),
        bound=_lapse_then_takeover,
        waits=True,
    ),
    Scenario(
        name="slow-link",
        fault="all that an agent and the broker say arrives a second late",
        expected="nothing is killed, tasks run",
        run=slow_link,
        waits=True,
    ),
    Scenario(
        name="frames-cut",
        fault="an agent's connection is cut at a random byte, again and again",
        expected="tasks go on, no rerun",
        run=cut_frames,
    ),
)
