"""The simulator: what its seeds find, reach and repeat, and whether it would notice."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agent.core.machine import Core as AgentCore
from agent.core.work import Work
from dispatcher.core import claims, leases, reconcile, sessions
from flow.states import TaskState
from tests.sim.__main__ import main
from tests.sim.node import Node
from tests.sim.plan import CELLS, IMPOSSIBLE, STEPS, plan_of
from tests.sim.runner import Failure, play, play_all, shrink

#: Each cell of the matrix is aimed at so often.
ROUNDS = 6
#: Within so many seeds a broken rule must be found.
ENOUGH = 2_000


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_invariant_holds_under_every_fault_at_every_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    coverage, failures = play_all(range(ROUNDS * len(CELLS)), jobs=2)
    with capsys.disabled():
        print()
        for line in coverage.summary():
            print(line)
    assert [f"{failure.text} ({failure.command})" for failure in failures] == []
    assert coverage.seeds >= 10_000
    assert coverage.missing_transitions() == []
    assert coverage.missing_cells() == []


def test_a_seed_has_one_history() -> None:
    for seed in (3, 1234, 98765):
        histories: list[list[str]] = [[], []]
        for history in histories:
            play(seed, history=history)
        assert len(histories[0]) > 100
        assert _comparable(histories[0]) == _comparable(histories[1])


def test_a_seed_has_the_same_history_in_another_process() -> None:
    command = [sys.executable, "-m", "tests.sim", "--seed", "77"]
    ends = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in "ab"]
    assert _comparable(ends[0].stdout.splitlines()) == _comparable(ends[1].stdout.splitlines())
    assert "seed 77: all invariants hold" in ends[0].stdout


def _comparable(history: list[str]) -> list[str]:
    return [re.sub(r"0x[0-9a-f]+", "", line) for line in history]


def test_every_cell_of_the_matrix_has_a_seed_or_a_reason() -> None:
    targets = {(fault.kind, fault.step) for seed in range(len(CELLS)) for fault in plan_of(seed)}
    assert set(CELLS) <= targets
    assert not set(CELLS) & IMPOSSIBLE.keys()
    assert all(IMPOSSIBLE.values())
    assert {step for _, step in CELLS} == set(STEPS)


# -- it has teeth ------------------------------------------------------------------------------


def first_failure(seeds: int = ENOUGH) -> Failure:
    for seed in range(seeds):
        failure = play(seed)
        if failure is not None:
            return failure
    raise AssertionError(f"not found within {seeds} seeds")


@dataclass(frozen=True)
class Broken:
    """A rule that does not hold, and which invariant says so."""

    name: str
    breaking: Callable[[pytest.MonkeyPatch], None]
    invariant: str | tuple[str, ...]
    """How its name begins; one of several, where it depends on who is first."""


def _grants_twice(patch: pytest.MonkeyPatch) -> None:
    right = claims.claim

    def claim(state, agent, message, now, out):  # type: ignore[no-untyped-def]
        task = state.tasks.get(message.task_instance_id)
        running = task is not None and task.state is TaskState.RUNNING
        if running and task.try_number == message.try_number:
            claims._send_grant(state, agent, task, now, out)
        else:
            right(state, agent, message, now, out)

    patch.setattr(claims, "claim", claim)


def _takes_over_by_the_clock(patch: pytest.MonkeyPatch) -> None:
    """Silence alone, without a pulse that comes back."""

    def check(state, now, out):  # type: ignore[no-untyped-def]
        for agent in list(leases._live(state)):
            if now.mono - agent.heard >= leases._patience(state, agent):
                sessions.take_over(state, agent, now, out, how="lost", reason="", certain=False)

    def next_check(state):  # type: ignore[no-untyped-def]
        live = leases._live(state)
        return min((a.heard + leases._patience(state, a) for a in live), default=None)

    patch.setattr(leases, "check", check)
    patch.setattr(leases, "next_check", next_check)


def _takes_any_token(patch: pytest.MonkeyPatch) -> None:
    def holder(state, _agent, task_pk, _token):  # type: ignore[no-untyped-def]
        task = state.tasks.get(task_pk)
        return task if task is not None and task.state is TaskState.RUNNING else None

    patch.setattr(claims, "_holder_of", holder)


def _never_looks_for_lost_messages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reconcile, "observed", lambda *_: None)


def _believes_in_death(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "prove_dead", lambda _, then: then())


def _sets_no_deadline_for_the_keeper(patch: pytest.MonkeyPatch) -> None:
    right = AgentCore._renew

    def renew(self: AgentCore, sent_at: float, now: float) -> None:
        before = len(self._out)
        right(self, sent_at, now)
        self._out[before:] = [x for x in self._out[before:] if type(x).__name__ != "SetDeadline"]

    patch.setattr(AgentCore, "_renew", renew)


def _forgets_what_it_released(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Work, "resend_all", lambda *_: None)
    patch.setattr(Work, "_return", lambda *_, **__: None)


GRANTED_TWICE = ("I4 a token starts once", "I2 no two at once")
BROKEN = (
    Broken("a grant for everybody who claims", _grants_twice, GRANTED_TWICE),
    Broken("takeover by the clock alone", _takes_over_by_the_clock, "I3 no takeover"),
    Broken("results under any token", _takes_any_token, "I2 a token ends after its processes"),
    Broken("no reconciler", _never_looks_for_lost_messages, "I9 healthy within the bound"),
    Broken("no proof of death", _believes_in_death, "I2 a token ends after its processes"),
    Broken("no deadline for the keeper", _sets_no_deadline_for_the_keeper, "I2 a token ends"),
    Broken("releases are forgotten", _forgets_what_it_released, "I9 healthy within the bound"),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_rule_is_found(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.breaking(monkeypatch)
    assert first_failure().invariant.startswith(broken.invariant)


def test_a_failure_is_made_smaller_and_replays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _takes_over_by_the_clock(monkeypatch)
    found = (play(seed) for seed in range(ENOUGH))
    failure = next(each for each in found if each is not None and len(each.plan) > 2)
    small = shrink(failure)
    assert small.invariant == failure.invariant
    assert len(small.plan) < len(failure.plan)
    for number in range(len(small.plan)):
        rest = play(small.seed, small.plan[:number] + small.plan[number + 1 :])
        assert rest is None or rest.invariant != small.invariant, "a fault that is not needed"
    arguments = [part.strip("'") for part in small.command.split()[3:]]
    assert main(arguments) == 1
    assert f"violated: {small.text}" in capsys.readouterr().out


def test_the_command_names_the_violated_invariant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _grants_twice(monkeypatch)
    assert main(["--seeds", "200", "--jobs", "1", "--stop-at-first"]) == 1
    expected = tuple(f"violated: {name}: " for name in GRANTED_TWICE)
    assert capsys.readouterr().out.startswith(expected)
