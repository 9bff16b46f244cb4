"""``kill -9`` of agents and dispatchers while chains run: never lost, never twice.

Twenty seeded kills each. The ledger is written by the tasks themselves, outside the system.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.ledger import Life, ledger_chain, now, overlaps, read_ledger
from tests.acceptance.system import SHORT_LEASES, System

KILLS = 20
LENGTH = 4
TASK_SECONDS = 0.2
#: From the trigger to about the usual end of the chain.
CHAIN_SECONDS = 1.0


@pytest.fixture
def ledger(system: System, tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    system.settings.update(SHORT_LEASES)
    system.write_dag("ledger", ledger_chain(path, TASK_SECONDS, length=LENGTH))
    return path


def trigger(system: System) -> subprocess.Popen[str]:
    """Start a run; returns once it is known."""
    process = system.start_command("dags", "trigger", "ledger", "--wait")
    assert process.stdout is not None
    assert process.stdout.readline(), "no run id"
    return process


def ended_well(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def check(ledger: Path, runs: int) -> None:
    lives = read_ledger(ledger)
    assert overlaps(lives) == []
    finished = [life.task for life in lives if life.finished]
    assert len(set(finished)) == runs * LENGTH
    print(f"{runs} runs, {len(lives)} copies started, {len(finished)} finished, lost 0, twice 0")


def victim(ledger: Path, number: int, candidates: Sequence[str], chance: random.Random) -> str:
    """Whom to kill: every other time one that has a task alive at that very moment."""
    end = now() + CHAIN_SECONDS
    while number % 2 and now() < end:
        busy = {life.agent for life in read_ledger(ledger) if is_alive(life)}
        if found := sorted(busy & set(candidates)):
            return chance.choice(found)
    return chance.choice(sorted(candidates))


def is_alive(life: Life) -> bool:
    return not life.finished and life.last > now() - 0.03


def assert_some_were_interrupted(ledger: Path) -> None:
    """Otherwise the kills have shown nothing."""
    assert any(not life.finished for life in read_ledger(ledger))


def some_moment_in_a_chain(chance: random.Random) -> None:
    time.sleep(chance.uniform(0.0, CHAIN_SECONDS))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_agents_killed_and_restarted(system: System, ledger: Path) -> None:
    chance = random.Random(1)
    system.start_dispatcher()
    agents = {"node1": "q1", "node2": "q2"}
    running = {name: system.start_agent(name, queue) for name, queue in agents.items()}
    system.known("ledger")
    for number in range(KILLS):
        run = trigger(system)
        some_moment_in_a_chain(chance)
        name = victim(ledger, number, list(agents), chance)
        running[name].kill()
        running[name] = system.start_agent(name, agents[name], ready=False)
        ended_well(run)
    check(ledger, KILLS)
    assert_some_were_interrupted(ledger)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_agents_killed_for_good_while_a_second_one_serves_the_queue(
    system: System, ledger: Path
) -> None:
    chance = random.Random(2)
    system.start_dispatcher()
    system.start_agent("node1", "q1")
    alive = {name: system.start_agent(name, "q2") for name in ("node2-0", "node2-1")}
    system.known("ledger")
    for number in range(KILLS):
        run = trigger(system)
        some_moment_in_a_chain(chance)
        alive.pop(victim(ledger, number, list(alive), chance)).kill()
        ended_well(run)
        name = f"node2-{number + 2}"
        alive[name] = system.start_agent(name, "q2")
    check(ledger, KILLS)
    assert_some_were_interrupted(ledger)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_dispatchers_killed_and_restarted(system: System, ledger: Path) -> None:
    chance = random.Random(3)
    dispatcher = system.start_dispatcher()
    system.start_agent("node1", "q1")
    system.start_agent("node2", "q2")
    system.known("ledger")
    for _ in range(KILLS):
        run = trigger(system)
        some_moment_in_a_chain(chance)
        dispatcher.kill()
        dispatcher = system.start_dispatcher()
        ended_well(run)
    check(ledger, KILLS)
    # Nobody lost an agent meanwhile, so nothing ran more than once.
    assert len(read_ledger(ledger)) == KILLS * LENGTH
