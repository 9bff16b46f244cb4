"""What an agent makes of its cgroups, over a folder that looks like them; and what tasks get."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.cgroups import Attribute, Cgroups, claim
from agent.keeper.cgroups import Cgroup, name_of, session_and_token
from agent.operators import NotHere
from agent.resources import Defaults, Held, held_to
from flow.dagspec import Resources

UNIT = "/system.slice/flow-agent@gpu.service"
EVERYTHING = Cgroups(Path("/top"), frozenset({"memory", "cpus", "pids"}), "", swap=True)


class Machine:
    """A /proc and a cgroup file system in a folder. What is written there can be read again."""

    def __init__(self, folder: Path, cgroup: str = UNIT, controllers: str = "cpu memory pids"):
        self.proc = folder / "proc"
        self.mount = folder / "sys fs" / "cgroup"
        self.top = self.mount / UNIT[1:]
        home = self.top / "agent"
        home.mkdir(parents=True)
        self.proc.mkdir()
        (self.proc / "cgroup").write_text(f"4:memory:/elsewhere\n0::{cgroup}\n")
        self.mounted("/")
        (self.top / "cgroup.controllers").write_text(controllers)
        (self.top / "cgroup.subtree_control").write_text("")
        (home / "cgroup.procs").write_text("")

    def mounted(self, root: str) -> None:
        point = str(self.mount).replace(" ", "\\040")
        (self.proc / "mountinfo").write_text(
            "25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
            f"41 31 0:38 {root} {point} rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw\n"
        )

    def claim(self, delegated: Mapping[Path, bytes] | None = None) -> Cgroups:
        marks = {self.top: b"1"} if delegated is None else delegated
        return claim(self.proc, attribute=_attribute(marks))


def _attribute(marks: Mapping[Path, bytes]) -> Attribute:
    def read(path: Path, name: str) -> bytes:
        assert name == "user.delegate"
        if path not in marks:
            raise OSError(errno.ENODATA, "No data available")
        return marks[path]

    return read


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_delegated_cgroup_is_taken_with_its_controllers(machine: Machine) -> None:
    found = machine.claim()
    assert found == Cgroups(machine.top, frozenset({"memory", "cpus", "pids"}), "")
    assert found.complete
    assert found.told() == (
        f"a cgroup per task in {machine.top}, which can be held to memory, cpus, pids"
    )
    assert (machine.top / "agent" / "cgroup.procs").read_text() == "0"


def test_from_its_own_cgroup_the_agent_finds_the_delegated_one_above(tmp_path: Path) -> None:
    assert Machine(tmp_path, cgroup=f"{UNIT}/agent").claim().complete


def test_in_a_container_the_path_begins_where_the_mount_does(tmp_path: Path) -> None:
    machine = Machine(tmp_path, cgroup=f"/docker/abc{UNIT}")
    machine.mounted("/docker/abc")
    assert machine.claim().complete
    machine.mounted("/docker/another")
    assert machine.claim().lacking == "this machine has no cgroup file system of version 2 mounted"


@pytest.mark.parametrize("marks", [{}, {Path("/"): b"1"}])
def test_what_is_not_delegated_is_left_alone(machine: Machine, marks: dict[Path, bytes]) -> None:
    (machine.top / "agent" / "cgroup.procs").unlink()
    found = machine.claim(marks | {machine.top: b"0"} if marks else {})
    assert found.told() == (
        "no cgroup per task, so none can be held to memory, cpus, pids: its cgroup "
        f"{machine.top} is not delegated to it; its unit needs Delegate=memory pids cpu"
    )
    assert not found.complete


def test_version_1_alone_is_none(machine: Machine) -> None:
    (machine.proc / "cgroup").write_text("4:memory:/elsewhere\n")
    assert machine.claim().lacking == "this machine has no cgroup file system of version 2 mounted"


def test_a_controller_that_is_missing_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path, controllers="cpu io pids")
    found = machine.claim()
    assert found.limits == {"cpus", "pids"}
    assert not found.complete
    assert found.told() == (
        f"a cgroup per task in {machine.top}, but none can be held to memory: the controller "
        f"'memory' is not delegated to {machine.top}"
    )


def test_a_place_that_cannot_be_moved_to_is_named(machine: Machine) -> None:
    (machine.top / "agent" / "cgroup.procs").unlink()
    assert machine.claim().lacking == (
        f"cannot move to {machine.top}/agent: No such file or directory"
    )


def test_controllers_that_cannot_be_handed_on_are_said(machine: Machine) -> None:
    (machine.top / "cgroup.subtree_control").unlink()
    found = machine.claim()
    assert (found.top, found.limits) == (machine.top, frozenset())
    assert found.lacking.startswith("controller 'memory': No such file or directory; controller")


# -- names and figures -------------------------------------------------------------------------


def test_a_cgroups_name_says_whose_it_is() -> None:
    name = name_of("0a1b", 12, 1763)
    assert name == "task-0a1b-12-1763"
    assert session_and_token(name, "0a1b") == (12, 1763)
    for other in ("task-0a1b-12", "task-0a1c-12-1763", "agent", "xtask-0a1b-1-2", "task-0a1b-x-2"):
        assert session_and_token(other, "0a1b") is None


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\noom_group_kill 1\n", "limit"),
        ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 1\n", "node"),
        ("low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\noom_group_kill 0\n", ""),
    ],
)
def test_what_a_task_has_used_is_read(tmp_path: Path, events: str, told: str) -> None:
    (tmp_path / "memory.peak").write_text("104857600\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n")
    (tmp_path / "memory.events").write_text(events)
    assert Cgroup(str(tmp_path)).usage() == {
        "memory_peak": 104857600,
        "cpu_seconds": 2.5,
        "out_of_memory": told,
    }


def test_what_is_not_measured_is_none(tmp_path: Path) -> None:
    nothing = {"memory_peak": None, "cpu_seconds": None, "out_of_memory": ""}
    assert Cgroup(str(tmp_path)).usage() == nothing


def test_what_cannot_be_told_is_no_proof_of_death(tmp_path: Path) -> None:
    cgroup = Cgroup(str(tmp_path))
    assert not cgroup.populated, "there is none any more"
    (tmp_path / "cgroup.events").mkdir()
    assert cgroup.populated, "it cannot be read"


# -- what tasks are held to --------------------------------------------------------------------


def test_a_tasks_own_word_goes_before_the_agents() -> None:
    defaults = Defaults(memory=1 << 30, cpus=2.0, pids=100)
    held = held_to(Resources(memory=4 << 30, cpus=0.5), defaults, EVERYTHING)
    assert held == Held(
        4 << 30,
        {
            "memory.oom.group": "1",
            "memory.swap.max": "0",
            "memory.max": "4294967296",
            "cpu.max": "50000 100000",
            "pids.max": "100",
        },
    )
    assert held_to(Resources(), defaults, EVERYTHING).files["memory.max"] == "1073741824"


def test_without_limits_all_of_a_task_still_dies_of_the_nodes_want_of_memory() -> None:
    assert held_to(Resources(), Defaults(), EVERYTHING) == Held(0, {"memory.oom.group": "1"})


def test_a_kernel_that_counts_no_swap_is_not_told_of_it() -> None:
    cgroups = Cgroups(Path("/top"), frozenset({"memory"}), "")
    files = held_to(Resources(memory=1 << 30), Defaults(), cgroups).files
    assert "memory.swap.max" not in files


def test_a_task_that_cannot_be_held_to_what_it_asks_is_refused_here() -> None:
    lacking = "the controller 'memory' is not delegated to /top"
    cgroups = Cgroups(Path("/top"), frozenset({"cpus", "pids"}), lacking)
    with pytest.raises(NotHere) as refused:
        held_to(Resources(memory=1 << 30, pids=10), Defaults(), cgroups)
    assert str(refused.value) == (
        "the task asks for memory: expected cgroups of version 2 that can hold it to that, got "
        f"none ({lacking}); `agent.run_without_limits` lets such tasks run without"
    )


def test_the_agents_own_limits_hold_where_they_can() -> None:
    cgroups = Cgroups(Path("/top"), frozenset({"pids"}), "no memory controller")
    held = held_to(Resources(), Defaults(memory=1 << 30, pids=100), cgroups)
    assert held == Held(0, {"pids.max": "100"})


def test_an_agent_may_be_told_to_run_tasks_without_their_limits() -> None:
    defaults = Defaults(memory=1 << 30, run_without_limits=True)
    assert held_to(Resources(memory=1 << 20, cpus=1), defaults, Cgroups()) == Held(0, {})


@pytest.mark.parametrize(
    ("held", "whose", "reason"),
    [
        (Held(4 << 30, {}), "limit", "out of memory (limit 4G)"),
        (Held(1536 << 20, {}), "limit", "out of memory (limit 1.5G)"),
        (
            Held(4 << 30, {}),
            "node",
            "out of memory (of the node or the agent's unit, not a limit of the task's)",
        ),
        (Held(4 << 30, {}), "", ""),
    ],
)
def test_out_of_memory_says_whose(held: Held, whose: str, reason: str) -> None:
    assert held.out_of_memory(whose) == reason
