"""What systemd knows of flow's units on this machine, where it runs."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flow.cli.checks.finding import Judgement, note, ok, problem, warning

DISPATCHER = "flow-dispatcher.service"
AGENT = "flow-agent@{}.service"
#: Made by a systemd that is the init of this machine (sd_booted(3)).
BOOTED = Path("/run/systemd/system")
_CREDENTIALS = Path("/run/credentials")
#: Seconds for one question.
PATIENCE = 3.0
_PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "StatusText"),
    *(
        "User",
        "Environment",
        "EnvironmentFiles",
        "WatchdogUSec",
        "ControlGroup",
        "Delegate",
        "DelegateControllers",
    ),
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that systemd has a file of."""

    name: str
    active: str
    enabled: str
    result: str = "success"
    status: str = ""
    user: str = ""
    """Whom it runs as; empty: root."""
    watchdog: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    control_group: str = ""
    """While it runs: its folder below the cgroup file system."""
    delegated: frozenset[str] = frozenset()
    """The controllers it may use, by their kernel names."""

    @property
    def settings(self) -> dict[str, str]:
        """What its processes see of flow's settings: of this user's own shell they may differ."""
        found = {
            name: value for name, value in self.environment.items() if name.startswith("FLOW_")
        }
        credentials = _CREDENTIALS / self.name
        if os.access(credentials, os.R_OK | os.X_OK):
            found["CREDENTIALS_DIRECTORY"] = str(credentials)
        return found


def output_of(*argv: str, patience: float = PATIENCE) -> str | None:
    """What a command prints; ``None`` when it is not there, fails, or takes too long."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=patience, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def is_booted() -> bool:
    """Whether systemd is the init of this machine: its tools may wait for it otherwise."""
    return BOOTED.is_dir()


def read_unit(name: str) -> Unit | None:
    """The unit, or ``None`` where systemd does not run or has none of this name."""
    if not is_booted():
        return None
    text = output_of("systemctl", "show", name, f"--property={','.join(_PROPERTIES)}")
    return None if text is None else parse_unit(text)


def agent_instances() -> list[str]:
    """The instances of flow-agent@ that systemd knows of: running, failed or enabled."""
    if not is_booted():
        return []
    kinds = ("list-units", "--all"), ("list-unit-files", "--state=enabled")
    found: set[str] = set()
    for kind in kinds:
        text = output_of("systemctl", *kind, "--plain", "--no-legend", AGENT.format("*")) or ""
        names = (line.split()[0] for line in text.splitlines() if line.strip())
        found.update(name.partition("@")[2].removesuffix(".service") for name in names)
    return sorted(found - {""})


def parse_unit(text: str) -> Unit | None:
    """What ``systemctl show`` has printed, as ``NAME=VALUE`` lines."""
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if said.get("LoadState") != "loaded":
        return None
    pairs = shlex.split(said.get("Environment", ""))
    # Such as: /etc/flow/agent-gpu.env (ignore_errors=yes)
    pairs += _variables_in(said.get("EnvironmentFiles", "").partition(" (")[0])
    return Unit(
        said.get("Id", ""),
        active=said.get("ActiveState", ""),
        enabled=said.get("UnitFileState", ""),
        result=said.get("Result", ""),
        status=said.get("StatusText", ""),
        user=said.get("User", ""),
        watchdog=said.get("WatchdogUSec", "0") not in ("0", "infinity", ""),
        environment={name: value for name, _, value in (pair.partition("=") for pair in pairs)},
        control_group=said.get("ControlGroup", ""),
        delegated=frozenset(said.get("DelegateControllers", "").split()),
    )


def _variables_in(file: str) -> list[str]:
    """Of an environment file (systemd.exec(5), EnvironmentFile=), as far as this user may know;
    ``""``: the unit has none."""
    if not file:
        return []
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (FileNotFoundError, PermissionError):
        return []
    return shlex.split(text, comments=True)


def own_name() -> str:
    """Whom this process runs as; a number, where it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def check_user(unit: Unit | None, who: str) -> Iterator[Judgement]:
    """Whether *who* may read what the unit's processes do: nothing is said if so."""
    if unit is None or who in ("root", unit.user):
        return
    what = f"user {who} may not read all that {unit.name} does, so some of the below is only that"
    yield warning(what, "run flow doctor as root")


def check_unit(unit: Unit | None, name: str) -> Iterator[Judgement]:
    """Whether it runs, will run after a boot, and is watched over."""
    if unit is None:
        yield note(f"systemd has no {name} here: who starts flow by hand has to restart it, too")
        return
    match unit.active:
        case "active" | "reloading":
            yield ok(f"{name} runs" + (f": {unit.status}" if unit.status else ""))
        case "activating":
            why = f": {unit.status}" if unit.status else ""
            yield warning(f"{name} is still starting{why}", f"see journalctl -u {name} -n 20")
        case "failed":
            why = f"{name} has failed ({unit.result})"
            yield problem(why, f"see journalctl -u {name} -n 20")
        case _:
            yield warning(f"{name} is {unit.active or 'not running'}", f"systemctl start {name}")
    if unit.enabled not in ("enabled", "enabled-runtime", "static", "generated"):
        what = f"{name} does not start when this machine boots"
        yield warning(what, f"systemctl enable {name}")
    if not unit.watchdog:
        what = f"{name} has no watchdog: a process that hangs is not restarted"
        yield warning(what, "remove what sets WatchdogSec= to 0, see systemctl cat " + name)
