"""``python -m tests.mutants``: breaks one rule after the other and sees that it is noticed.

Prints a line for each mutant; exits with 1 when one survives. It works on a copy of the checkout,
in ``/tmp``. Services are started once, for all tests that want them.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS
from tests.mutants.tree import Tree

#: Seeds within which the simulator must notice what it can see.
SEEDS = 2000
#: Seconds: much longer than any named test, or that many seeds, takes.
_PATIENCE = 900.0


def main() -> int:
    """The exit code: 0 when every mutant was killed."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleans up
    chosen = [x for x in MUTANTS if not arguments.only or x.name in arguments.only]
    with tempfile.TemporaryDirectory(prefix="flow-mutants-") as folder:
        tree = Tree(Path(folder) / "flow")
        print(f"{len(chosen)} mutants in {tree.root}", flush=True)
        if failures := _failing(tree, {test for mutant in chosen for test in mutant.tests}):
            print("these fail without any mutant:", *sorted(failures), sep="\n  ")
            return 1
        if not arguments.no_simulator and (violated := _failing_seed(tree)):
            print(f"the simulator fails without any mutant: {violated}")
            return 1
        survivors = [x for x in chosen if not _try(tree, x, simulate=not arguments.no_simulator)]
    if survivors:
        print(f"{len(survivors)} survived: {', '.join(x.name for x in survivors)}")
        return 1
    print(f"all {len(chosen)} were killed")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    names = [mutant.name for mutant in MUTANTS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME")
    parser.add_argument("--no-simulator", action="store_true")
    return parser.parse_args()


def _try(tree: Tree, mutant: Mutant, *, simulate: bool) -> bool:
    """Whether everything that must notice *mutant* does; prints its line."""
    with tree.mutated(mutant):
        begin = time.monotonic()
        blind = mutant.tests - _failing(tree, mutant.tests)
        took = time.monotonic() - begin
        verdicts = [f"killed by test in {took:.1f} s" if not blind else "SURVIVED its tests"]
        verdicts += sorted(blind)
        noticed = not blind
        if mutant.unseen:
            verdicts.append(f"not visible to the simulator: {mutant.unseen}")
        elif simulate:
            seed = _failing_seed(tree)
            verdicts.append(
                f"SURVIVED {SEEDS} seeds" if seed is None else f"killed by simulator at {seed}"
            )
            noticed = noticed and seed is not None
    print(f"{mutant.name:<26} {'; '.join(verdicts)}", flush=True)
    return noticed


def _failing(tree: Tree, tests: Collection[str]) -> set[str]:
    """Those of *tests* that fail in the tree as it is. Raises :class:`RuntimeError` when they
    cannot be run: a mutant that does not even import proves nothing."""
    command = ["-m", "pytest", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
    done = _run(tree, *command, "-q", "--tb=no", "--no-header", "-rfE", *sorted(tests))
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    failed = {said.partition(" - ")[0] for how, _, said in lines if how in ("FAILED", "ERROR")}
    # Of a parametrised test that is named as a whole, one case is enough.
    return {test for test in tests if test in failed | {name.partition("[")[0] for name in failed}}


def _failing_seed(tree: Tree) -> str | None:
    """What the simulator says of the first seed that fails; ``None``: none of them does."""
    done = _run(tree, "-m", "tests.sim", "--seeds", str(SEEDS), "--stop-at-first")
    if done.returncode == 0:
        return None
    if done.returncode != 1:
        raise RuntimeError(f"the simulator ended with {done.returncode}:\n{done.stderr}")
    found = re.search(r"^violated: (.*) \(seed (\d+)\)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"expected a violated invariant, got:\n{done.stdout}{done.stderr}")
    return f"seed {found[2]} ({found[1][:80]})"


def _run(tree: Tree, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tree.python, *arguments],
        cwd=tree.root,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
