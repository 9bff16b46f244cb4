"""Checks of single values. Each takes what the user gave and returns what is stored."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from flow import sizes
from flow.errors import nearest
from flow.names import QUEUE, NameRule

#: A column of this size holds counts and weights.
MAX_INTEGER = 2**31 - 1
#: Ten years: long enough for every delay, short enough that no date overflows.
MAX_SECONDS = 3650 * 86400.0
#: Linux passes no longer single argument or variable (MAX_ARG_STRLEN, execve(2)), its NUL included.
MAX_ARGUMENT_BYTES = 128 * 1024 - 1


_LONGEST_OWNER = 250
_LONGEST_TAG = 100


class BadValue(Exception):
    """A value cannot be used: ``expected <what>, got <repr><remedy>``, without the place."""


class Later:
    """Stands, in a DAG file, for a text that is known only when a task runs; its own text is the
    template that is rendered to it."""


Check = Callable[[object], object]


def shown(value: object, limit: int = 80) -> str:
    """``repr``, cut, of a value that may be large or whose ``repr`` is the user's code."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  the user's __repr__ may raise anything; the report must not
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    return cut(text, limit)


def cut(text: str, limit: int) -> str:
    """*text*, with its end left out where it is longer than *limit* characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def label(name: object) -> str:
    """What messages call a thing whose name may be bad."""
    return name if isinstance(name, str) else shown(name)


def bad(expected: str, value: object, remedy: str = "") -> BadValue:
    """The :class:`BadValue` for *value*; *remedy* brings its own ``"; "``."""
    return BadValue(f"expected {expected}, got {shown(value)}{remedy}")


def name(rule: NameRule) -> Callable[[object], str]:
    """Names that keep *rule*."""

    def check(value: object) -> str:
        problem = rule.problem(value)
        if problem or not isinstance(value, str):
            raise BadValue(problem)
        return value

    return check


queue = name(QUEUE)


def integer(low: int, high: int = MAX_INTEGER) -> Callable[[object], int]:
    """Whole numbers of *low* to *high*; ``True`` is none."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise bad(f"a whole number from {low} to {high}", value)
        return int(value)

    return check


def boolean(value: object) -> bool:
    """``True`` or ``False`` and nothing like them."""
    if not isinstance(value, bool):
        raise bad("True or False", value)
    return value


def text(value: object) -> str:
    """Text that a database and a message can carry: no NUL, no lone surrogates."""
    if not isinstance(value, str):
        raise bad("text", value)
    if "\0" in value:
        raise bad("text without NUL characters", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad("text that can be written as UTF-8", value) from None
    return str(value)


def seconds(*, positive: bool) -> Callable[[object], float]:
    """A timedelta or a number of seconds, up to ten years."""
    least = "more than 0" if positive else "0 or more"
    expected = f"a timedelta or a number of seconds, {least} and at most 3650 days"

    def check(value: object) -> float:
        if isinstance(value, timedelta):
            number = value.total_seconds()
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value) if abs(value) <= MAX_SECONDS else math.inf
        else:
            raise bad(expected, value)
        if not 0 <= number <= MAX_SECONDS or (positive and number == 0):
            raise bad(expected, value)
        return number

    return check


def memory(value: object) -> int:
    """A size in bytes (flow.sizes)."""
    size = sizes.read_memory(value)
    if size is None:
        raise bad(sizes.MEMORY, value)
    return size


def cpus(value: object) -> float:
    """CPUs' worth of time: 0.5 is half of one."""
    expected = "a number of CPUs from 0.01 to 10000"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad(expected, value)
    if not 0.01 <= value <= 10_000:  # noqa: PLR2004 -- the text above names them
        raise bad(expected, value)
    return float(value)


def optional(check: Callable[[object], object]) -> Check:
    """``None``, or what *check* accepts."""
    return lambda value: None if value is None else check(value)


def one_of(*choices: str) -> Callable[[object], str]:
    """One of a few words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            remedy = nearest(value, choices) if isinstance(value, str) else ""
            raise bad(" or ".join(repr(choice) for choice in choices), value, remedy)
        return str(value)

    return check


def is_template(value: str) -> bool:
    """Whether it looks like a Jinja template, and is therefore rendered."""
    return any(
        opening in value and closing in value for opening, closing in (("{{", "}}"), ("{%", "%}"))
    )


def untemplated(value: object) -> str:
    """Text that does not look like a template: it would be used unrendered, in silence."""
    plain = text(value)
    if is_template(plain):
        raise bad(
            "text without templates, which are not rendered here", plain, "; write it as it is"
        )
    return plain


def argument(value: object) -> str:
    """Text that fits one argument or variable of a process."""
    plain = text(value)
    if (size := len(plain.encode())) > MAX_ARGUMENT_BYTES:
        raise BadValue(
            f"expected at most {MAX_ARGUMENT_BYTES} bytes, got {size}; "
            "put a longer script into a file and call it"
        )
    return plain


def command(value: object) -> str:
    """A shell command: not empty."""
    plain = argument(value)
    if not plain.strip():
        raise bad("a shell command", value)
    return plain


def environment(value: object) -> dict[str, str | Later]:
    """Variables for a process: names to texts, or to what stands for one."""
    if not isinstance(value, Mapping):
        raise bad("a dict of texts", value)
    checked: dict[str, str | Later] = {}
    for key, content in value.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise bad("names of variables without '='", key)
        if isinstance(content, Later):
            checked[text(key)] = content
            continue
        if not isinstance(content, str):
            raise BadValue(
                f"expected text for {shown(key)}, got {shown(content)}; write {shown(str(content))}"
            )
        try:
            checked[text(key)] = argument(content)
        except BadValue as error:
            raise BadValue(f"{shown(key)}: {error}") from None
    return checked


def directory(value: object) -> str:
    """A directory on the node. A relative one would depend on where the agent was started."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not (value == "~" or value.startswith(("/", "~/"))):
        raise bad("an absolute path on the node, or one beginning with '~/'", value)
    return untemplated(value)


def interpreter(value: object) -> str:
    """A Python on the node: an absolute path, or a name that is looked up in PATH."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or ("/" in value and value[0] not in "/~"):
        raise bad("the absolute path or the name of a Python interpreter", value)
    return untemplated(value)


def owner(value: object) -> str:
    """A name of 1 to 250 characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_OWNER:
        raise bad("a name of 1 to 250 characters", value)
    return text(value)


def tags(value: object) -> tuple[str, ...]:
    """A list, tuple or set of short texts; a set is sorted, repeated ones are dropped."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        remedy = f"; write [{shown(value)}]" if isinstance(value, str) else ""
        raise bad("a list of texts", value, remedy)
    checked = [_tag(tag) for tag in value]
    ordered: Iterable[str] = checked if isinstance(value, (list, tuple)) else sorted(checked)
    return tuple(dict.fromkeys(ordered))


def _tag(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_TAG:
        raise bad("tags of 1 to 100 characters", value)
    return text(value)
