"""The settings as rows, for ``flow config show``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flow.config.schema import SPECS, Config, Spec
from flow.config.secret import SecretUrl

Shown = str | int | float | list[str] | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it holds now. ``value`` fits JSON and shows no secret; ``source`` is
    ``default``, ``file:line``, an environment variable or an option."""

    section: str
    key: str
    value: Shown
    source: str
    variable: str


def describe(config: Config) -> list[Setting]:
    """Every setting of *config*, in the order of the documentation."""
    return [
        Setting(
            spec.section,
            spec.key,
            _shown(_value(config, spec)),
            config.sources.get(spec.path, "default"),
            spec.variable,
        )
        for spec in SPECS
    ]


def _value(config: Config, spec: Spec) -> object:
    owner: object = getattr(config, spec.section) if spec.section else config
    return getattr(owner, spec.key)


def _shown(value: object) -> Shown:
    match value:
        case tuple():
            return [str(item) for item in value]
        case SecretUrl() | Path():
            return str(value)
        case str() | int() | float() | None:
            return value
    raise TypeError(f"a setting of type {type(value).__name__} cannot be shown")
