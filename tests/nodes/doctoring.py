"""What ``flow doctor`` says on the nodes: where all is well, and where something is broken."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.nodes.cluster import Node
from tests.nodes.world import World

#: Findings that are right on any node that is booted here, as (check, what is in it).
_EXPECTED = (
    # systemd-nspawn has no cgroup v2 for its controllers on a hybrid host.
    ("cgroups", "cgroup v2 for names only"),
)


@dataclass(frozen=True, slots=True)
class Examined:
    """What it said, and the exit code."""

    code: int
    findings: list[dict[str, str]]

    def of(self, level: str, check: str = "") -> list[str]:
        """The findings of *level*, of *check* if named, with what to do."""
        return [
            f"{each['check']}: {each['what']}; {each['remedy']}"
            for each in self.findings
            if each["level"] == level and each["check"].endswith(check)
        ]

    @property
    def unexpected(self) -> list[str]:
        """All that is worse than it has to be here."""
        return [
            f"{each['level']} {each['check']}: {each['what']}"
            for each in self.findings
            if each["level"] in {"warning", "problem"}
            and not any(
                each["check"].endswith(check) and part in each["what"] for check, part in _EXPECTED
            )
        ]


def examine(node: Node, *, user: str = "root") -> Examined:
    """Run it there as *user*."""
    done = node.run(
        "runuser", "-u", user, "--", "/usr/local/bin/flow", "doctor", "--output=json", check=False
    )
    assert done.code in (0, 1), f"exit {done.code}: {done.err}"
    return Examined(done.code, json.loads(done.out))


def doctor(world: World) -> str:
    """flow doctor finds nothing wrong on the control machine and on a node."""
    for name in ("control", "gpu1", "gpu2"):
        seen = examine(world.node(name))
        assert seen.code == 0, (name, seen.of("problem"))
        assert not seen.unexpected, (name, seen.unexpected)
        assert seen.of("ok", "rights"), seen.findings
    own = examine(world.node("gpu1"), user="flow")
    assert own.code == 0, own.of("problem")
    # Somebody without any right here gets findings, and is told why.
    (told,) = examine(world.node("gpu1"), user="nobody").of("warning", "user")
    return told


def doctor_finds(world: World) -> str:
    """flow doctor says what to do about a wrong password, and about a broker that is down."""
    control, gpu1 = world.node("control"), world.node("gpu1")
    password = gpu1.root / "etc/flow/credentials/agent-gpu.password"
    right = password.read_text()
    password.write_text("wrong\n")
    gpu1.run("systemctl", "restart", "flow-agent@gpu", check=False)
    (login,) = examine(gpu1).of("problem", "broker")
    assert "login refused" in login, login
    assert "journalctl -u flow-agent@gpu.service" in login, login
    password.write_text(right)
    gpu1.run("systemctl", "restart", "flow-agent@gpu")
    control.run("systemctl", "stop", "rabbitmq-server")
    for node in (control, gpu1):
        (away,) = examine(node).of("problem")
        assert "connection refused; is it running there" in away, away
    control.run("systemctl", "start", "rabbitmq-server")
    world.control.await_agent("gpu1-gpu", state="online")
    world.control.await_agent("gpu2-gpu", state="online")
    assert examine(control).code == 0
    return login
