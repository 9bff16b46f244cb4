"""How a task's process comes to be: spawned, or a standby that becomes it; in a cgroup of its own
where there are any, with the marks by which it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent import processes
from agent.keeper.cgroups import Cgroup, name_of
from agent.keeper.spawn import SpawnError, spawn
from agent.keeper.standby import StandbyGone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.keeper.standby import Standby


class Command(NamedTuple):
    """What is started: by posix_spawn, or in the place of a standby."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    output_fd: int
    input_fd: int | None = None
    """None: /dev/null."""
    standby: Standby | None = None


class Births:
    """Of the keeper of *state_id*; *cgroups* as for :class:`agent.keeper.trees.Trees`."""

    def __init__(self, state_id: str, cgroups: str) -> None:
        self._state_id = state_id
        self._cgroups = cgroups

    def bear(self, token: int, session: int, command: Command) -> tuple[Cgroup | None, int]:
        """The process of the task *token*, in its cgroup. One that was spawned runs already; a
        standby does so after :meth:`begin`. Raises SpawnError and StandbyGone."""
        name = name_of(self._state_id, session, token)
        standby = command.standby
        if standby is not None:
            standby.check()
        cgroup = self._make(name) if self._cgroups else None

        def spawned() -> int:
            return spawn(
                command.argv,
                self._variables(token, session, command),
                command.cwd,
                command.output_fd,
                command.input_fd,
            )

        if cgroup is None:
            return None, spawned() if standby is None else standby.pid
        try:
            if standby is None:
                return cgroup, cgroup.bear(spawned)
            cgroup.admit(standby.pid)
        except OSError as error:
            cgroup.remove()
            if standby is not None:
                raise StandbyGone from error
            raise SpawnError(
                f"this node could not start the task in a cgroup: {error.strerror}"
            ) from error
        except SpawnError:
            cgroup.remove()
            raise
        return cgroup, standby.pid

    def begin(self, token: int, session: int, command: Command, cgroup: Cgroup | None) -> None:
        """Hand the task over, if a standby is to be it. Raises SpawnError and StandbyGone, and then
        nothing of it has begun: the standby, if it lives, belongs to its zygote."""
        standby = command.standby
        if standby is None:
            return
        variables = self._variables(token, session, command)
        try:
            standby.begin(token, command._replace(env=variables))
        except (SpawnError, StandbyGone):
            standby.close()
            if cgroup is not None:
                cgroup.kill()
                cgroup.remove()
            raise

    def _variables(self, token: int, session: int, command: Command) -> Mapping[str, str]:
        marks = {
            processes.MARK: processes.mark(self._state_id, session),
            processes.TOKEN: str(token),
        }
        variables = {**command.env, **marks}
        variables.pop(processes.KEEPER, None)
        return variables

    def _make(self, name: str) -> Cgroup:
        try:
            return Cgroup.make(self._cgroups, name)
        except OSError as error:
            raise SpawnError(
                f"this node could not make a cgroup for the task: {error.strerror}"
            ) from error
