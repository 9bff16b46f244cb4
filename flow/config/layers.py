"""Where settings are written: command line over environment over file. Nothing is judged here
but the form of the file and the names of the keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli

from flow.config.kinds import Place
from flow.config.schema import SECTIONS, SPECS, Spec
from flow.errors import ConfigError, nearest

DEFAULT_FILE = Path("/etc/flow/flow.toml")

#: Its tables are the settings of single agents of this machine.
AGENTS = "agents"

_BY_PATH = {spec.path: spec for spec in SPECS}
_BY_VARIABLE = {spec.variable: spec for spec in SPECS}


@dataclass(frozen=True, slots=True)
class Found:
    """A value as somebody wrote it. ``source`` says where (``flow.toml:7``, ``FLOW_AGENT_SLOTS``,
    ``--slots``), ``where`` begins a message about it."""

    value: object
    source: str
    where: str
    place: Place


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a section (``""``: in none); only some processes care."""

    section: str
    text: str


@dataclass(frozen=True, slots=True)
class File:
    """A configuration file that could be read and parsed."""

    path: Path
    data: Mapping[str, object]
    lines: Mapping[str, int]

    def source(self, key: str) -> str:
        """``file:line`` of a key such as ``agent.slots``, as far as a simple search finds it."""
        line = self.lines.get(key) or self.lines.get(key.partition(".")[0])
        return f"{self.path}:{line}" if line else str(self.path)


def read_file(path: Path | str | None, environ: Mapping[str, str], default: Path) -> File | None:
    """The file of ``--config``, else of ``FLOW_CONFIG``, else *default* where that exists.

    Raises :class:`ConfigError` when the one that counts is missing, unreadable or no TOML.
    """
    variable = "" if path else environ.get("FLOW_CONFIG", "")
    chosen = Path(path or variable or default)
    try:
        body = chosen.read_bytes()
    except OSError as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        if absent and not path and not variable:
            return None
        origin = " (from FLOW_CONFIG)" if variable else ""
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"{chosen}{origin}: expected a configuration file, got {reason!r}"
        ) from None
    return _parse(chosen, body)


def instances_in(file: File | None) -> list[str]:
    """The instances of agents that have a section ``[agents.<instance>]`` of their own."""
    tables = file.data.get(AGENTS) if file is not None else None
    return [str(name) for name in tables] if isinstance(tables, dict) else []


