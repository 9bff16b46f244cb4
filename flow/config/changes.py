"""Settings read again while a daemon runs: which of them take effect at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from flow.config.schema import RULES, SPECS, Config, Spec
from flow.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between the settings a daemon goes by and those it has read now."""

    config: Config
    """What it goes by from now on: the old settings, with those of ``live`` from the new ones."""
    live: tuple[str, ...]
    """Paths (``agent.slots``) that take effect at once."""
    restart: tuple[str, ...]
    """Paths that differ and take effect with the next start only."""


def changes(
    old: Config, new: Config, *, concerns: Collection[str], live: Collection[str]
) -> Changes:
    """Compare *old*, which a daemon goes by, with *new* in the sections that *concern* it. *live*
    are the paths that it can change while it runs.

    Raises :class:`ConfigError` when what would hold then does not fit together: a new setting may
    fit only to another new one that waits for a restart.
    """
    paths = [
        spec.path
        for spec in SPECS
        if (not spec.section or spec.section in concerns) and _value(old, spec) != _value(new, spec)
    ]
    now = tuple(path for path in paths if path in live)
    effective = old
    for path in now:
        section, _, key = path.partition(".")
        value = getattr(getattr(new, section), key)
        changed = replace(getattr(effective, section), **{key: value})
        effective = replace(effective, **{section: changed})
    problems = [
        text
        for rule in RULES
        if now
        and all(path.partition(".")[0] in concerns for path in rule.paths)
        and (text := rule.problem(effective)) is not None
    ]
    if problems:
        waiting = (
            f" (while {', '.join(later)} waits for a restart)"
            if (later := [path for path in paths if path not in live])
            else ""
        )
        raise ConfigError("\n".join(f"{text}{waiting}" for text in problems))
    return Changes(effective, now, tuple(path for path in paths if path not in live))


def _value(config: Config, spec: Spec) -> object:
    owner: object = getattr(config, spec.section) if spec.section else config
    return getattr(owner, spec.key)
