"""What an agent needs of its node to run tasks: interpreters, bash, cgroups, its code cache."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from flow.cli.checks.finding import Judgement, note, ok, problem, warning
from flow.cli.checks.subjects import Subject
from flow.cli.checks.units import Unit, output_of

#: Of the interpreters of tasks (docs/python-tasks.md).
OLDEST_PYTHON = (3, 10)
CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpu", "pids")
_VERSION = "import sys; print(*sys.version_info[:2])"
#: Seconds for starting an interpreter on a busy machine; for reading the cache.
_START, _READING = 8.0, 10.0


def check_programs(subject: Subject) -> Iterator[Judgement]:
    """What tasks are started with."""
    from agent.interpreters import Interpreters, NoInterpreter
    from agent.operators import DEFAULT_PATH, INHERITED, Preparer

    config = subject.config
    own: Mapping[str, str] = subject.unit.environment if subject.unit else subject.environ
    seen = {"PATH": DEFAULT_PATH, **{name: own[name] for name in INHERITED if name in own}}
    bash = Preparer.find("doctor", seen, config.home, ()).bash
    if bash is None:
        yield problem("there is no bash, which shell tasks need", "install bash")
    interpreters = Interpreters.of(config.agent.python, config.agent.python_for)
    wanted: dict[str, list[str]] = {}
    for queue in config.agent.queues:
        try:
            wanted.setdefault(interpreters.choose(None, queue, seen).path, []).append(queue)
        except NoInterpreter as error:
            what, _, remedy = str(error).partition("; ")
            yield problem(f"queue {queue}: {what}", remedy)
    for path, queues in wanted.items():
        version = (
            None if path == sys.executable else output_of(path, "-c", _VERSION, patience=_START)
        )
        yield judge_interpreter(path, queues, version)


def judge_interpreter(path: str, queues: list[str], said: str | None) -> Judgement:
    """*said* is its version as two numbers; ``None`` of flow's own, and of one that fails."""
    whose = f"Python tasks of {', '.join(queues)}"
    if path == sys.executable:
        return ok(f"{whose} run under flow's own interpreter, {path}")
    numbers = (said or "").split()
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):  # noqa: PLR2004
        return problem(
            f"{whose} would run under {path}, which does not run as a Python interpreter",
            "install it, or change [agent] python or python_for",
        )
    version = (int(numbers[0]), int(numbers[1]))
    text = f"{path}, Python {'.'.join(numbers)}"
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return problem(f"{whose} would run under {text}", f"use Python {oldest} or later")
    return ok(f"{whose} run under {text}")


def check_cgroups(unit: Unit | None, root: Path = CGROUPS) -> Iterator[Judgement]:
    """Whether tasks can be held to memory, cpus and pids, and killed as a whole."""
    without = "tasks can be run, and not held to memory, cpus or pids"
    hybrid = root / "unified" / "cgroup.controllers"
    if not (root / "cgroup.controllers").exists():
        how = "has cgroup v2 for names only" if hybrid.exists() else "has no cgroup v2"
        remedy = "boot with systemd.unified_cgroup_hierarchy=1; in a container, on its host"
        yield warning(f"this machine {how}: {without}", remedy)
        return
    lacking = _lacking((root / "cgroup.controllers").read_text().split())
    if lacking:
        what = f"the kernel offers no controller {lacking}: tasks cannot be held to it"
        yield warning(what, "see cgroup_disable= in /proc/cmdline")
    if unit is None:
        yield note(
            f"an agent that systemd does not start has no cgroup of its own: {without}",
            "start it as flow-agent@QUEUE.service",
        )
        return
    lacking = _lacking(unit.delegated)
    if lacking:
        what = f"{unit.name} delegates no {lacking}: tasks cannot be held to it"
        yield warning(what, "give it Delegate=memory pids cpu, see systemctl edit")
        return
    yield ok(f"{unit.name} delegates {', '.join(_CONTROLLERS)}")
    yield from _kernel(root / unit.control_group.strip("/"))


def _kernel(folder: Path) -> Iterator[Judgement]:
    """Of a unit that runs: what newer kernels have."""
    inside = folder / "agent" if (folder / "agent").is_dir() else folder
    if not (inside / "cgroup.procs").exists():
        return
    if not (inside / "cgroup.kill").exists():
        yield note("the kernel is older than 5.14: tasks are killed process by process")
    if (inside / "memory.max").exists() and not (inside / "memory.peak").exists():
        yield note("the kernel is older than 5.19: a task's peak of memory is not recorded")


def _lacking(present: object) -> str:
    assert isinstance(present, frozenset | list), "names of controllers"
    return ", ".join(name for name in _CONTROLLERS if name not in present)


def check_cache(folder: Path, max_bytes: int) -> Iterator[Judgement]:
    """Whether what is kept is what it should be. Blocks for up to ten seconds."""
    from agent.cacheaudit import audit

    end = time.monotonic() + _READING
    found = audit(folder, lambda: time.monotonic() < end)
    size = f"{found.size / 1024**2:.0f} MiB of at most {max_bytes / 1024**2:.0f}"
    if found.damaged:
        yield warning(
            f"{len(found.damaged)} of {found.checked} files are not what they should be, such as "
            f"{found.damaged[0]}",
            "nothing runs with them, they are fetched again; is the disk, or somebody, changing "
            "them?",
        )
    elif found.checked < found.files:
        yield ok(f"{size}; {found.checked} of {found.files} files looked at, all whole")
    else:
        yield ok(f"{size}; all {found.files} files are whole")
    if found.size > max_bytes:
        yield note("it is over its size: what runs is kept, the rest goes with the next fetch")
