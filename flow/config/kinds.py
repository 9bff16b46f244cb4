"""Kinds of settings: how each is written in TOML and in the environment, and what it must be.

A reader gets the TOML value and the :class:`Place` it stands in; it returns the setting's value
or raises :class:`Refused`. A secret's value never gets into a message: its reader names a reason.
"""

from __future__ import annotations

import os
import pwd
import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from flow import sizes
from flow.config.secret import SecretUrl
from flow.errors import nearest
from flow.names import NameRule


class Refused(Exception):
    """A value is not of its kind. ``reason`` takes the place of the value (which a secret must
    not show), ``remedy`` ends the message."""

    def __init__(self, reason: str = "", remedy: str = "") -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was found: what its relative paths start from, and whose ``~`` it is."""

    folder: Path
    environ: Mapping[str, str]

    def path(self, text: str) -> Path:
        """*text* as an absolute path. Raises :class:`Refused`."""
        if "\0" in text:
            raise Refused
        path = Path(text)
        if path.parts and path.parts[0].startswith("~"):
            path = self._home_of(path.parts[0][1:]).joinpath(*path.parts[1:])
        return Path.cwd() / self.folder / path

    def _home_of(self, user: str) -> Path:
        own = self.environ.get("HOME")
        if own and not user:
            return Path(own)
        try:
            entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())
        except KeyError:
            raise Refused(remedy=f"; no home directory is known for '~{user}'") from None
        return Path(entry.pw_dir)


Reader = Callable[[object, Place], object]


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of value. ``expected`` completes "expected ..."; ``from_text`` makes the TOML value
    out of an environment variable's text (or returns the text where it is none: the reader then
    refuses it)."""

    expected: str
    read: Reader
    from_text: Callable[[str], object] = str
    secret: bool = False


def _number(text: str) -> object:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def whole(least: int, most: int) -> Kind:
    """A whole number from *least* to *most*."""

    def read(value: object, _: Place) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Refused
        return value

    return Kind(f"a whole number from {least} to {most}", read, _number)


def memory() -> Kind:
    """A size in bytes; 0 for no limit."""

    def read(value: object, _: Place) -> int:
        size = 0 if value in (0, "0") and value is not False else sizes.read_memory(value)
        if size is None:
            raise Refused
        return size

    return Kind(f"{sizes.MEMORY}, or 0 for no limit", read)


def cpus() -> Kind:
    """CPUs' worth of time; 0 for no limit."""

    def read(value: object, _: Place) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused
        if value != 0 and not 0.01 <= value <= 10_000:  # noqa: PLR2004 -- the text names them
            raise Refused
        return float(value)

    return Kind("a number of CPUs from 0.01 to 10000, or 0 for no limit", read, _number)


#: Longer durations are mistakes: ten years.
MOST_SECONDS = 10 * 365 * 86400


def seconds(*, positive: bool = True) -> Kind:
    """A duration of at most ten years; 0 only where it need not be *positive*."""

    def read(value: object, _: Place) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused
        # Written so that NaN is refused.
        if not 0 <= value <= MOST_SECONDS or (positive and value == 0):
            raise Refused
        return float(value)

    least = "more than 0" if positive else "0 or more"
    return Kind(f"a number of seconds, {least}, at most {MOST_SECONDS}", read, _number)


def folder() -> Kind:
    """A path; it need not exist."""

    def read(value: object, place: Place) -> Path:
        if not isinstance(value, str) or not value:
            raise Refused
        return place.path(value)

    return Kind("the path of a folder", read)


def password_file() -> Kind:
    """The path of a file with a secret in it; an empty variable sets it back to none."""

    def read(value: object, place: Place) -> Path | None:
        if not isinstance(value, str):
            raise Refused
        return place.path(value) if value else None

    return Kind("the path of a file that holds the password alone", read)


def file(holds: str) -> Kind:
    """The path of a file that *holds* something; an empty variable sets it back to none."""
    kind = password_file()
    return Kind(f"the path of a file with {holds}", kind.read)


def switch() -> Kind:
    """Yes or no: TOML's ``true`` and ``false``, which a variable spells alike."""

    def read(value: object, _: Place) -> bool:
        if not isinstance(value, bool):
            raise Refused
        return value

    return Kind("true or false", read, lambda text: {"true": True, "false": False}.get(text, text))


def text(expected: str) -> Kind:
    """A string that is not empty; an empty variable sets it back to nothing."""

    def read(value: object, _: Place) -> str | None:
        if not isinstance(value, str) or "\0" in value:
            raise Refused
        return value or None

    return Kind(expected, read)


