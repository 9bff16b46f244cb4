"""What a set of seeds has reached: transitions of the tables, and faults right after steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.sim.oracle import Transition, all_transitions
from tests.sim.plan import CELLS
from tests.sim.world import World


@dataclass(slots=True)
class Coverage:
    """Sums over worlds. What one process has seen can be added to what another has."""

    seeds: int = 0
    events: int = 0
    virtual: float = 0.0
    """Seconds of virtual time."""
    transitions: Counter[Transition] = field(default_factory=Counter)
    cells: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)

    def take(self, world: World) -> None:
        """One world has come to its end."""
        self.seeds += 1
        self.events += world.schedule.events
        self.virtual += world.schedule.now
        self.transitions += world.oracle.transitions
        self.cells.update({cell: n for cell, n in world.reached.items() if cell[1]})
        self.faults += world.faults_done
        self.steps += world.steps

    def add(self, other: Coverage) -> None:
        """What another process has seen."""
        self.seeds += other.seeds
        self.events += other.events
        self.virtual += other.virtual
        self.transitions += other.transitions
        self.cells += other.cells
        self.faults += other.faults
        self.steps += other.steps

    def missing_transitions(self) -> list[Transition]:
        return sorted(all_transitions() - self.transitions.keys())

    def missing_cells(self) -> list[tuple[str, str]]:
        return [cell for cell in CELLS if not self.cells[cell]]

    def summary(self) -> list[str]:
        """Lines for people."""
        transitions, cells = len(all_transitions()), len(CELLS)
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        lines = [
            f"{self.seeds} seeds, {self.events} events, {self.virtual:.0f} s of virtual time",
            f"faults: {faults}",
            f"transitions reached: {transitions - len(self.missing_transitions())}/{transitions}",
            f"faults x steps reached: {cells - len(self.missing_cells())}/{cells}",
        ]
        lines += [f"never seen: {state} {event}" for state, event in self.missing_transitions()]
        return lines + [f"never put: {kind} after {step!r}" for kind, step in self.missing_cells()]
