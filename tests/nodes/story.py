"""What is done to the nodes, step by step, and what must be seen then. Each step goes on from the
one before, as an operator's day does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.nodes.cluster import Node
from tests.nodes.doctoring import doctor, doctor_finds
from tests.nodes.world import World
from tests.waiting import until

#: Seconds within which tasks of a killed agent run again.
AGAIN_WITHIN = 5.0
#: Tasks of 2 s on the GPU queue: more than an upgrade takes on a slow machine.
LOAD = 400


def first_run(world: World) -> str:
    """The playbook brings bare machines to work."""
    world.write_inventory({"gpu1": ["gpu"], "gpu2": ["gpu", "cpu"]}, world.version)
    recap = world.operator.play("site.yml")
    assert all(recap.changed[name] > 0 for name in world.cluster.nodes), recap.changed
    world.control.use_dags(LOAD)
    return f"changed: {recap.changed}"


def second_run(world: World) -> str:
    """Once more changes nothing."""
    recap = world.operator.play("site.yml")
    assert dict.fromkeys(world.cluster.nodes, 0) == recap.changed, recap.output
    return f"changed: {recap.changed}"


def check_mode(world: World) -> str:
    """What would change is told without doing it: nothing here, and a setting there."""
    recap = world.operator.play("site.yml", "--check", "--diff", "--limit", "gpu1")
    assert recap.changed == {"gpu1": 0}, recap.output
    change = json.dumps({"flow_agent_settings": {"gpu": {"slots": 3}}})
    told = world.operator.play(
        "site.yml", "--check", "--diff", "--limit", "gpu1", "--tags", "configure", "-e", change
    )
    assert "+slots = 3" in told.output, told.output
    assert "slots" not in (world.node("gpu1").root / "etc/flow/flow.toml").read_text()
    return "nothing; and +slots = 3 where asked for"


def secrets(world: World) -> str:
    """Passwords are with those that need them: in no journal, and on no other node."""
    folder = world.operator.folder / "secrets"
    passwords = [path.read_text().split()[0] for path in (folder / "broker").iterdir()]
    passwords.append((folder / "database-password").read_text().split()[0])
    for node in world.cluster.nodes.values():
        journal = node.run("journalctl", "--no-pager", "--output=cat").out
        assert not [password for password in passwords if password in journal], node.name
    for node in world.control.workers:
        kept = [path.read_text() for path in (node.root / "etc/flow/credentials").iterdir()]
        theirs = [(folder / "broker" / name).read_text().split()[0] for name in _agents(node)]
        assert sorted(text.strip() for text in kept) == sorted(theirs), node.name
    return f"{len(passwords)} passwords"


def two_names(world: World) -> str:
    """Two nodes run flow-agent@gpu, each under a name of its own."""
    for node in ("gpu1", "gpu2"):
        world.node(node).run("systemctl", "is-active", "flow-agent@gpu")
        world.control.await_agent(f"{node}-gpu", state="online", queues=["gpu"])
    return ", ".join(sorted(world.control.agents()))


def status_line(world: World) -> str:
    """systemctl status says how the agent stands."""
    text = world.node("gpu1").run("systemctl", "status", "--no-pager", "flow-agent@gpu").out
    (line,) = [part.strip() for part in text.splitlines() if part.strip().startswith("Status:")]
    assert "slots busy, queue gpu" in line, text
    return line


def refused_queue(world: World) -> str:
    """A queue that the broker refuses to an agent keeps it from no other."""
    gpu1 = world.node("gpu1")
    flow = ("/usr/local/bin/flow", "agents", "set", "gpu1-gpu")
    gpu2 = world.node("gpu2")
    gpu2.run("systemctl", "stop", "flow-agent@gpu")
    world.control.node.run(*flow, "--queue", "gpu", "--queue", "cpu")
    until(lambda: "refused by the broker: queue cpu" in _status(gpu1), 20, every=0.2)
    status = _status(gpu1)
    since = time.time()
    (task,) = world.control.await_success(world.control.trigger("short"))
    assert task["agent"] == "gpu1-gpu", task
    journal = ("journalctl", "-u", "flow-agent@gpu", "-o", "cat", f"--since=@{since:.0f}")
    assert "connected" not in gpu1.run(*journal).out, "it connects again and again"
    world.control.node.run(*flow, "--reset")
    until(lambda: "refused" not in _status(gpu1), 20, every=0.2)
    gpu2.run("systemctl", "start", "flow-agent@gpu")
    return status


def start_serves(world: World) -> str:
    """A waiting GPU task runs as soon as flow-agent@gpu is started on the GPU node."""
    for node in ("gpu1", "gpu2"):
        world.node(node).run("systemctl", "stop", "flow-agent@gpu")
        world.control.await_agent(f"{node}-gpu", state="offline")
    run = world.control.trigger("short")
    until(lambda: "queue gpu" in (world.control.tasks(run)[0]["reason"] or ""), every=0.5)
    waited = world.control.tasks(run)[0]["reason"]
    began = time.monotonic()
    world.node("gpu1").run("systemctl", "start", "flow-agent@gpu")
    (task,) = world.control.await_success(run)
    assert task["agent"] == "gpu1-gpu", task
    return f"'{waited}', then success on {task['agent']} in {time.monotonic() - began:.1f} s"


def stop_drains(world: World) -> str:
    """systemctl stop lets the task finish that runs."""
    run = _running(world, "long")
    began = time.monotonic()
    world.node("gpu1").run("systemctl", "stop", "flow-agent@gpu")
    seconds = time.monotonic() - began
    world.control.await_success(run)
    assert len(world.control.starts("long")) == 1, world.control.starts("long")
    world.control.await_agent("gpu1-gpu", state="offline")
    world.node("gpu1").run("systemctl", "start", "flow-agent@gpu")
    return f"the stop took {seconds:.1f} s, the task succeeded, one start"


def kill_agent(world: World) -> str:
    """After kill -9 of the agent its task runs again within 5 s."""
    run = _running(world, "long")
    before = len(world.control.starts("long"))
    node = world.node("gpu1")
    pid = str(node.run("systemctl", "show", "--property=MainPID", "--value", "flow-agent@gpu"))
    killed = time.time()
    node.run("kill", "-9", pid)
    until(lambda: len(world.control.starts("long")) > before, 60, every=0.05)
    seconds = world.control.starts("long")[-1].at - killed
    assert seconds < AGAIN_WITHIN, f"{seconds:.1f} s"
    world.control.await_success(run)
    assert len(world.control.starts("long")) == before + 1, world.control.starts("long")
    return f"again after {seconds:.1f} s"


def cable(world: World) -> str:
    """A network that is gone for a while costs no task."""
    run = _running(world, "long")
    before = len(world.control.starts("long"))
    node = world.node("gpu1")
    node.cable("down")
    # The task's end falls into the time without a network.
    ended = Ledger(node)
    until(ended.grown, 60, every=0.2)
    node.cable("up")
    world.control.await_success(run, 90)
    assert len(world.control.starts("long")) == before, world.control.starts("long")
    world.control.await_agent("gpu1-gpu", 60, state="online")
    return "the task ended without a network, its result arrived, one start"


def reload(world: World) -> str:
    """systemctl reload takes over other settings and leaves the task alone that runs."""
    run = _running(world, "long")
    before = len(world.control.starts("long"))
    node = world.node("gpu1")
    settings = node.root / "etc/flow/flow.toml"
    text = settings.read_text()
    settings.write_text(f"{text}slots = 7\n")
    node.run("systemctl", "reload", "flow-agent@gpu")
    world.control.await_agent("gpu1-gpu", slots=7)
    world.control.await_success(run)
    assert len(world.control.starts("long")) == before, world.control.starts("long")
    settings.write_text(text)
    node.run("systemctl", "reload", "flow-agent@gpu")
    return "7 slots while a task ran, one start"


def upgrade(world: World) -> str:
    """A rolling upgrade under load, to client certificates as well, reruns nothing."""
    world.node("gpu2").run("systemctl", "start", "flow-agent@gpu")
    world.control.await_agent("gpu2-gpu", state="online")
    before = len(world.control.starts())
    run = world.control.trigger("load")
    until(lambda: len(world.control.starts()) > before, 60, every=0.2)
    change = {"flow_common_version": world.next_version, "flow_common_client_certificates": True}
    world.operator.play("upgrade.yml", "-e", json.dumps(change))
    tasks = world.control.tasks(run)
    done, left = (sum((task["state"] == "success") is so for task in tasks) for so in (True, False))
    assert left, "the load was over before the upgrade was; make it larger"
    starts = world.control.starts()[before:]
    twice = len(starts) - len({start.task for start in starts})
    assert not twice, starts
    assert not any(task["state"] in {"failed", "up_for_retry"} for task in tasks), tasks
    world.control.node.run("/usr/local/bin/flow", "runs", "cancel", run)
    until(lambda: _settled(world.control.tasks(run)), 60, every=0.5)
    for agent in ("gpu1-gpu", "gpu2-gpu", "gpu2-cpu"):
        shown = world.control.ask("agents", "show", agent)
        assert shown["software"].endswith(f" {world.next_version}"), shown
        assert shown["state"] == "online", shown
    shown_by = ("rabbitmqctl", "-q", "list_connections", "user", "peer_cert_subject")
    connections = world.control.node.run(*shown_by).out.splitlines()
    assert "gpu1-gpu\tCN=gpu1" in connections, connections
    world.write_inventory({"gpu1": ["gpu"], "gpu2": ["gpu", "cpu"]}, world.next_version)
    return f"{len(starts)} starts, {done} successes, {twice} reruns, {left} tasks left at its end"


def decommission(world: World) -> str:
    """A node that is taken out, also while it cannot be reached, is refused at once."""
    control, gpu2 = world.node("control"), world.node("gpu2")
    password = (gpu2.root / "etc/flow/credentials/agent-gpu.password").read_text()
    assert _connections(control, "gpu2-gpu")
    gpu2.cable("down")
    recap = world.operator.play("decommission.yml", "-e", "flow_node=gpu2")
    assert recap.changed["control"] > 0, recap.output
    assert "gpu2-gpu" not in control.run("rabbitmqctl", "-q", "list_users").out
    until(lambda: not _connections(control, "gpu2-gpu"), 10, every=0.2)
    assert world.control.agents()["gpu2-gpu"]["state"] != "dead", "nobody vouched for it"
    gpu2.cable("up")
    gpu2.run("systemctl", "is-active", "flow-agent@gpu")
    until(lambda: "refused" in _status(gpu2).lower(), 30, every=0.5)
    refused = _status(gpu2)
    world.operator.play("decommission.yml", "-e", "flow_node=gpu2")
    assert gpu2.run("systemctl", "is-active", "flow-agent@gpu", check=False).code != 0
    assert password.strip() not in control.run("rabbitmqctl", "-q", "list_users").out
    (task,) = world.control.await_success(world.control.trigger("short"))
    assert task["agent"] == "gpu1-gpu", task
    return refused


STEPS: tuple[Callable[[World], str], ...] = (
    first_run,
    second_run,
    check_mode,
    secrets,
    two_names,
    status_line,
    doctor,
    doctor_finds,
    refused_queue,
    start_serves,
    stop_drains,
    kill_agent,
    cable,
    reload,
    upgrade,
    decommission,
)


@dataclass(slots=True)
class Ledger:
    """Tells whether a node's ledger has got longer since."""

    node: Node
    size: int = -1

    def grown(self) -> bool:
        now = (self.node.root / "var/lib/flow/ledger").stat().st_size
        self.size = now if self.size < 0 else self.size
        return now > self.size


def _running(world: World, dag: str) -> str:
    """Start a run of *dag* and wait until its task runs; the run's id."""
    before = len(world.control.starts(dag))
    run = world.control.trigger(dag)
    until(lambda: len(world.control.starts(dag)) > before, 60, every=0.1)
    return run


def _settled(tasks: list[dict[str, Any]]) -> bool:
    """Whether all of them have ended, one way or the other."""
    return all(task["end_date"] is not None or task["state"] == "skipped" for task in tasks)


def _agents(node: Node) -> list[str]:
    """The names of its agents, which are those of its users at the broker too."""
    units = node.run("systemctl", "list-units", "--plain", "--no-legend", "flow-agent@*").out
    queues = [line.split()[0].split("@")[1].removesuffix(".service") for line in units.splitlines()]
    return [f"{node.name}-{queue}" for queue in queues]


def _connections(control: Node, user: str) -> int:
    listed = control.run("rabbitmqctl", "-q", "list_connections", "user").out
    return listed.split().count(user)


def _status(node: Node) -> str:
    command = ("systemctl", "show", "--property=StatusText", "--value", "flow-agent@gpu")
    return str(node.run(*command))
