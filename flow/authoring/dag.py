"""The :class:`DAG` of a DAG file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, tzinfo
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flow.authoring import carried, collect, values
from flow.authoring.defaults import OPERATOR_ARGUMENTS, read_default_args, unknown_argument
from flow.authoring.graph import find_cycle
from flow.authoring.references import ParamArg, plain_json
from flow.authoring.schedule import canonical, is_by_clock
from flow.authoring.times import read_date, read_timezone, timezone_of
from flow.authoring.values import Check
from flow.dagspec import DagSpec
from flow.errors import DagError, nearest
from flow.names import DAG_ID

if TYPE_CHECKING:
    from typing import Self

    from flow.authoring.operators import Operator

#: What a DAG takes, for the nearest name of a misspelt one.
DAG_ARGUMENTS = (
    *("dag_id", "schedule", "start_date", "end_date", "catchup", "default_args"),
    *("max_active_runs", "max_active_tasks", "tags", "description", "timezone", "params"),
)


class DAG:
    """Tasks and the order they run in.

    ``schedule`` is ``None`` (runs only when triggered), five cron fields, a preset such as
    ``"@daily"``, or a timedelta; with one, ``start_date`` is needed. Naive dates are read in
    ``timezone``, which is that of ``start_date``, else the setting ``default_timezone``, unless
    given. ``default_args`` are arguments for all tasks that do not give their own. Limits that
    are ``None`` are the dispatcher's defaults. ``params`` are JSON values that tasks read; a run's
    conf may have others in their place.

    Everything wrong is reported together once the file has run; in a file that is run by hand
    it raises :class:`~flow.errors.DagError` at once.
    """

    def __init__(  # noqa: PLR0913  the arguments that users know, all by name
        self,
        dag_id: str,
        *,
        schedule: str | timedelta | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        catchup: bool = False,
        default_args: Mapping[str, Any] | None = None,
        max_active_runs: int | None = None,
        max_active_tasks: int | None = None,
        tags: Iterable[str] | None = None,
        description: str | None = None,
        timezone: str | tzinfo | None = None,
        params: Mapping[str, Any] | None = None,
        **unused: Any,
    ) -> None:
        collection = collect.current_collection()
        self.dag_id = values.label(dag_id)
        self.location = collect.caller()
        self._tasks: dict[str, Operator] = {}
        self._problems: list[str] = []
        if problem := DAG_ID.problem(dag_id):
            self._problems.append(f"argument 'dag_id': {problem}")
        self._check_unused(unused)
        self.default_args, dates = read_default_args(default_args, self._problems)
        self._schedule = self._checked("schedule", canonical, schedule)
        self._catchup = self._checked("catchup", values.boolean, catchup, fallback=False)
        limit = values.optional(values.integer(1))
        self._max_active_runs = (
            self._checked("max_active_runs", limit, max_active_runs) or collection.max_active_runs
        )
        self._max_active_tasks = (
            self._checked("max_active_tasks", limit, max_active_tasks)
            or collection.max_active_tasks
        )
        self._tags = self._checked("tags", values.tags, () if tags is None else tags, fallback=())
        self._description = self._checked(
            "description", values.text, description or "", fallback=""
        )
        self.params: dict[str, Any] = self._checked("params", _params, params, fallback={})
        self._read_dates(
            start_date, end_date, dates, timezone, default_timezone=collection.default_timezone
        )
        collection.add(self, self.location)
        collect.report(*(f"{self.where()}: {problem}" for problem in self._problems))

    def __enter__(self) -> Self:
        collect.enter_dag(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        collect.leave_dag()
        if kind is None:
            collect.report(*self.cycle_problems())

    def __repr__(self) -> str:
        return f"<DAG {self.dag_id}>"

    @property
    def tasks(self) -> tuple[Operator, ...]:
        """In the order they were made."""
        return tuple(self._tasks.values())

    def where(self, task_id: str | None = None, location: collect.Location | None = None) -> str:
        """``file:line: DAG 'x', task 'y'``, the beginning of every message."""
        task = f", task {task_id!r}" if task_id is not None else ""
        return f"{location or self.location}: DAG {self.dag_id!r}{task}"

    def param(self, name: str) -> ParamArg:
        """Stands for the value that a run has for ``params[name]``, to be passed to tasks."""
        if name not in self.params:
            raise DagError(
                f"{collect.caller()}: DAG {self.dag_id!r}: expected one of its params "
                f"({', '.join(sorted(self.params))}), got {values.shown(name)}"
                f"{nearest(name, self.params) if isinstance(name, str) else ''}"
            )
        return ParamArg(name)

    def add_task(self, task: Operator) -> None:
        """Called by a new operator. A second task of the same id is reported and left out."""
        other = self._tasks.setdefault(task.task_id, task)
        if other is not task:
            collect.report(
                f"{self.where(task.task_id, task.location)}: expected a task_id used once in its "
                f"DAG, got one that {other.location} has already; rename one of the two"
            )

    def cycle_problems(self) -> list[str]:
        """At most one message, with the path of a cycle."""
        tasks = self._tasks
        path = find_cycle({name: sorted(tasks[name].downstream_task_ids) for name in tasks})
        if not path:
            return []
        way = " -> ".join(path)
        return [f"{self.where()}: expected no cycle, got {way}; remove one of these arrows"]

    def spec(self, file: str) -> DagSpec:
        """This DAG as data, as it is defined in *file* (relative to the DAG folder)."""
        owners = sorted({task.owner for task in self.tasks}) or [self.default_args["owner"]]
        return DagSpec(
            dag_id=self.dag_id,
            tasks=tuple(task.spec() for task in self.tasks),
            schedule=self._schedule,
            start_date=self._start.isoformat() if self._start else None,
            end_date=self._end.isoformat() if self._end else None,
            catchup=self._catchup,
            max_active_runs=self._max_active_runs,
            max_active_tasks=self._max_active_tasks,
            tags=self._tags,
            description=self._description,
            timezone=self._timezone,
            params=self.params,
            owner=", ".join(owners),
            file=file,
            line=self.location.line,
        )

    def _checked(self, name: str, check: Check, value: object, fallback: object = None) -> Any:
        try:
            return check(value)
        except values.BadValue as error:
            self._problems.append(f"argument {name!r}: {error}")
            return fallback

    def _check_unused(self, unused: Mapping[str, object]) -> None:
        for name, value in unused.items():
            if name in carried.DAG_ARGUMENTS:
                problem = carried.DAG_ARGUMENTS.problem(name, value)
            elif name in OPERATOR_ARGUMENTS or name in carried.TASK_ARGUMENTS:
                problem = (
                    f"expected an argument of DAG, got {name!r}, which is for tasks; "
                    "put it into default_args"
                )
            else:
                problem = unknown_argument(
                    "DAG", name, DAG_ARGUMENTS, carried.DAG_ARGUMENTS.names()
                )
            if problem:
                self._problems.append(problem)

    def _read_dates(
        self,
        start: object,
        end: object,
        defaults: Mapping[str, object],
        timezone: object,
        *,
        default_timezone: str,
    ) -> None:
        """Dates of ``default_args`` are the DAG's where it has none, as in Airflow."""
        start = self._own_date("start_date", start, defaults)
        end = self._own_date("end_date", end, defaults)
        named = timezone if timezone is not None else timezone_of(start)
        if named is None:
            named = default_timezone
            if isinstance(start, datetime) and start.tzinfo and is_by_clock(self._schedule):
                self._problems.append(
                    "argument 'timezone': expected a time zone for the schedule, since start_date "
                    "has only an offset, got None; add for example timezone='Europe/Berlin'"
                )
        utc = read_timezone("UTC")
        self._timezone, zone = self._checked("timezone", read_timezone, named, fallback=utc)
        self._start = self._checked("start_date", lambda date: read_date(date, zone), start)
        self._end = self._checked("end_date", lambda date: read_date(date, zone), end)
        if self._start and self._end and self._end < self._start:
            self._problems.append(
                f"argument 'end_date': expected a date after start_date {self._start.isoformat()}, "
                f"got {self._end.isoformat()}; exchange them"
            )
        if self._schedule and start is None:
            self._problems.append(
                "argument 'start_date': expected a date, since there is a schedule, got None; "
                "add for example start_date=datetime(2025, 1, 1)"
            )

    def _own_date(self, name: str, own: object, defaults: Mapping[str, object]) -> object:
        default = defaults.get(name)
        if own is None or default is None:
            return default if own is None else own
        if own != default:
            self._problems.append(
                f"default_args {name!r}: expected the DAG's own {values.shown(own)}, "
                f"got {values.shown(default)}; tasks have no dates of their own, leave it out"
            )
        return own


def _params(value: object) -> dict[str, Any]:
    """JSON values by name."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise values.bad("a dict", value)
    checked: dict[str, Any] = plain_json(value)
    return checked
