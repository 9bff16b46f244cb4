"""One rule switched off: what is changed, and who must notice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A change of one place in the product that breaks one rule."""

    name: str
    what: str
    """What the broken program does."""
    file: str
    old: str
    """Occurs exactly once in ``file``."""
    new: str
    killed_by: Mapping[str, tuple[str, ...]]
    """Names of tests by file: each of them must fail."""
    unseen: str = ""
    """Why the simulator cannot see it; empty: it must."""

    @property
    def tests(self) -> frozenset[str]:
        """The node ids of the tests that must fail."""
        return frozenset(
            f"{file}::{test}" for file, tests in self.killed_by.items() for test in tests
        )

    def applied(self, text: str) -> str:
        """*text*, the content of ``file``, with the rule broken. Raises :class:`ValueError` when
        the place is not there, or not the only one."""
        found = text.count(self.old)
        if found != 1:
            raise ValueError(
                f"mutant {self.name!r}: expected its text once in {self.file}, got it {found} times"
            )
        return text.replace(self.old, self.new)
