"""What a check has found, in words; and all checks carried out side by side, none for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from flow.errors import FlowError


class Level(StrEnum):
    """How bad something is."""

    OK = "ok"
    #: Good to know, or not to be known from here.
    NOTE = "note"
    #: It works, and somebody should look at it.
    WARNING = "warning"
    #: Something does not work, or is not safe.
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line: what there is, and what to do about it."""

    level: Level
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A judgement, and the check that it comes from."""

    check: str
    level: Level
    what: str
    remedy: str

    @property
    def line(self) -> str:
        """As it is printed."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level:<8} {self.check}: {self.what}{remedy}"


def ok(what: str) -> Judgement:
    """It is as it should be."""
    return Judgement(Level.OK, what)


def note(what: str, remedy: str = "") -> Judgement:
    """See :attr:`Level.NOTE`."""
    return Judgement(Level.NOTE, what, remedy)


def warning(what: str, remedy: str) -> Judgement:
    """See :attr:`Level.WARNING`."""
    return Judgement(Level.WARNING, what, remedy)


def problem(what: str, remedy: str) -> Judgement:
    """See :attr:`Level.PROBLEM`."""
    return Judgement(Level.PROBLEM, what, remedy)


def problems(error: FlowError, remedy: str = "") -> Iterator[Judgement]:
    """What *error* says, a problem for each of its lines; with *remedy* where it has none."""
    for line in str(error).splitlines():
        what, _, own = line.partition("; ")
        yield problem(what, own or remedy)


@dataclass(frozen=True, slots=True)
class Check:
    """A name, and what finds out. *remedy* is for an error that does not bring its own."""

    name: str
    look: Callable[[], Iterable[Judgement]]
    remedy: str = ""


#: Checks that go on one after the other, each only if those before it could look.
Chain = Sequence[Check]


@dataclass(slots=True)
class _Running:
    """A chain in a thread of its own."""

    chain: Chain
    found: list[Finding] = field(default_factory=list)
    begun: int = 0
    """How many of its checks."""

    def run(self) -> None:
        for check in self.chain:
            self.begun += 1
            if not self._carry_out(check):
                return

    def _carry_out(self, check: Check) -> bool:
        """Whether it could look."""
        try:
            # One by one, so that what was found before an error or a silence is told, too.
            for judgement in check.look():
                self.tell(check, judgement)
        except FlowError as error:
            for judgement in problems(error, check.remedy):
                self.tell(check, judgement)
        except PermissionError as error:
            what = f"{error.filename or 'what it looks at'} may not be read or used by this user"
            self.tell(check, problem(what, "run flow doctor as root or as the unit's user"))
        except OSError as error:
            self.tell(check, problem(_of_system(error), check.remedy))
        except Exception as error:  # noqa: BLE001 - the others go on, and this one is told
            what = f"a bug in flow kept it from looking: {type(error).__name__}: {error}"
            self.tell(check, problem(" ".join(what.split()), "please report it"))
        else:
            return True
        return False

    def tell(self, check: Check, judgement: Judgement) -> None:
        """Take down what was found."""
        self.found.append(Finding(check.name, judgement.level, judgement.what, judgement.remedy))


def carry_out(chains: Iterable[Chain], within: float) -> Iterator[Finding]:
    """All *chains* at the same time; what they find, in their order.

    What has not ended *within* so many seconds is a problem. Its thread is left behind: what it
    waits for, such as a dead file server, may not let go of it.
    """
    end = time.monotonic() + within
    running = [_Running(chain) for chain in chains]
    threads = [threading.Thread(target=each.run, daemon=True) for each in running]
    for thread in threads:
        thread.start()
    for each, thread in zip(running, threads, strict=True):
        thread.join(max(0.0, end - time.monotonic()))
        silent = thread.is_alive()
        begun = each.begun
        yield from list(each.found)
        yield from _not_found(each.chain, begun, within, silent=silent)


def _not_found(chain: Chain, begun: int, within: float, *, silent: bool) -> Iterator[Finding]:
    """What a chain that broke off has not come to."""
    last = chain[begun - 1] if begun else chain[0]
    if silent:
        remedy = "what it asks hangs: a server, a file system, or this machine is overloaded"
        what = f"no answer within {within:g} s"
        yield Finding(last.name, Level.PROBLEM, what, last.remedy or remedy)
    for check in chain[begun:]:
        yield Finding(check.name, Level.NOTE, f"not looked at, because of {last.name}", "")


def _of_system(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or type(error).__name__}{where}"
