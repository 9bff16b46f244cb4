"""From a task and its grant to what the keeper starts: argv, environment, directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.gpus import Gpus
from agent.interpreters import Interpreters, NoInterpreter
from agent.jobs import OWN_PYTHON, START, JobFolder, write_job
from agent.keeper_client import Warm
from flow.errors import FlowError, nearest
from flow.wire import Grant, Task

#: What a task sees of the agent's own environment, where it is set.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
#: The agent's settings: they hold passwords and are no task's business, not even by pass_env.
PRIVATE = ("FLOW_BROKER", "FLOW_DATABASE", "FLOW_CONFIG", "CREDENTIALS_DIRECTORY")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


#: What is not the same for all tasks of a DAG file (:class:`agent.keeper_client.Warm`).
_OWN = (
    "FLOW_DAG_ID",
    "FLOW_RUN_ID",
    "FLOW_TASK_ID",
    "FLOW_MAP_INDEX",
    "FLOW_TRY_NUMBER",
    "FLOW_TOKEN",
    "FLOW_QUEUE",
    "FLOW_TASK_INSTANCE_ID",
    "FLOW_LOGICAL_DATE",
    "FLOW_DATA_INTERVAL_START",
    "FLOW_DATA_INTERVAL_END",
    "FLOW_TASK_SOCKET",
)
#: Where DAG files are run for tasks whose working directories are private: nothing is in it.
_NOWHERE = "warm"

#: Kinds of tasks that an agent runs; an ``empty`` one has no process (agent.runner).
OPERATORS = ("bash", "python", "empty")
_Arguments = TypeVar("_Arguments", bound=msgspec.Struct)


class CannotPrepare(FlowError):
    """The task's arguments do not make a command. It would fail on any agent."""


class BashArguments(msgspec.Struct, frozen=True):
    """What a ``bash`` task carries."""

    command: str
    env: dict[str, str] = {}
    cwd: str | None = None
    templated: bool = False


