"""What a task, a start and an idle agent may cost. All budgets of flow are here, and nowhere else.

Each is a little above what was measured, so that a change which costs more is seen, on any machine
and however busy it is: what is counted are messages, transactions, syncs, modules, private memory
and ratios of CPU time, never seconds. Whoever lowers a cost lowers its budget; whoever must raise
one says why in the commit.
"""

from __future__ import annotations

#: Per task of a chain of `true`, run by a real agent: what dispatcher and agent publish. Measured:
#: 4.1. Grant, result, its answer and the end of the output, once each; the first task is also
#: offered and claimed.
CHAIN_MESSAGES = 4.3
#: Write transactions. Measured: 1.1. A result and the next grant are in one.
CHAIN_COMMITS = 1.25
#: fsync and fdatasync of the agent. Measured: 2.0, the spooled result and its folder.
CHAIN_SYNCS = 2.1

#: Per task of 200 side by side, with an agent that answers at once: no output. Measured:
#: 2.3; several results are answered in one message, how many depends on the machine.
FAN_OUT_MESSAGES = 2.9
#: A busy dispatcher commits in batches. Measured: 0.15.
FAN_OUT_COMMITS = 0.45

#: Modules that a process has imported when it does what it is for. Measured: 114, 375, 463.
FLOW_HELP_MODULES = 125
FLOW_AGENT_MODULES = 390
DISPATCHER_MODULES = 480

#: Private memory of an idle agent and its keeper together, in MB: what they do not share with other
#: Python processes. Measured: 28.9.
AGENT_MEMORY = 32.0

#: The dispatcher's core for one event, in loops of :func:`tests.budget.test_core.calibration`.
#: Measured: 4.7 to 4.9 on a quiet machine, up to 6.5 on a busy one.
CORE_EVENT = 7.5
#: An event in a DAG of 8,000 tasks may cost so many times one in a DAG of 500. Measured: 1.05.
CORE_GROWTH = 1.3


def hold(what: str, measured: float, budget: float, *, slack: float = 1.5) -> None:
    """Fail when *measured* is above its *budget*; and when the budget has become so loose, more
    than *slack* times what is measured, that it would not notice much."""
    print(f"{what}: {measured:.3g} of {budget:g}")
    assert measured <= budget, f"{what}: expected at most {budget:g}, got {measured:.3g}"
    assert budget <= slack * measured, (
        f"{what}: {measured:.3g} is far below its budget of {budget:g}; lower that"
    )
