"""Work that goes on while dispatchers or the database are away: some tasks end meanwhile, others
run all through it."""

from __future__ import annotations

from tests.acceptance.ledger import Life, now
from tests.chaos.scenario import ScenarioFailed
from tests.chaos.workload import LedgerTask
from tests.chaos.world import Chaos

QUEUES = ("q1", "q2")
#: Seconds for which a task may give no sign of life because the machine is busy.
_HICCUP = 3.0
_DURING, _AFTER = "during", "after"


class Outage:
    """Four tasks on two agents: half of them end during the outage, half afterwards."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        for number, queue in enumerate(QUEUES, start=1):
            chaos.start_agent(f"node{number}", queue)
        tasks = [
            LedgerTask(task_id=f"{gate}-{queue}", queue=queue, until=chaos.gate(gate))
            for gate in (_DURING, _AFTER)
            for queue in QUEUES
        ]
        chaos.write_ledger_dag("outage", tasks)
        self.run_id = chaos.trigger("outage")
        chaos.alive(len(tasks))

    def last(self, duration: float) -> None:
        """Let the outage last; half of the tasks end in the middle of it. Raises ScenarioFailed
        when any other dies."""
        self._chaos.lasts(duration / 2, self._all_live, "all tasks live")
        self._chaos.open(_DURING)
        self._chaos.lasts(duration / 2, self._all_live, "the other tasks live")
        if unfinished := [life.task for life in self._of(_DURING) if not life.finished]:
            raise ScenarioFailed(f"expected these to end during the outage: {unfinished}")

    def results_arrive(self, within: float) -> float:
        """Wait until the results of those that have ended are recorded; the moment."""

        def recorded() -> bool:
            states = [self._chaos.state_of(self.run_id, f"{_DURING}-{queue}") for queue in QUEUES]
            return states == ["success"] * len(QUEUES)

        return self._chaos.until(recorded, "the results of the outage are recorded", within)

    def end(self) -> None:
        """Let time pass in which a wrong takeover would happen; then let the last tasks end.
        Raises ScenarioFailed when an agent was taken for dead."""
        self._chaos.lasts(self._chaos.scale.leases.takeover + 2.0, self._all_live, "tasks live on")
        self._chaos.open(_AFTER)
        self._chaos.wait_terminal(self.run_id)
        no_session_was_lost(self._chaos)

    def _of(self, gate: str) -> list[Life]:
        return [life for life in self._chaos.ledger.lives() if f"/{gate}-" in life.task]

    def _all_live(self) -> bool:
        lives = self._of(_AFTER)
        return len(lives) == len(QUEUES) and all(life.last > now() - _HICCUP for life in lives)


def no_session_was_lost(chaos: Chaos) -> None:
    """Raises ScenarioFailed when a session has ended in any way: nobody stopped an agent."""
    ended = chaos.postgres.query("SELECT agent, session, how FROM agent_session WHERE how <> ''")
    if ended:
        raise ScenarioFailed(f"expected healthy agents to be left alone, got {ended}")
