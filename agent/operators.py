"""From a task and its grant to what the keeper starts: argv, environment, directory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flow.errors import FlowError, nearest
from flow.wire import Grant, Task

#: What a task sees of the agent's own environment, where it is set.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
#: The agent's settings: they hold passwords and are no task's business, not even by pass_env.
PRIVATE = ("FLOW_BROKER", "FLOW_DATABASE", "FLOW_CONFIG")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CannotPrepare(FlowError):
    """The task's arguments do not make a command. It would fail on any agent."""


class BashArguments(msgspec.Struct, frozen=True):
    """What a ``bash`` task carries."""

    command: str
    env: dict[str, str] = {}
    cwd: str | None = None


class NotHere(FlowError):
    """This agent lacks what the task needs. Another one may have it."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    private: Path | None
    """The folder made for this token alone, to be removed when it has ended."""


@dataclass(frozen=True, slots=True)
class Preparer:
    """Makes commands; one per agent."""

    agent: str
    environment: Mapping[str, str]
    """The agent's own."""
    work: Path
    pass_env: tuple[str, ...]
    bash: str | None
    """Absolute path, or None where there is none."""

    @classmethod
    def find(
        cls, agent: str, environment: Mapping[str, str], work: Path, pass_env: tuple[str, ...]
    ) -> Preparer:
        """Look for the interpreters once."""
        bash = shutil.which("bash", path=environment.get("PATH", DEFAULT_PATH))
        return cls(agent, environment, work, pass_env, bash or shutil.which("bash", path="/bin"))

    def prepare(self, task: Task, grant: Grant) -> Command:
        """The command for *task* under *grant*'s token; makes its private folder if it has no
        ``cwd``. Raises :class:`CannotPrepare`, :class:`NotHere`, and OSError when the
        folder cannot be made."""
        if task.operator != "bash":
            raise NotHere(
                f"task {task.task_id!r}: expected an operator that this agent knows, got "
                f"{task.operator!r}{nearest(task.operator, ['bash'])}; upgrade the agent"
            )
        if self.bash is None:
            raise NotHere(f"agent {self.agent!r}: expected bash in PATH, got none; install bash")
        try:
            arguments = msgspec.convert(task.arguments, BashArguments)
        except msgspec.ValidationError as error:
            raise CannotPrepare(f"task {task.task_id!r}: arguments of bash: {error}") from None
        environment = self._environment(task, grant, arguments.env)
        private = None if arguments.cwd else self.work / str(grant.token)
        if private is not None:
            private.mkdir(mode=0o700, exist_ok=True)
        cwd = _expand(arguments.cwd, environment.get("HOME", "")) if arguments.cwd else str(private)
        argv = (self.bash, "-c", arguments.command)
        return Command(argv, environment, cwd, private)

    def _environment(self, task: Task, grant: Grant, own: dict[str, str]) -> dict[str, str]:
        """A clean one: a few variables of the agent's and those it is told to pass, the
        operator's, FLOW_*."""
        names = [*INHERITED, *(n for n in self.pass_env if not n.startswith(PRIVATE))]
        inherited = {name: self.environment[name] for name in names if name in self.environment}
        about: dict[str, Any] = {
            "FLOW_DAG_ID": task.dag_id,
            "FLOW_RUN_ID": task.run_id,
            "FLOW_TASK_ID": task.task_id,
            "FLOW_MAP_INDEX": task.map_index,
            "FLOW_TRY_NUMBER": task.try_number,
            "FLOW_TOKEN": grant.token,
            "FLOW_QUEUE": task.queue,
            "FLOW_AGENT": self.agent,
            "FLOW_TASK_INSTANCE_ID": task.task_instance_id,
        }
        flow = {name: str(value) for name, value in about.items()}
        return {"PATH": DEFAULT_PATH, **inherited, **own, **flow}


def remove_private(folder: Path) -> None:
    """Remove a token's folder with all that the task left in it. Blocks."""
    shutil.rmtree(folder, ignore_errors=True)


def _expand(cwd: str, home: str) -> str:
    """``~`` is the home directory that the task itself will see."""
    if cwd == "~" or cwd.startswith("~/"):
        return home + cwd[1:]
    return str(Path(cwd).expanduser()) if cwd.startswith("~") else cwd
