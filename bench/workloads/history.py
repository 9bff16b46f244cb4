"""W14: rates and listings beside ten million finished task instances."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from bench.contender import INSTANT, TRUE, Graph, Order, Sample, Site
from bench.flow_contender import FlowContender
from bench.flow_system import FlowSystem
from bench.graphs import line, none
from bench.turn import Turn, makespan

_SEED = Graph("seed", none(100), INSTANT)
#: Copies are this far apart in the ids of runs and task instances, which the dispatcher gives.
_STRIDE = 1000
_COPIES_AT_ONCE = 2000
_REPEATS = 5
_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position
"""


def w14(turn: Turn) -> Iterator[Sample]:
    """Two systems side by side, one with a history, measured in turns."""
    copies = turn.size(100_000, 20)
    with ExitStack() as stack:
        plain, long = (
            _started(stack, turn, stack.enter_context(turn.services.site(turn.site.slots)))
            for _ in range(2)
        )
        begun = time.monotonic()
        _grow(long, copies)
        note = f"{copies * len(_SEED):,} task instances, made in {time.monotonic() - begun:.0f} s"
        for case, measure in _cases().items():
            for contender in (plain, long):
                measure(contender)  # what is read for the first time
            for _ in range(turn.size(_REPEATS, 1)):
                without, beside = measure(plain), measure(long)
                metrics = {
                    "without_s": without,
                    "beside_s": beside,
                    "slower_pct": 100 * (beside / without - 1),
                }
                yield turn.sample("W14", case, metrics, note=note)


def _started(stack: ExitStack, turn: Turn, site: Site) -> FlowContender:
    tree = turn.contender.tree if isinstance(turn.contender, FlowContender) else None
    contender = FlowContender(tree) if tree else FlowContender()
    stack.callback(contender.stop)
    contender.start(site)
    chain = Graph("chain", line(20), TRUE)
    many = Graph("many", none(turn.size(500, 50)), TRUE)
    contender.prepare([_SEED, chain, many])
    contender.run([Order("seed")], within=60)
    return contender


def _cases() -> dict[str, Callable[[FlowContender], float]]:
    return {
        "chain of true x 20": lambda flow: makespan(flow.run([Order("chain")], within=120)),
        "500 x true": lambda flow: makespan(flow.run([Order("many")], within=120)),
        "flow board --once": lambda flow: _seconds(flow, "board", "--once"),
        "flow runs list": lambda flow: _seconds(flow, "runs", "list"),
        "flow tasks list": lambda flow: _seconds(flow, "tasks", "list", _seed_run(flow)),
    }


def _seconds(contender: FlowContender, *arguments: str) -> float:
    begun = time.perf_counter()
    _system(contender).flow(*arguments)
    return time.perf_counter() - begun


def _seed_run(contender: FlowContender) -> str:
    ((run_id,),) = _system(contender).query(
        "SELECT run_id FROM dag_run WHERE dag_id = 'seed' ORDER BY id LIMIT 1"
    )
    return str(run_id)


def _system(contender: FlowContender) -> FlowSystem:
    assert contender.system is not None, "it has been started"
    return contender.system


def _grow(contender: FlowContender, copies: int) -> None:
    """Copy the rows of the seed's run: its task instances, their tries, and of the audit the line
    of each one's end. Then have the planner know of it, as autovacuum would by and by."""
    system = _system(contender)
    # What the copies refer to is copied with them: asking for each row would take most of the time.
    system.query("SET session_replication_role = replica")
    for first in range(1, copies + 1, _COPIES_AT_ONCE):
        last = min(first + _COPIES_AT_ONCE - 1, copies)
        for table, of_run in (
            ("dag_run", "x.id = r.id"),
            ("task_instance", "x.run_pk = r.id"),
            ("task_try", "x.task_pk IN (SELECT id FROM task_instance WHERE run_pk = r.id)"),
            ("audit", "x.run_pk = r.id AND x.entity = 'task' AND x.target = 'success'"),
        ):
            system.query(_copying(system, table, of_run), first, last, _seed_run(contender))
    system.query("SET session_replication_role = origin")
    system.query("VACUUM ANALYZE")


def _copying(system: FlowSystem, table: str, of_run: str) -> str:
    columns = [name for (name,) in system.query(_COLUMNS, table)]
    made = {
        "run_id": "x.run_id || '_' || n",
        # Far from the ids that the dispatcher gives next, which go on from the highest.
        **dict.fromkeys(("run_pk", "task_pk"), "{name} + n * {stride}"),
    }
    if table in {"dag_run", "task_instance"}:
        made["id"] = "{name} + n * {stride}"
    else:
        columns.remove("id")  # the database numbers these
    values = [made.get(name, "{name}").format(name=f"x.{name}", stride=_STRIDE) for name in columns]
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "  # noqa: S608
        f"FROM generate_series(%s, %s) n, dag_run r, {table} x WHERE r.run_id = %s AND {of_run}"
    )
