"""What callables get by name, and templates know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

from flow.authoring.references import JSON, RETURN_VALUE, Encoder
from flow.authoring.values import BadValue, shown
from flow.errors import FlowError
from flow.runtime.client import ask
from flow.runtime.job import Job
from flow.runtime.variables import Variable

_UTC = timezone.utc  # noqa: UP017  datetime.UTC is new in Python 3.11
_REMEDY = "push plain values, or write it to a file and push its path"


class TaskInstance:
    """``ti``: this try of the task, and the way to what other tasks of the run have pushed."""

    def __init__(self, job: Job) -> None:
        self.dag_id = job.dag_id
        self.run_id = job.run_id
        self.task_id = job.task_id
        self.map_index = job.map_index
        self.try_number = job.try_number
        self.pushed: dict[str, str] = {}
        """JSON texts by key; the dispatcher gets them when the task has ended."""
        self._socket = job.socket

    def xcom_push(self, key: str, value: Any) -> None:
        """Leave *value*, which is JSON, for other tasks under *key*. They see it when this task
        has ended. Raises :class:`~flow.errors.FlowError`."""
        if not isinstance(key, str) or not key or "\0" in key:
            raise FlowError(f"xcom_push: expected a text as key, got {shown(key)}")
        self.pushed[key] = as_json(value)

    def xcom_pull(
        self,
        task_ids: str | Sequence[str] | None = None,
        key: str = RETURN_VALUE,
        default: Any = None,
    ) -> Any:
        """What a task of this run has pushed under *key*, else *default*; a list of these for
        several tasks. Without *task_ids* the newest value of that key, whoever pushed it."""
        one = task_ids is None or isinstance(task_ids, str)
        names = [task_ids or ""] if one else list(task_ids or ())
        wanted = [{"kind": "xcom", "name": str(name), "key": key} for name in names]
        found = [value[0] if value else default for value in ask(self._socket, wanted)]
        return found[0] if one else found


def as_json(value: Any) -> str:
    """*value* as it is kept. Raises :class:`FlowError`, which says where it is no JSON."""
    try:
        data = Encoder(JSON, _REMEDY).encode(value)
    except BadValue as error:
        raise FlowError(str(error)) from None
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


class _Variables:
    """``var.value`` and ``var.json``: variables as attributes, or by ``get(name, default)``."""

    def __init__(self, *, deserialize_json: bool) -> None:
        self._json = deserialize_json

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of Python's own protocols
            raise AttributeError(name)
        return Variable.get(name, deserialize_json=self._json)

    def __getitem__(self, name: str) -> Any:
        """For names that are no identifiers."""
        return Variable.get(name, deserialize_json=self._json)

    def get(self, name: str, default: Any = None) -> Any:
        """The variable, or *default*."""
        return Variable.get(name, default, deserialize_json=self._json)


def build(job: Job, *, dag: Any = None, task: Any = None) -> dict[str, Any]:
    """Everything, by the names in :data:`flow.authoring.context.NAMES`."""
    conf: dict[str, Any] = json.loads(job.conf)
    params = {**json.loads(job.params), **conf}
    logical, start, end = (
        _moment(text) for text in (job.logical_date, job.data_interval_start, job.data_interval_end)
    )
    ti = TaskInstance(job)
    dag_run = SimpleNamespace(
        dag_id=job.dag_id,
        run_id=job.run_id,
        conf=conf,
        logical_date=logical,
        data_interval_start=start,
        data_interval_end=end,
    )
    ts = logical.isoformat() if logical else None
    ds = logical.strftime("%Y-%m-%d") if logical else None
    return {
        "ti": ti,
        "task_instance": ti,
        "task": task or SimpleNamespace(task_id=job.task_id),
        "dag": dag or SimpleNamespace(dag_id=job.dag_id),
        "dag_run": dag_run,
        "run_id": job.run_id,
        "params": params,
        "conf": conf,
        "var": SimpleNamespace(
            value=_Variables(deserialize_json=False), json=_Variables(deserialize_json=True)
        ),
        "logical_date": logical,
        "data_interval_start": start,
        "data_interval_end": end,
        "ds": ds,
        "ds_nodash": ds.replace("-", "") if ds else None,
        "ts": ts,
        "ts_nodash": logical.strftime("%Y%m%dT%H%M%S") if logical else None,
        "macros": SimpleNamespace(
            datetime=datetime, timedelta=timedelta, json=json, ds_add=_ds_add, ds_format=_ds_format
        ),
    }


def _moment(text: str | None) -> datetime | None:
    """ISO 8601 with offset as an aware moment in UTC."""
    return datetime.fromisoformat(text).astimezone(_UTC) if text is not None else None


def _ds_add(ds: str, days: int) -> str:
    """A date so many days later."""
    return (_day(ds, "%Y-%m-%d") + timedelta(days=days)).strftime("%Y-%m-%d")


def _ds_format(ds: str, input_format: str, output_format: str) -> str:
    """A date in another form."""
    return _day(ds, input_format).strftime(output_format)


def _day(ds: str, form: str) -> datetime:
    return datetime.strptime(ds, form).replace(tzinfo=_UTC)
