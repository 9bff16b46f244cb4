"""Asking the dispatcher for something: a row in the database, a bell, and its answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flow.cli.invocation import Invocation, actor
from flow.cli.wake import wake
from flow.errors import FlowError

if TYPE_CHECKING:
    from dispatcher.store.reader import Reader

#: Seconds for which a command waits until its request is dealt with. The request stays.
PATIENCE = 5.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was written down. ``done``: a dispatcher has carried it out."""

    intent_id: int
    done: bool


def ask(invocation: Invocation, reader: Reader, kind: str, arguments: Mapping[str, Any]) -> Asked:
    """Request *kind* and wait a while; that no dispatcher has dealt with it by then is said on
    stderr.

    Raises :class:`FlowError` with the dispatcher's reason when it refuses.
    """
    intent_id = reader.request(kind, arguments, actor=actor(), at=datetime.now(UTC))
    failure = wake(invocation.config())
    if failure is not None and invocation.verbose:
        invocation.warn(f"{failure}; the dispatcher was not woken and will look by itself")
    for pause in _pauses():
        if answered(reader, intent_id):
            return Asked(intent_id, done=True)
        time.sleep(pause)
    done = answered(reader, intent_id)
    if not done:
        _say_undone(invocation, kind)
    return Asked(intent_id, done)


def _say_undone(invocation: Invocation, kind: str) -> None:
    invocation.warn(
        f"no dispatcher has dealt with the {kind} within {PATIENCE:g} s; "
        "it stays requested until `flow dispatcher` runs"
    )


def answered(reader: Reader, intent_id: int) -> bool:
    """Whether the request is carried out. Raises :class:`FlowError` when it was refused."""
    intent = reader.intent(intent_id)
    if intent.error:
        raise FlowError(intent.error)
    return intent.done


def _pauses() -> Iterator[float]:
    deadline, pause = time.monotonic() + PATIENCE, _FIRST_PAUSE
    while time.monotonic() < deadline:
        yield pause
        pause = min(pause * 1.5, _LONGEST_PAUSE)
