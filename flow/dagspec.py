"""A DAG as data: what a DAG file comes to, and what is stored per DAG version.

Standard library only: the authoring package makes these under the user's interpreter, the
dispatcher reads them. The JSON form is canonical (sorted keys), so equal DAGs hash alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from flow.errors import DagError

#: What becomes of a running task whose agent is lost.
OnAgentLost = Literal["rerun", "fail", "wait"]

#: When a task may begin, by the ends of its upstream tasks; see dispatcher/core/rules.py.
TRIGGER_RULES = (
    "all_success",
    "all_done",
    "all_failed",
    "one_success",
    "one_failed",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
)

#: What `[xcom] max_bytes` can be raised to: a message carries all that a try has pushed.
MAX_XCOM_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one try takes of its node. ``None``: what the agent's settings say."""

    slots: int = 1
    gpus: int = 0
    """Devices of its own."""
    memory: int | None = None
    """The most its processes may use together, in bytes."""
    cpus: float | None = None
    """CPUs' worth of time, at the most."""
    pids: int | None = None
    """Processes and threads, at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task of a DAG. Durations are in seconds."""

    task_id: str
    operator: str
    """Which kind of task: ``bash``, ``python`` or ``empty``."""
    arguments: Mapping[str, Any]
    """What that kind needs; for ``bash``: ``command`` str, ``env`` dict, ``cwd`` str or None, and
    ``templated`` where there is something to render. For ``python``: ``args``, ``kwargs``, ``env``,
    ``cwd``, ``python``, ``meaning``, ``multiple_outputs``, ``push``."""
    upstream: tuple[str, ...] = ()
    queue: str = "default"
    retries: int = 0
    retry_delay: float = 300.0
    execution_timeout: float | None = None
    priority_weight: int = 1
    on_agent_lost: OnAgentLost = "rerun"
    trigger_rule: str = "all_success"
    depends_on_past: bool = False
    """It waits for itself in the DAG's previous run by schedule."""
    resources: Resources = Resources()
    owner: str = "flow"
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DagSpec:
    """One DAG. Dates are ISO 8601 with offset; ``schedule`` is its canonical text or ``None``."""

    dag_id: str
    tasks: tuple[TaskSpec, ...]
    schedule: str | None = None
    start_date: str | None = None
    end_date: str | None = None
    catchup: bool = False
    max_active_runs: int = 16
    max_active_tasks: int = 16
    tags: tuple[str, ...] = ()
    description: str = ""
    timezone: str = "UTC"
    params: Mapping[str, Any] = field(default_factory=dict)
    """What tasks read, where the run's conf has nothing else."""
    owner: str = "flow"
    file: str = ""
    """Path of the DAG file, relative to the DAG folder."""
    line: int = 0

    def to_json(self) -> str:
        """The canonical form that :meth:`from_json` reads."""
        tasks = [_data(task) | {"resources": _data(task.resources)} for task in self.tasks]
        data = _data(self) | {"tasks": tasks}
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def digest(self) -> str:
        """Changes when the DAG does; names its version."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> DagSpec:
        """Read what :meth:`to_json` wrote; unknown fields (of a later release) are ignored.

        Raises :class:`~flow.errors.DagError` for anything else.
        """
        try:
            data = json.loads(text)
            tasks = tuple(
                TaskSpec(
                    **{
                        **_known(TaskSpec, task),
                        "upstream": tuple(task["upstream"]),
                        "resources": Resources(**_known(Resources, task.get("resources", {}))),
                    }
                )
                for task in data["tasks"]
            )
            tags = tuple(data.get("tags", ()))
            return cls(**{**_known(cls, data), "tasks": tasks, "tags": tags})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DagError(
                f"DAG as data: expected what flow wrote, got {text[:80]!r}: {error}"
            ) from None


def _data(value: TaskSpec | DagSpec | Resources) -> dict[str, Any]:
    """Its fields. (``dataclasses.asdict`` would copy all that they hold, which costs much more.)"""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _known(cls: type[TaskSpec | DagSpec | Resources], data: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: data[field.name] for field in fields(cls) if field.name in data}