def _parse(path: Path, body: bytes) -> File:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        byte = body[error.start : error.start + 1]
        raise ConfigError(f"{path}:{line}: expected UTF-8, got the byte {byte!r}") from None
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigError(f"{where}: expected TOML, got an error: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a thousand brackets
        raise ConfigError(f"{path}: expected TOML, got an error: {error}") from None
    return File(path, data, _find_lines(text))


_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([\w\-\"'. ]+?)\s*=")


def _find_lines(text: str) -> dict[str, int]:
    """Line numbers of ``section`` and ``section.key``; good enough for messages."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = _plain(header[1])
            found.setdefault(section, number)
        elif key := _KEY.match(line):
            name = _plain(key[1])
            found.setdefault(f"{section}.{name}" if section else name, number)
    return found


def _plain(dotted: str) -> str:
    return ".".join(part.strip(" \t\"'") for part in dotted.split("."))


def from_file(file: File, environ: Mapping[str, str]) -> tuple[dict[str, Found], list[Problem]]:
    """The values that *file* sets, by path, and the names in it that are none of flow's."""
    found: dict[str, Found] = {}
    problems: list[Problem] = []
    place = Place(file.path.parent, environ)
    for section, key, value in _entries(file.data):
        if section == AGENTS:
            continue  # from_instance
        path = f"{section}.{key}" if section and key else section or key
        source = file.source(path)
        if path in _BY_PATH:
            found[path] = Found(value, source, f"{source}: {path}", place)
        elif section in SECTIONS:
            problems.append(Problem(section, f"{source}: {_unknown_key(section, key, value)}"))
        else:
            problems.append(Problem("", f"{source}: {_unknown_name(section or key, value)}"))
    return found, problems


def from_instance(
    file: File, instance: str, environ: Mapping[str, str]
) -> tuple[dict[str, Found], list[Problem]]:
    """What the section ``[agents.<instance>]`` sets, by path, and what is wrong with the names in
    the sections of any instance."""
    found: dict[str, Found] = {}
    problems: list[Problem] = []
    place = Place(file.path.parent, environ)
    tables = file.data.get(AGENTS, {})
    if not isinstance(tables, dict):
        return {}, [Problem("agent", f"{file.source(AGENTS)}: {_not_an_instance(AGENTS, tables)}")]
    for name, table in tables.items():
        section = f"{AGENTS}.{name}"
        if not isinstance(table, dict):
            text = _not_an_instance(section, table)
            problems.append(Problem("agent", f"{file.source(section)}: {text}"))
            continue
        for key, value in table.items():
            path, source = f"agent.{key}", file.source(f"{section}.{key}")
            if path not in _BY_PATH:
                text = _unknown_of_instance(str(name), str(key), value)
                problems.append(Problem("agent", f"{source}: {text}"))
            elif name == instance:
                found[path] = Found(value, source, f"{source}: {section}.{key}", place)
    return found, problems


def _not_an_instance(path: str, value: object) -> str:
    return (
        f"expected a section [{AGENTS}.INSTANCE], got {path!r} with a value of type "
        f"{type(value).__name__}; what holds for all agents belongs to [agent]"
    )


def _unknown_of_instance(name: str, key: str, value: object) -> str:
    if isinstance(value, dict):
        return (
            f"unknown section [{AGENTS}.{name}.{key}]; a name with dots needs quotes: "
            f'[{AGENTS}."{name}.{key}"]'
        )
    known = [spec.key for spec in SPECS if spec.section == "agent"]
    return f"unknown key '{AGENTS}.{name}.{key}'{nearest(key, known) or f'; it has {_list(known)}'}"


def _entries(data: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    """Section, key and value of every entry. A section that is no table has the key ``""``, a key
    outside of all sections the section ``""``."""
    for name, value in data.items():
        if name == AGENTS:
            yield AGENTS, "", value
        elif isinstance(value, dict) and name in SECTIONS:
            yield from ((name, str(key), item) for key, item in value.items())
        elif isinstance(value, dict) or name in SECTIONS:
            yield name, "", value
        else:
            yield "", name, value


def _unknown_key(section: str, key: str, value: object) -> str:
    if not key:
        # The value may be a URL with its password: it is not shown.
        return f"expected a section [{section}], got a value of type {type(value).__name__}"
    known = [spec.key for spec in SPECS if spec.section == section]
    return f"unknown key '{section}.{key}'{_remedy(key, known) or f'; it has {_list(known)}'}"


def _unknown_name(name: str, value: object) -> str:
    if isinstance(value, dict):
        known = sorted(SECTIONS)
        remedy = nearest(name, known) or f"; there are {_list(known)}"
        return f"unknown section [{name}]{remedy}"
    return f"unknown key {name!r}{_remedy(name, [*SECTIONS, *_BY_PATH])}"


def _remedy(key: str, known: list[str]) -> str:
    elsewhere = [spec.section for spec in SPECS if spec.key == key]
    return f"; it belongs to [{elsewhere[0]}]" if elsewhere else nearest(key, known)


def _list(names: list[str]) -> str:
    return ", ".join(names)


def from_environment(environ: Mapping[str, str]) -> dict[str, Found]:
    """The values that variables set, by path. Other variables are other programs'."""
    place = Place(Path(), environ)
    return {
        spec.path: Found(spec.kind.from_text(environ[name]), name, name, place)
        for name, spec in _BY_VARIABLE.items()
        if name in environ
    }


def misspelt_variables(environ: Mapping[str, str]) -> list[Problem]:
    """Variables that are nearly one of flow's, which somebody may have meant."""
    problems = []
    for name in sorted(environ):
        if not name.startswith("FLOW_") or name in _BY_VARIABLE:
            continue
        section, _, key = name.removeprefix("FLOW_").lower().partition("_")
        meant = _meant_key(section, key) if section in SECTIONS else _meant_variable(name)
        if meant is not None:
            text = f"{name}: unknown variable, ignored; did you mean {meant.variable}?"
            problems.append(Problem(meant.section, text))
    return problems


def _meant_key(section: str, key: str) -> Spec | None:
    keys = {spec.key: spec for spec in SPECS if spec.section == section}
    match = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    return keys[match[0]] if match else None


def _meant_variable(name: str) -> Spec | None:
    # Stricter, since FLOW_ is not flow's alone: FLOW_DAG_FOLDER is caught, FLOW_TASK_ID is left.
    match = difflib.get_close_matches(name, _BY_VARIABLE, n=1, cutoff=0.9)
    return _BY_VARIABLE[match[0]] if match else None


def from_options(
    options: Mapping[str, tuple[str, object]], environ: Mapping[str, str]
) -> dict[str, Found]:
    """The values that the command line sets: path -> (option, value)."""
    place = Place(Path(), environ)
    return {
        path: Found(list(value) if isinstance(value, tuple) else value, option, option, place)
        for path, (option, value) in options.items()
    }
