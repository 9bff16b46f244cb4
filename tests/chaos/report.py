"""What is said about a scenario: one line, and the reasons below it when it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from tests.chaos.checker import Verdict
from tests.chaos.scenario import Outcome, Scale, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One scenario, run once."""

    name: str
    fault: str
    expected: str
    scale: str = "full"
    seed: int = 1
    duration: float = 0.0
    """Seconds, all in all."""
    bound: float | None = None
    recovery: float | None = None
    tasks: int = 0
    starts: int = 0
    lost: int = 0
    twice: int = 0
    reruns: int = 0
    detail: str = ""
    problems: tuple[str, ...] = ()
    logs: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems

    def line(self) -> str:
        """For the terminal; with the reasons below it where it failed."""
        mark = "ok  " if self.ok else "FAIL"
        text = (
            f"{mark}  {self.name:<28} {_time(self.recovery, self.bound):>16}   "
            f"lost {self.lost}  twice {self.twice}  reruns {self.reruns}   "
            f"{self.fault}: {self.expected}"
        )
        if self.detail:
            text += f" [{self.detail}]"
        return "\n".join([text, *(f"      {problem}" for problem in self.problems)])

    def with_logs(self, logs: str) -> Self:
        """The same, and what its processes said."""
        return replace(self, logs=logs)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What :meth:`as_json` made."""
        known = {field.name for field in fields(cls)} - {"problems"}
        values = {name: value for name, value in content.items() if name in known}
        return cls(**values, problems=tuple(content["problems"]))

    def as_json(self) -> dict[str, Any]:
        """Everything but the logs."""
        content = asdict(self)
        del content["logs"]
        return {**content, "ok": self.ok}


def judged(
    scenario: Scenario, scale: Scale, seed: int, duration: float, outcome: Outcome, verdict: Verdict
) -> Report:
    """The report on a scenario that came to its end. I9 is decided here."""
    problems = list(verdict.violations)
    bound = scenario.bound(scale)
    if bound is not None and (outcome.recovery is None or outcome.recovery > bound):
        problems.append(f"I9: expected recovery within {bound:.1f} s, got {outcome.recovery}")
    return Report(
        name=scenario.name,
        fault=scenario.fault,
        expected=scenario.expected,
        scale=scale.name,
        seed=seed,
        duration=duration,
        bound=bound,
        recovery=outcome.recovery,
        tasks=verdict.tasks,
        starts=verdict.starts,
        lost=verdict.lost,
        twice=verdict.twice,
        reruns=verdict.reruns,
        detail=outcome.detail,
        problems=tuple(problems),
    )


def _time(recovery: float | None, bound: float | None) -> str:
    if recovery is None:
        return "-"
    return f"{recovery:.1f} s" + (f" of {bound:g} s" if bound is not None else "")
