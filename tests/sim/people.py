"""What people do: commands, and a node's settings. Nothing of it may break a promise."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flow.states import RUN_TERMINAL, TaskState
from tests.sim.faults import Fault, node_of

if TYPE_CHECKING:
    from tests.sim.world import World


def cancel(world: World, fault: Fault, _: str) -> bool:
    runs = [run for run in world.database.rows.runs.values() if run.state not in RUN_TERMINAL]
    if not runs:
        return False
    run = runs[fault.choice % len(runs)]
    world.ask("cancel", dag_id=run.dag_id, run_id=run.run_id)
    return True


def clear(world: World, fault: Fault, _: str) -> bool:
    rows = world.database.rows
    tasks = sorted(rows.tasks.values(), key=lambda task: task.state is not TaskState.RUNNING)
    if not tasks:
        return False
    task = tasks[0] if fault.choice % 3 == 0 else tasks[fault.choice % len(tasks)]
    run = rows.runs[task.run_pk]
    arguments: dict[str, object] = {"dag_id": run.dag_id, "run_id": run.run_id}
    if fault.choice % 4:
        arguments |= {"task_id": task.task_id, "downstream": fault.choice % 2 == 0}
    world.ask("clear", **arguments)
    world.cancel_endless_again(run.dag_id)
    return True


def node_drain(world: World, fault: Fault, who: str) -> bool:
    """Somebody wants a node to take nothing, for a while."""
    name = node_of(world, fault, who).name
    world.ask("drain", agent=name, reason="a new kernel")
    world.heal_after(min(fault.duration, 6.0), partial(world.ask, "resume", agent=name))
    return True


def node_set(world: World, fault: Fault, who: str) -> bool:
    """Somebody wants a node to serve other queues with other slots, for a while."""
    name = node_of(world, fault, who).name
    queues = (None, ["q1"], ["q1", "q2", "q3"], ["q3"])[fault.choice % 4]
    slots = (1, 2, 3, None)[fault.choice // 4 % 4]
    if queues is None and slots is None:
        slots = 5
    world.ask("set_agent", agent=name, queues=queues, slots=slots)
    back = partial(world.ask, "set_agent", agent=name, reset=True)
    world.heal_after(min(fault.duration, 6.0), back)
    return True


def node_reload(world: World, fault: Fault, who: str) -> bool:
    """``systemctl reload``: the node's own settings are others for a while."""
    node = node_of(world, fault, who)
    if node.agent is None or (node.queues, node.slots) != node.own:
        return False
    queues = (node.queues, (*node.queues, "q3"), node.queues[:1])[fault.choice % 3]
    node.reload(queues, (1, 2, 3)[fault.choice // 3 % 3])
    world.heal_after(min(fault.duration, 6.0), partial(node.reload, *node.own))
    return True


def pause_dag(world: World, fault: Fault, _: str) -> bool:
    dag_id = world.workload.specs[fault.choice % len(world.workload.specs)].dag_id
    world.ask("pause", dag_id=dag_id)
    world.heal_after(min(fault.duration, 3.0), partial(world.ask, "unpause", dag_id=dag_id))
    return True