class PythonArguments(msgspec.Struct, frozen=True):
    """What the agent reads of what a ``python`` task carries; the rest is for flow.runtime."""

    env: dict[str, str] = {}
    cwd: str | None = None
    python: str | None = None


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
    job: JobFolder | None = None
    """That of flow's own runtime, likewise."""
    warm: Warm | None = None
    """How it may do without a fresh interpreter."""


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
    interpreters: Interpreters = field(default_factory=Interpreters)
    xcom_max_bytes: int = 256 * 1024
    gpus: Gpus = field(default_factory=Gpus)
    warm: bool = False
    """Whether Python tasks may do without a fresh interpreter."""

    @classmethod
    def find(
        cls,
        agent: str,
        environment: Mapping[str, str],
        work: Path,
        pass_env: tuple[str, ...],
        **more: Any,
    ) -> Preparer:
        """Look for bash once; *more* are the fields that follow it."""
        bash = shutil.which("bash", path=environment.get("PATH", DEFAULT_PATH))
        found = bash or shutil.which("bash", path="/bin")
        return cls(agent, environment, work, pass_env, found, **more)

    def prepare(self, task: Task, grant: Grant, folder: Path | None = None) -> Command:
        """The command for *task* under *grant*'s token; makes its private folders. *folder* is
        that of its DAG files on this node.

        Raises :class:`CannotPrepare`, :class:`NotHere`, and OSError when a folder cannot be made.
        """
        match task.operator:
            case "bash":
                return self._bash(task, grant, folder)
            case "python":
                return self._python(task, grant, folder)
        raise NotHere(
            f"task {task.task_id!r}: expected an operator that this agent knows, got "
            f"{task.operator!r}{nearest(task.operator, OPERATORS)}; upgrade the agent"
        )

    def folders(self, token: int) -> tuple[Path, Path]:
        """What :meth:`prepare` may make for *token*: its working directory and its job's folder."""
        return self.work / str(token), self.work / f"{token}.job"

    def _bash(self, task: Task, grant: Grant, folder: Path | None) -> Command:
        if self.bash is None:
            raise NotHere(f"agent {self.agent!r}: expected bash in PATH, got none; install bash")
        arguments = _arguments(task, BashArguments)
        environment = self._environment(task, grant, arguments.env, folder)
        argv: tuple[str, ...] = (self.bash, "-c", arguments.command)
        job = None
        if arguments.templated:
            job = self._job(task, grant, folder, bash=self.bash)
            argv = (*OWN_PYTHON, str(START), str(job.job))
            environment["FLOW_TASK_SOCKET"] = str(job.socket)
        return self._command(argv, environment, arguments.cwd, grant, job)

    def _python(self, task: Task, grant: Grant, folder: Path | None) -> Command:
        arguments = _arguments(task, PythonArguments)
        environment = self._environment(task, grant, arguments.env, folder)
        try:
            chosen = self.interpreters.choose(arguments.python, task.queue, environment)
        except NoInterpreter as error:
            raise CannotPrepare(f"task {task.task_id!r}: {error}") from None
        job = self._job(task, grant, folder, setting=chosen.setting)
        environment["FLOW_TASK_SOCKET"] = str(job.socket)
        # What the environment of the interpreter brings, such as torchrun, as if it were activated.
        path, own = environment["PATH"], os.path.dirname(chosen.path)  # noqa: PTH120  no Path's dots
        if own not in path.split(os.pathsep):
            environment["PATH"] = f"{own}{os.pathsep}{path}"
        argv = (chosen.path, "-u", "-X", "faulthandler", str(START), str(job.job))
        command = self._command(argv, environment, arguments.cwd, grant, job)
        if self.warm and folder is not None and task.dag_file:
            return replace(command, warm=self._warm(task, folder, chosen.setting, command))
        return command

    def _warm(self, task: Task, folder: Path, setting: str, command: Command) -> Warm:
        own = (*_OWN, *self.gpus.environment(()))
        cwd = command.cwd
        if command.private is not None:
            cwd = str(self.work.parent / _NOWHERE)
            os.makedirs(cwd, mode=0o700, exist_ok=True)  # noqa: PTH103  it is there but once
        about = {
            "folder": str(folder),
            "file": task.dag_file,
            "setting": setting,
            "own": own,
            "empty": command.private is not None,
        }
        return Warm(about=json.dumps(about), own=own, cwd=cwd)

    def _job(self, task: Task, grant: Grant, folder: Path | None, **more: Any) -> JobFolder:
        job = JobFolder(self.folders(grant.token)[1])
        more |= {"folder": str(folder) if folder else None, "max_bytes": self.xcom_max_bytes}
        write_job(job, task, grant, more)
        return job

    def _command(
        self,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        cwd: str | None,
        grant: Grant,
        job: JobFolder | None,
    ) -> Command:
        if cwd:
            expanded = _expand(cwd, environment.get("HOME", ""))
            return Command(argv, environment, expanded, None, job)
        private = self.folders(grant.token)[0]
        private.mkdir(mode=0o700, exist_ok=True)
        return Command(argv, environment, str(private), private, job)

    def _environment(
        self, task: Task, grant: Grant, own: dict[str, str], folder: Path | None
    ) -> dict[str, str]:
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
            "FLOW_DAG_FOLDER": folder,
            "FLOW_LOGICAL_DATE": task.logical_date,
            "FLOW_DATA_INTERVAL_START": task.data_interval_start,
            "FLOW_DATA_INTERVAL_END": task.data_interval_end,
        }
        flow = {name: str(value) for name, value in about.items() if value is not None}
        return {"PATH": DEFAULT_PATH, **inherited, **own, **flow}


def _arguments(task: Task, kind: type[_Arguments]) -> _Arguments:
    try:
        return msgspec.convert(task.arguments, kind)
    except msgspec.ValidationError as error:
        raise CannotPrepare(
            f"task {task.task_id!r}: arguments of {task.operator}: {error}"
        ) from None


def remove_private(folder: Path) -> None:
    """Remove a token's folder with all that the task left in it. Blocks."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_quickly(folder: Path, files: Iterable[Path] = ()) -> bool:
    """Whether a token's folder is gone: it had nothing in it but some of *files*, which are gone
    in any case. Takes some microseconds."""
    try:
        for file in files:
            file.unlink(missing_ok=True)
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # the task has left something there, which may be much, or something else
        return False
    return True


def _expand(cwd: str, home: str) -> str:
    """``~`` is the home directory that the task itself will see."""
    if cwd == "~" or cwd.startswith("~/"):
        return home + cwd[1:]
    return str(Path(cwd).expanduser()) if cwd.startswith("~") else cwd
