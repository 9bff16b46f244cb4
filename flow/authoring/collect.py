"""Collects what a DAG file makes while it runs: its DAGs, and all that is wrong with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flow.errors import DagError

if TYPE_CHECKING:
    from types import FrameType

    from flow.authoring.dag import DAG
    from flow.dagspec import DagSpec

_HERE = f"{Path(__file__).parent}{os.sep}"


@dataclass(frozen=True)
class Location:
    """A line of a file; ``module`` is the file whose import led there."""

    file: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class Collection:
    """What one DAG file made. ``file`` and ``folder`` are absolute; the rest are the defaults
    that apply where a DAG says nothing."""

    file: str = ""
    folder: str = ""
    default_timezone: str = "UTC"
    max_active_runs: int = 16
    max_active_tasks: int = 16
    dags: list[DAG] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def relative(self, path: str) -> str:
        """*path* as users call it: relative to the DAG folder where it is inside."""
        inside = self.folder and path.startswith(self.folder + os.sep)
        return path[len(self.folder) + 1 :] if inside else path

    def add(self, dag: DAG, location: Location) -> None:
        """Take a new DAG in, unless another file of the folder made it on being imported here:
        that file is read by itself."""
        imported = location.module != self.file and location.module.startswith(self.folder + os.sep)
        if not (self.folder and imported):
            self.dags.append(dag)

    def finish(self) -> tuple[DagSpec, ...]:
        """The file's DAGs as data. Raises :class:`DagError` with all problems, one per line."""
        first: dict[str, DAG] = {}
        for dag in self.dags:
            other = first.setdefault(dag.dag_id, dag)
            if other is not dag:
                self.problems.append(
                    f"{dag.where()}: expected a dag_id used once, got one that "
                    f"{other.location} has already; rename one of the two"
                )
            self.problems.extend(dag.cycle_problems())
        if self.problems:
            raise DagError("\n".join(dict.fromkeys(self.problems)))
        return tuple(dag.spec(self.relative(self.file)) for dag in self.dags)


_collection: ContextVar[Collection | None] = ContextVar("flow_collection", default=None)
_open_dags: ContextVar[tuple[DAG, ...]] = ContextVar("flow_open_dags", default=())


@contextmanager
def collecting(collection: Collection) -> Iterator[Collection]:
    """Every DAG made inside goes to *collection*, every problem too instead of being raised."""
    token = _collection.set(collection)
    try:
        yield collection
    finally:
        _collection.reset(token)


def current_collection() -> Collection:
    """The collection in force; an empty one for a file that is run by hand."""
    return _collection.get() or Collection()


def report(*problems: str) -> None:
    """Note *problems* of the file that is being collected; without a collection, raise them."""
    collection = _collection.get()
    if collection is not None:
        collection.problems.extend(problems)
    elif problems:
        raise DagError("\n".join(problems))


def open_dag() -> DAG | None:
    """The DAG of the innermost ``with`` block."""
    dags = _open_dags.get()
    return dags[-1] if dags else None


def enter_dag(dag: DAG) -> None:
    """``with dag:`` begins."""
    _open_dags.set((*_open_dags.get(), dag))


def leave_dag() -> None:
    """The innermost ``with`` block ends."""
    _open_dags.set(_open_dags.get()[:-1])


def caller() -> Location:
    """The line of the user's code that called into this package."""
    frame = sys._getframe(1)  # noqa: SLF001  public in all but its name; inspect is slow to import
    while frame.f_back and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    module: FrameType | None = frame
    while module and module.f_code.co_name != "<module>":
        module = module.f_back
    file = frame.f_code.co_filename
    importing = module.f_code.co_filename if module else file
    return Location(current_collection().relative(file), frame.f_lineno, importing)
