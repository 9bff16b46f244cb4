"""Playing seeds, one after the other or many at once; what fails is made smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from dispatcher.core.core import IllegalTransition
from tests.sim.coverage import Coverage
from tests.sim.faults import Fault
from tests.sim.ledger import Violation
from tests.sim.plan import plan_of
from tests.sim.world import World

#: Seeds that a process plays between two reports.
BATCH = 250
#: Faults are shortened to these parts of what they were, in this order.
SHORTER = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed under which an invariant does not hold. ``plan`` has its faults by their number in
    the seed's own plan."""

    seed: int
    invariant: str
    text: str
    plan: tuple[tuple[int, Fault], ...]

    @property
    def command(self) -> str:
        """What plays it once more."""
        only = ",".join(str(number) for number, _ in self.plan)
        full = dict(enumerate(plan_of(self.seed)))
        shortened = [
            f"{number}:{fault.duration:.3f}"
            for number, fault in self.plan
            if fault.duration != full[number].duration
        ]
        lengths = f" --last {','.join(shortened)}" if shortened else ""
        return f"python -m tests.sim --seed {self.seed} --only '{only}'{lengths}"


def play(
    seed: int,
    plan: Sequence[tuple[int, Fault]] | None = None,
    *,
    coverage: Coverage | None = None,
    history: list[str] | None = None,
) -> Failure | None:
    """Play one seed, with its own plan or what is left of it."""
    numbered = tuple(enumerate(plan_of(seed)) if plan is None else plan)
    world = World(seed, [fault for _, fault in numbered], history=history)
    try:
        world.run()
    except Violation as violation:
        return Failure(seed, violation.invariant, str(violation), numbered)
    except IllegalTransition as error:
        return Failure(seed, "I5 legal transitions", f"I5 legal transitions: {error}", numbered)
    except Exception as error:  # noqa: BLE001 - whatever a core raises is a finding
        text = f"no exception: {type(error).__name__}: {error}"
        return Failure(seed, "no exception", text, numbered)
    if coverage is not None:
        coverage.take(world)
    return None


def shrink(failure: Failure) -> Failure:
    """Leave out and shorten what is not needed for the same invariant to break."""
    smaller = True
    while smaller:
        smaller = False
        for plan in _smaller_plans(failure.plan):
            found = play(failure.seed, plan)
            if found is not None and found.invariant == failure.invariant:
                failure, smaller = found, True
                break
    return failure


def _smaller_plans(
    plan: tuple[tuple[int, Fault], ...],
) -> Iterator[tuple[tuple[int, Fault], ...]]:
    for left_out in range(len(plan)):
        yield plan[:left_out] + plan[left_out + 1 :]
    for at, (number, fault) in enumerate(plan):
        for part in SHORTER:
            duration = round(fault.duration * part, 3)
            if duration >= 0.05:
                shorter = (number, replace(fault, duration=duration))
                yield (*plan[:at], shorter, *plan[at + 1 :])


def play_batch(seeds: Sequence[int]) -> tuple[Coverage, list[Failure]]:
    """Play *seeds* in this process."""
    coverage = Coverage()
    outcomes = [play(seed, coverage=coverage) for seed in seeds]
    return coverage, [failure for failure in outcomes if failure is not None]


def play_all(
    seeds: range,
    *,
    jobs: int,
    stop_at_first: bool = False,
    told: Callable[[Coverage], None] = lambda _: None,
) -> tuple[Coverage, list[Failure]]:
    """Play *seeds* in *jobs* processes; *told* hears how far it is."""
    coverage, failures = Coverage(), []
    for seen, failed in _batches(seeds, jobs):
        coverage.add(seen)
        failures += failed
        told(coverage)
        if failures and stop_at_first:
            break
    return coverage, sorted(failures, key=lambda failure: failure.seed)


def _batches(seeds: range, jobs: int) -> Iterable[tuple[Coverage, list[Failure]]]:
    size = max(1, min(BATCH, len(seeds) // jobs or 1))
    parts = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    if jobs == 1:
        yield from map(play_batch, parts)
        return
    # Not fork: pytest's process has threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(play_batch, parts)
        finally:
            pool.shutdown(cancel_futures=True)
