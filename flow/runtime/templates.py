"""Rendering: the only place that imports jinja2, the interpreter's own or else flow's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from flow.authoring.values import is_template, shown
from flow.errors import FlowError
from flow.runtime.job import Job, TaskFailed


class _Libraries:
    """Finds these modules, and nothing else of what lies beside them."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Asked by the import system (PEP 451)."""
        folder = self._folders.get(name)
        return PathFinder.find_spec(name, [folder]) if folder else None


class Renderer:
    """Renders texts of one job with *context*."""

    def __init__(self, job: Job, context: Mapping[str, Any]) -> None:
        self._job = job
        self._context = context
        self._environment: Any = None

    def render(self, value: Any, place: str) -> Any:
        """*value* with every template in it rendered, also in lists and dicts.

        Raises :class:`TaskFailed`, which names *place*.
        """
        if isinstance(value, str):
            return self._text(value, place) if is_template(value) else value
        if isinstance(value, list):
            return [self.render(item, f"{place}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self.render(item, f"{place}[{key!r}]") for key, item in value.items()}
        return value

    def _text(self, template: str, place: str) -> str:
        if self._environment is None:
            self._environment = _environment(self._job)
        try:
            text: str = self._environment.from_string(template).render(self._context)
        except Exception as error:
            raise TaskFailed(
                f"{self._job.where}: {place}: expected a template that renders, got "
                f"{shown(template)}: {_described(error)}{_remedy(error)}"
            ) from error
        return text


def _environment(job: Job) -> Any:
    jinja2 = _jinja2(job.libraries)
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([job.folder] if job.folder else []),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )


def _jinja2(libraries: Mapping[str, str]) -> Any:
    try:
        import jinja2  # noqa: PLC0415  a task without templates does without
    except ImportError:
        for name in [name for name in sys.modules if name.partition(".")[0] in libraries]:
            del sys.modules[name]  # an incomplete one, of which half is loaded
        sys.meta_path.insert(0, _Libraries(libraries))
        import jinja2  # noqa: PLC0415  findable only now
    return jinja2


def _described(error: Exception) -> str:
    if isinstance(error, FlowError):
        return str(error)
    line = getattr(error, "lineno", None)
    place = f" (line {line} of it)" if isinstance(line, int) and line > 1 else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _remedy(error: Exception) -> str:
    if type(error).__name__ == "TemplateSyntaxError":
        return "; write braces that are not a template's between {% raw %} and {% endraw %}"
    return ""
