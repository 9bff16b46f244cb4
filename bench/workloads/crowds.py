"""W12: many agents, many queues, many tasks that wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from bench.contender import Sample
from bench.flow_contender import Trigger
from bench.flow_system import FlowSystem
from bench.turn import Turn

_DAGS = """
from flow import DAG, BashOperator

def dag(name, tasks, queue_of):
    with DAG(name, max_active_runs=1000, max_active_tasks=1_000_000):
        for n in range(tasks):
            BashOperator(task_id=f"t{{n}}", bash_command="true", queue=queue_of(n))

dag("alone", {alone}, lambda n: "alone")
for d in range({dags}):
    dag(f"crowd_{{d}}", {tasks}, lambda n: f"q{{(7 * d + n) % {queues}}}")
"""
_ENDED = """
SELECT extract(epoch FROM closed_at)::float8 FROM task_try
WHERE closed_at > to_timestamp(%s) ORDER BY closed_at
"""
_WAITING = """
SELECT count(*) FROM task_instance t JOIN dag_run r ON r.id = t.run_pk
WHERE t.state IN ('scheduled', 'queued') AND r.dag_id = ANY(%s)
"""
_PROCESSES = 2
_TASKS_PER_DAG = 1000


def w12(turn: Turn, system: FlowSystem) -> Iterator[Sample]:
    """200 agents, 500 queues, 100,000 task instances that wait: the rate at which they begin to be
    worked off, and, for comparison, that of one agent and one queue with no more tasks than are
    timed. The agents answer at once."""
    agents, queues = turn.size(200, 10), turn.size(500, 20)
    waiting, timed = turn.size(100_000, 2000), turn.size(5000, 500)
    dags = waiting // _TASKS_PER_DAG
    system.flow("db", "migrate")
    dispatcher = system.start_dispatcher()
    text = _DAGS.format(alone=2 * timed, dags=dags, tasks=_TASKS_PER_DAG, queues=queues)
    names = [f"crowd_{n}" for n in range(dags)]
    system.write_dag("w12", text)
    system.wait_known(["alone", *names])
    alone = _rate(system, "alone", ["alone"], 2 * timed, timed, [["alone"]])
    served = [[f"q{q}" for q in range(n, queues, agents)] for n in range(agents)]
    many = _rate(system, "crowd", names, waiting, timed, served)
    memory = dispatcher.memory_mb()
    metrics = {
        "rate_per_s": many,
        "alone_per_s": alone,
        "of_alone_pct": 100 * many / alone,
        "dispatcher_memory_mb": memory,
    }
    yield turn.sample("W12", "200 agents, 500 queues, 100,000 waiting", metrics)


def _rate(
    system: FlowSystem,
    prefix: str,
    dags: Sequence[str],
    waiting: int,
    timed: int,
    served: Sequence[Sequence[str]],
) -> float:
    """Task instances per second, once all agents are there: *timed* of *waiting* ones, of *dags*,
    by an agent for each of *served*, which are its queues; their names begin with *prefix*."""
    with closing(Trigger(system.site.database_url, system.site.broker_url)) as trigger:
        for dag in dags:
            trigger(dag)
    system.wait(
        lambda: system.query(_WAITING, list(dags))[0][0] == waiting,
        f"{waiting} tasks to wait",
        within=300,
        every=0.5,
    )
    slots = str(max(4, 16 // len(served)))  # as many in all as the agent of W3, or more
    share = -(-len(served) // _PROCESSES)
    mocks = [
        system.start_mocks(f"{prefix}{n}", "--slots", slots, *_options(served[n : n + share]))
        for n in range(0, len(served), share)
    ]
    ready = time.time()
    system.wait(
        lambda: len(system.query(_ENDED, ready)) >= timed,
        f"{timed} tasks to end",
        within=300,
        every=0.5,
    )
    ended: list[float] = [at for (at,) in system.query(_ENDED, ready)][:timed]
    for mock in mocks:
        system.end(mock)
    return (len(ended) - 1) / (ended[-1] - ended[0])


def _options(served: Sequence[Sequence[str]]) -> list[str]:
    return [part for queues in served for part in ("--agent", ",".join(queues))]
