"""Settings from file, environment and command line, checked; all problems of a stage at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flow.config.credentials import CREDENTIALS, BadCredential, fill
from flow.config.kinds import Place, Refused
from flow.config.layers import (
    DEFAULT_FILE,
    Found,
    Problem,
    from_environment,
    from_file,
    from_instance,
    from_options,
    misspelt_variables,
    read_file,
)
from flow.config.schema import RULES, SECTION_CLASSES, SECTIONS, SPECS, Config, Spec
from flow.config.secret import SecretUrl
from flow.errors import ConfigError

#: Of a wrong value in a message.
SHOWN_CHARACTERS = 100


def load_config(
    path: Path | str | None,
    environ: Mapping[str, str],
    *,
    concerns: Collection[str] = SECTIONS,
    options: Mapping[str, tuple[str, object]] | None = None,
    instance: str = "",
    default_file: Path = DEFAULT_FILE,
) -> Config:
    """Read the settings of a process.

    The file is *path*, else ``FLOW_CONFIG``, else *default_file* where it exists; *environ* goes
    before it, *options* (``{"agent.slots": ("--slots", 4)}``) before both. *concerns* are the
    sections that this process uses: what is wrong in others is a warning, and their defaults hold.
    *instance* is the queue that an agent was started for: it serves that one, and its section
    ``[agents.<instance>]`` goes before ``[agent]``, of which queues and name are not its own.

    Raises :class:`ConfigError`, one line per problem, with all the problems of the first stage
    that has any: file, names, values, relations between values.
    """
    warnings: list[str] = []

    def judge(problems: list[Problem]) -> None:
        errors = [item.text for item in problems if item.section in concerns or not item.section]
        if errors:
            raise ConfigError("\n".join(errors))
        warnings.extend(f"{item.text} (ignored: not used here)" for item in problems)

    file = read_file(path, environ, default_file)
    found: dict[str, Found] = {}
    if file is not None:
        found, unknown = from_file(file, environ)
        own, unknown_own = from_instance(file, instance, environ)
        judge(unknown + unknown_own)
        if instance:
            warnings.extend(_take_out(found, instance))
            found |= _queue_of(instance, environ) | own
    elif instance:
        found |= _queue_of(instance, environ)
    found |= from_environment(environ)
    found |= from_options(options or {}, environ)

    values, problems = _read_values(found, environ)
    judge(problems)
    files, problems = _fill_passwords(values, found, environ, concerns)
    judge(problems)
    misspelt = misspelt_variables(environ)
    warnings.extend(item.text for item in misspelt if item.section in concerns or not item.section)

    sections: dict[str, Any] = {
        name: cls(**_of(name, values)) for name, cls in SECTION_CLASSES.items()
    }
    config = Config(
        **_of("", values),
        **sections,
        file=file.path if file is not None else None,
        warnings=tuple(warnings),
        sources={spec.path: found[spec.path].source for spec in SPECS if spec.path in found}
        | files,
        instance=instance,
    )
    judge(_relations(config, concerns))
    return config


def _queue_of(instance: str, environ: Mapping[str, str]) -> dict[str, Found]:
    place = Place(Path(), environ)
    return {"agent.queues": Found([instance], "--instance", "--instance", place)}


def _take_out(found: dict[str, Found], instance: str) -> list[str]:
    """What the file says of name and queues of *the* agent is not said of one among several."""
    taken = [found.pop(path) for path in ("agent.name", "agent.queues") if path in found]
    return [
        f"{item.where}: not for agent {instance!r}, which is one of several; what is its own "
        f'belongs to [agents."{instance}"]'
        for item in taken
    ]


def _fill_passwords(
    values: dict[Spec, object],
    found: Mapping[str, Found],
    environ: Mapping[str, str],
    concerns: Collection[str],
) -> tuple[dict[str, str], list[Problem]]:
    """Put the passwords that are in files into their URLs; where those URLs come from now."""
    sources: dict[str, str] = {}
    problems: list[Problem] = []
    specs = {spec.path: spec for spec in values}
    for section in CREDENTIALS:
        url_spec, file_spec = specs[f"{section}.url"], specs[f"{section}.password_file"]
        url, file = values[url_spec], values[file_spec]
        if section not in concerns or not isinstance(url, SecretUrl):
            continue
        where = found[file_spec.path].where if file_spec.path in found else section
        try:
            filled = fill(
                section,
                url,
                file if isinstance(file, Path) else None,
                environ,
                where=where,
                user_follows=section == "broker" and "agent" in concerns,
            )
        except BadCredential as bad:
            problems.append(Problem(section, str(bad)))
            continue
        values[url_spec] = filled.url
        if filled.file is not None:
            written = found[url_spec.path].source if url_spec.path in found else "default"
            sources[url_spec.path] = f"{written}, password from {filled.file}"
    return sources, problems


def _of(section: str, values: Mapping[Spec, object]) -> dict[str, Any]:
    return {spec.key: value for spec, value in values.items() if spec.section == section}


def _read_values(
    found: dict[str, Found], environ: Mapping[str, str]
) -> tuple[dict[Spec, object], list[Problem]]:
    """Every setting's value. What is refused is taken out of *found*: its default holds."""
    values: dict[Spec, object] = {}
    problems: list[Problem] = []
    home = Path()
    for spec in SPECS:  # home comes first: defaults of others lie in it
        try:
            value = _read(spec, found.get(spec.path), home, environ)
        except _Refusal as refusal:
            problems.append(Problem(spec.section, str(refusal)))
            found.pop(spec.path, None)
            value = spec.default_in(home)
        if spec.path == "home" and isinstance(value, Path):
            home = value
        values[spec] = value
    return values, problems


class _Refusal(Exception):
    """A value is wrong; the text is the whole message."""


def _read(spec: Spec, found: Found | None, home: Path, environ: Mapping[str, str]) -> object:
    if found is None and spec.path == "home":
        found = Found("~/.flow", "default", spec.variable, Place(Path(), environ))
    if found is None:
        return spec.default_in(home)
    try:
        return spec.kind.read(found.value, found.place)
    except Refused as refused:
        hidden = "a value that is not shown" if spec.kind.secret else _shown(found.value)
        got = refused.reason or hidden
        raise _Refusal(
            f"{found.where}: expected {spec.kind.expected}, got {got}{refused.remedy}"
        ) from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _relations(config: Config, concerns: Collection[str]) -> list[Problem]:
    problems = []
    for rule in RULES:
        if all(path.partition(".")[0] in concerns for path in rule.paths):
            text = rule.problem(config)
            if text is not None:
                written = dict.fromkeys(
                    config.sources[path] for path in rule.paths if path in config.sources
                )
                problems.append(Problem("", f"{', '.join(written)}: {text}"))
    return problems