def name(rule: NameRule) -> Kind:
    """A name that fits *rule*; an empty one stands for the default."""

    def read(value: object, _: Place) -> str | None:
        if not isinstance(value, str) or (value and rule.problem(value)):
            raise Refused
        return value or None

    return Kind(f"a name of {rule.text}", read)


def names(rule: NameRule, *, least: int) -> Kind:
    """A list of at least *least* names that fit *rule*, with commas in an environment variable."""

    def read(value: object, _: Place) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise Refused
        for item in value:
            if rule.problem(item):
                raise Refused(repr(item))
        return tuple(dict.fromkeys(value))

    return Kind(f"a list of {least} or more names of {rule.text}", read, _commas)


def _commas(text: str) -> object:
    return [item.strip() for item in text.split(",") if item.strip()]


INTERPRETER_OF_QUEUE = NameRule(re.compile(r"[A-Za-z0-9_.-]{1,100}=[^,\0]+"), "QUEUE=INTERPRETER")
#: As in CUDA_VISIBLE_DEVICES: ``0``, ``GPU-8f6a…``, ``MIG-…``.
DEVICE = NameRule(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,99}"),
    "1 to 100 letters, digits, '_', '-', '.', ':', '/'",
)
#: POSIX 1-2017, 3.235 Name.
VARIABLE = NameRule(re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), "letters, digits, '_', no digit first")


def timezone() -> Kind:
    """A name of the IANA time zone database. UTC is known without one."""

    def read(value: object, _: Place) -> str:
        if not isinstance(value, str):
            raise Refused
        if value != "UTC":
            try:
                zoneinfo.ZoneInfo(value)
            except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
                raise Refused(remedy=_timezone_remedy(value)) from None
        return value

    return Kind("a time zone such as 'UTC' or 'Europe/Berlin'", read)


def _timezone_remedy(value: str) -> str:
    known = zoneinfo.available_timezones()
    return (
        nearest(value, known) if known else "; this system has no time zone data (package tzdata)"
    )


def broker_url() -> Kind:
    """Where RabbitMQ is."""

    def read(value: object, _: Place) -> SecretUrl:
        if not isinstance(value, str):
            raise _hidden("is no string")
        parts = _split(value)
        if parts.scheme not in ("amqp", "amqps"):
            raise _hidden("does not begin with amqp:// or amqps://")
        if not parts.hostname:
            raise _hidden("names no host")
        return SecretUrl(value)

    return Kind("a URL like 'amqp://USER:PASSWORD@HOST:5672/VHOST'", read, secret=True)


def database_url() -> Kind:
    """Where the database is. SQLite's path is made absolute; everything after ``sqlite:///`` is
    the path, as it is: nothing in it is decoded."""

    def read(value: object, place: Place) -> SecretUrl:
        if not isinstance(value, str):
            raise _hidden("is no string")
        if value.lower().startswith("sqlite:"):
            return _sqlite(value, place)
        parts = _split(value)
        if parts.scheme not in ("postgresql", "postgres"):
            raise _hidden("does not begin with postgresql:// or sqlite:///")
        # libpq takes the folder of a socket as ?host=, so the URL needs no host.
        if parts.path in ("", "/") and "dbname" not in parse_qs(parts.query):
            raise _hidden("names no database")
        return SecretUrl(value)

    expected = "a URL like 'postgresql://USER:PASSWORD@HOST:5432/DATABASE' or 'sqlite:////PATH'"
    return Kind(expected, read, secret=True)


def _sqlite(url: str, place: Place) -> SecretUrl:
    """Three slashes and a relative path, or four and an absolute one, as SQLAlchemy has it."""
    path = url[len("sqlite:///") :]
    if not url.lower().startswith("sqlite:///"):
        raise _hidden("does not begin with sqlite:///", "; an absolute path makes four slashes")
    if path == ":memory:":
        raise _hidden("is in memory", "; flow's processes share the database through a file")
    if not path or path.endswith("/"):
        raise _hidden("names no file")
    if "?" in path:
        raise _hidden("has parameters", "; flow sets SQLite up itself")
    return SecretUrl(f"sqlite:///{place.path(path)}")


def _split(url: str) -> SplitResult:
    if any(char.isspace() or not char.isprintable() for char in url):
        raise _hidden("holds a blank or a control character")
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed, and refused, when it is read
    except ValueError:
        parts = None
    # An @ after the host means that a / ? or # of the password has ended the host too early.
    if parts is None or "@" in parts.path + parts.query + parts.fragment:
        remedy = "; write special characters of the password as %XX (/ is %2F, @ is %40)"
        raise _hidden("cannot be taken apart", remedy)
    return parts


def _hidden(reason: str, remedy: str = "") -> Refused:
    return Refused(f"one that {reason} (a secret, not shown)", remedy)
