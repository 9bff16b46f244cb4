"""Runs one DAG file and tells what it came to, whatever the file does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import flow
from flow.authoring.collect import Collection, collecting
from flow.authoring.opened import OpenedFiles
from flow.authoring.values import cut
from flow.dagspec import DagSpec
from flow.errors import DagError, nearest

if TYPE_CHECKING:
    from flow.authoring.dag import DAG

MAX_SOURCE_BYTES = 4 * 1024 * 1024
_NO_SUCH_NAME = re.compile(r"cannot import name '(\w+)' from 'flow' ")
_LONGEST_ERROR = 500
_TWO_LISTS = "unsupported operand type(s) for >>: 'list' and 'list'"


@dataclass(frozen=True)
class Request:
    """A DAG file to run. ``folder`` is absolute, ``file`` relative to it; the rest are the
    defaults of :class:`~flow.authoring.collect.Collection`."""

    folder: str
    file: str
    default_timezone: str = "UTC"
    max_active_runs: int = 16
    max_active_tasks: int = 16
    setting: str = "[dags] python"
    """Where its interpreter is chosen."""

    @property
    def path(self) -> str:
        """The absolute path."""
        return f"{self.folder}{os.sep}{self.file}"


def run_file(request: Request) -> dict[str, Any]:
    """Run the file once, in a process of its own.

    The answer has ``source`` (text), ``dags`` (canonical JSON texts), ``error`` (text or
    ``None``) and ``depends_on`` (:meth:`OpenedFiles.stamps`). Never raises for what the file does.
    """
    opened = OpenedFiles(request.folder)
    source, error = "", None
    dags: tuple[DagSpec, ...] = ()
    try:
        source, data = _read(request)
        opened.watch()
        dags = _run(request, data)
    except DagError as problem:
        error = str(problem)
    return {
        "source": source,
        "dags": [dag.to_json() for dag in dags],
        "error": error,
        "depends_on": opened.stamps(besides=request.path),
    }


def _read(request: Request) -> tuple[str, bytes]:
    try:
        with Path(request.path).open("rb") as file:
            data = file.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise DagError(f"{request.file}: expected a readable file, got {error.strerror}") from None
    if len(data) > MAX_SOURCE_BYTES:
        raise DagError(
            f"{request.file}: expected at most {MAX_SOURCE_BYTES} bytes, got more; "
            "read large data in the tasks"
        )
    try:
        return data.decode("utf-8"), data
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DagError(
            f"{request.file}:{line}: expected UTF-8 text, got byte 0x{data[error.start]:02x}; "
            "save the file as UTF-8"
        ) from None


def load_dags(request: Request) -> tuple[DAG, ...]:
    """Run the file for its DAGs themselves, on a node. Raises :class:`DagError`."""
    collection = _execute(request, _read(request)[1])
    if collection.problems:
        raise DagError("\n".join(dict.fromkeys(collection.problems)))
    return tuple(collection.dags)


def _run(request: Request, data: bytes) -> tuple[DagSpec, ...]:
    """Its DAGs as data. Raises :class:`DagError` with all there is to say."""
    return _execute(request, data).finish()


def _execute(request: Request, data: bytes) -> Collection:
    """Execute the file as a module; what it raises is among the problems."""
    collection = Collection(
        file=request.path,
        folder=request.folder,
        default_timezone=request.default_timezone,
        max_active_runs=request.max_active_runs,
        max_active_tasks=request.max_active_tasks,
    )
    # Unlikely to be a name that the file, or what it imports, imports itself.
    name = "flow_dag_file_" + Path(request.file).stem
    module = ModuleType(name)
    module.__file__ = request.path
    sys.modules[name] = module
    sys.argv[:] = [request.path]
    with collecting(collection):
        try:
            code = compile(data, request.path, "exec", dont_inherit=True)
            exec(code, module.__dict__)  # noqa: S102  running DAG files is what this is for
        except DagError as error:
            collection.problems.append(str(error))
        except BaseException as error:  # noqa: BLE001  sys.exit, too, is the file's own error
            collection.problems.append(explain(request, error))
    return collection


def explain(request: Request, error: BaseException) -> str:
    """What went wrong, and where in the DAG folder: the innermost line, and the outermost."""
    if isinstance(error, SyntaxError):
        return _explain_syntax(request, error)
    places = _places(request, error.__traceback__)
    own = f"{request.file}:{places[0][1]}" if places else request.file
    where, reached = own, ""
    if places and places[-1][0] != request.file:
        where, reached = f"{places[-1][0]}:{places[-1][1]}", f" (reached from {own})"
    if isinstance(error, SystemExit):
        code = error.code
        return f"{where}: expected a file that runs to its end, got sys.exit({code!r}){reached}"
    return f"{where}: {_described(error)}{reached}{_remedy(error, request.setting)}"


def _explain_syntax(request: Request, error: SyntaxError) -> str:
    file = error.filename or request.path
    inside = file.startswith(request.folder + os.sep)
    place = file[len(request.folder) + 1 :] if inside else file
    return f"{place}:{error.lineno or 1}: {type(error).__name__}: {error.msg}"


def _places(request: Request, trace: TracebackType | None) -> list[tuple[str, int]]:
    """The lines of files of the DAG folder that led to an error, the innermost last."""
    places = []
    below = request.folder + os.sep
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(below):
            places.append((file[len(below) :], trace.tb_lineno))
        trace = trace.tb_next
    return places


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as other:  # noqa: BLE001  the user's __str__ may raise anything; the report must not
        text = f"(its text raised {type(other).__name__})"
    name = type(error).__name__
    line = " ".join(text.split())
    return f"{name}: {cut(line, _LONGEST_ERROR)}" if line else name


def _remedy(error: BaseException, setting: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.split(".")[0] == "airflow":
            return "; write `from flow import DAG, BashOperator`"
        return f"; install it for {sys.executable}, or set {setting} to an interpreter with it"
    if isinstance(error, ImportError) and (found := _NO_SUCH_NAME.match(str(error))):
        known = ", ".join(flow.__all__)
        return nearest(found[1], flow.__all__) or f"; flow has {known}"
    if isinstance(error, TypeError) and str(error) == _TWO_LISTS:
        return "; write chain(first, second) for two lists"
    if isinstance(error, MemoryError):
        return "; do large work in the tasks"
    return ""


def request_from(data: Mapping[str, Any]) -> Request:
    """A request as the dispatcher sends it."""
    return Request(**data)
