"""``python -m bench [WORKLOAD ...]``: flow, its peers and the machine's limits, in rounds.

Without workloads it measures all of them. Raw data is kept in ``--out``, as JSON lines; a table per
workload is printed in the end, and again by ``python -m bench.report FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import report, services
from bench.contender import Contender, ContenderFailed
from bench.counters import can_count_syncs
from bench.registry import CONTENDERS, DEFAULT, LIMITS, WORKLOADS, contender, workloads
from bench.runner import SLOTS, Record, Runner
from bench.services import Services

_ROUNDS = 5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [workload.name for workload in WORKLOADS]
    made.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(names)}")
    made.add_argument("--runs", type=int, default=_ROUNDS, metavar="N", help="rounds (default 5)")
    made.add_argument(
        "--contenders",
        nargs="+",
        default=list(DEFAULT),
        metavar="NAME",
        help=f"of {', '.join(CONTENDERS)}, flow first; flow=FOLDER is that of another checkout",
    )
    made.add_argument("--quick", action="store_true", help="small sizes: does it all work?")
    made.add_argument("--no-limits", action="store_true", help="leave the limit scripts out")
    made.add_argument(
        "--out", type=Path, help="folder for the raw data (default: bench-results/..)"
    )
    return made


def present(names: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """The contenders that can take part, and of all of them what they are. Raises SystemExit for a
    name that is none."""
    there: list[Contender] = []
    about: dict[str, str] = {}
    for name in names:
        try:
            made = contender(name)
            about[made.name] = made.version()
            there.append(made)
        except KeyError:
            raise SystemExit(
                f"bench: expected one of {', '.join(CONTENDERS)}, got {name!r}"
            ) from None
        except (ImportError, ContenderFailed) as error:
            about[name] = f"MISSING, so nothing is compared with it: {error}"
            print(f"bench: {name} is {about[name]}", file=sys.stderr, flush=True)
    return there, about


def describe(running: Services, *, rounds: int, quick: bool) -> dict[str, Any]:
    """What is measured, on what."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2] for line in cpuinfo if "model name" in line), "")
    ((postgres,),) = running.execute("SHOW server_version")
    rabbitmq = json.loads(running.rabbitmq.api("GET", "/overview"))["rabbitmq_version"]
    version = platform.python_version()
    return {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores{model}, Linux {platform.release()}, Python {version}",
        "services": f"RabbitMQ {rabbitmq}, PostgreSQL {postgres}, default fsync",
        "slots": SLOTS,
        "rounds": rounds,
        "quick": quick,
        "syncs": "" if can_count_syncs() else "perf is missing or may not attach to processes",
    }


def main(arguments: Sequence[str]) -> int:
    """Run, record, report; 1 if anything failed."""
    given = parser().parse_args(arguments)
    try:
        chosen = workloads(given.workloads)
    except KeyError as error:
        raise SystemExit(f"bench: expected a workload such as W1, got {error}") from None
    there, contenders = present(",".join(given.contenders).split(","))
    now = datetime.now(UTC)
    folder = given.out or Path("bench-results") / now.strftime("%Y-%m-%d_%H.%M.%S")
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(folder)
    begun = time.monotonic()
    with services.running() as running:
        about = describe(running, rounds=given.runs, quick=given.quick)
        about["contenders"] = contenders
        about["refused"] = {
            made.name: {w.name: why for w in chosen if (why := made.refuses(w.name))}
            for made in there
        }
        limits = () if given.no_limits else LIMITS
        runner = Runner(running, record, there, chosen, limits, quick=given.quick)
        for number in range(given.runs):
            runner.round(number)
            about["minutes"] = round((time.monotonic() - begun) / 60)
            (folder / "about.json").write_text(json.dumps(about, indent=2))
    print()
    report.main([str(folder)])
    return int(bool(record.failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
