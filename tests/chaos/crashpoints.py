"""Named moments at which a dispatcher can be made to die (:mod:`tests.chaos.crash`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dispatcher.core.records import (
    AgentState,
    CloseTry,
    EndSession,
    InsertRun,
    MoveRun,
    MoveTask,
    OpenTry,
    SaveAgent,
    SaveXcoms,
    SetPaused,
    SetWish,
    TouchLeader,
)
from flow import wire
from flow.states import RUN_TERMINAL, TaskEvent

Chooses = Callable[[Sequence[Any], Any], bool]
"""Whether a call is meant, by its positional arguments and its result (``None`` before it)."""


def _every(_: Sequence[Any], __: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Point:
    """A moment: ``before`` or ``after`` a call of *target*, or when the broker has ``confirmed``
    the message that it published."""

    name: str
    target: str
    """``module:function`` or ``module:Class.method``"""
    when: str
    chooses: Chooses = _every
    stimulus: str = "run"
    """What makes a dispatcher pass here: see :mod:`tests.chaos.faults.crashes`."""


# -- which calls -------------------------------------------------------------------------------


def _holds(kind: type | tuple[type, ...], **values: Any) -> Chooses:
    """Calls that are given one of *kind* with these attributes, itself or in a sequence."""

    def fits(value: Any) -> bool:
        return isinstance(value, kind) and all(
            getattr(value, name) == wanted for name, wanted in values.items()
        )

    def chooses(arguments: Sequence[Any], _: Any) -> bool:
        return any(
            fits(argument) or (isinstance(argument, list | tuple) and any(map(fits, argument)))
            for argument in arguments
        )

    return chooses


def _ends_run(arguments: Sequence[Any], _: Any) -> bool:
    return any(
        isinstance(write, MoveRun) and write.target in RUN_TERMINAL
        for argument in arguments
        if isinstance(argument, list)
        for write in argument
    )


def _greets(arguments: Sequence[Any], _: Any) -> bool:
    return any(
        isinstance(write, SaveAgent) and write.agent.state is AgentState.ONLINE
        for argument in arguments
        if isinstance(argument, list)
        for write in argument
    )


def _returns_some(_: Sequence[Any], result: Any) -> bool:
    return bool(result)


def _has_effect(kind: str) -> Chooses:
    """Calls that are given or return effects of this kind."""

    def chooses(arguments: Sequence[Any], result: Any) -> bool:
        return any(getattr(value, kind, ()) for value in (*arguments, result))

    return chooses


def _replies(kind: type) -> Chooses:
    """Calls that are given effects with such a reply."""

    def chooses(arguments: Sequence[Any], _: Any) -> bool:
        return any(
            isinstance(reply, kind)
            for argument in arguments
            for _, reply in getattr(argument, "replies", ())
        )

    return chooses


# -- where -------------------------------------------------------------------------------------

_STORE = "dispatcher.store.store:Store"
_CORE = "dispatcher.core.core:Core"
_COMMIT = f"{_STORE}.commit"
_APPLY = "dispatcher.store.writer:apply"
_AUDIT = "dispatcher.store.writer:write_audit"
_CARRY_OUT = "dispatcher.publisher:Publisher.carry_out"
_SEND = "dispatcher.publisher:Publisher._send"


def _around_commit(
    what: str, chooses: Chooses, stimulus: str = "run", *, inside: str = _AUDIT
) -> Iterator[Point]:
    """Before a transaction, between two of its statements, and before anybody knows of its end."""
    yield Point(f"{what}-before-commit", _COMMIT, "before", chooses, stimulus)
    yield Point(f"{what}-between-statements", inside, "before", chooses, stimulus)
    yield Point(f"{what}-after-commit", _COMMIT, "after", chooses, stimulus)


def _around_publish(
    what: str, kind: type, stimulus: str = "run", *, confirmed: bool = False
) -> Iterator[Point]:
    yield Point(f"{what}-before-publish", _SEND, "before", _holds(kind), stimulus)
    yield Point(f"{what}-after-publish", _SEND, "after", _holds(kind), stimulus)
    if confirmed:
        yield Point(f"{what}-confirmed", _SEND, "confirmed", _holds(kind), stimulus)


_BEGINNING = (
    Point("before-election", "dispatcher.service:elected", "before", stimulus="restart"),
    Point("before-epoch", f"{_STORE}.begin_reign", "before", stimulus="restart"),
    Point("epoch-locked", "dispatcher.store.leader:_own_session", "after", stimulus="restart"),
    Point("after-epoch", f"{_STORE}.begin_reign", "after", stimulus="restart"),
    Point("after-load", f"{_STORE}.load", "after", stimulus="restart"),
    Point("queues-declared", "dispatcher.publisher:Publisher.declare", "after", stimulus="restart"),
    Point("before-begin", f"{_CORE}.begin", "before", stimulus="restart"),
    Point("after-begin", f"{_CORE}.begin", "after", stimulus="restart"),
    Point("before-first-flush", "dispatcher.flusher:Flusher.run", "before", stimulus="restart"),
)
_RUNS = (
    Point("intent-read", f"{_STORE}.pending_intents", "after", _returns_some),
    Point("intent-carried-out", f"{_CORE}.request", "after"),
    *_around_commit("run", _holds(InsertRun)),
    Point("run-inserted", "dispatcher.store.writer:_insert_runs", "after", _holds(InsertRun)),
    Point("run-applied-before-commit", _APPLY, "after", _holds(InsertRun)),
    *_around_publish("task", wire.Task, confirmed=True),
    *_around_commit("run-end", _ends_run),
    *_around_commit("schedule", _holds(InsertRun, actor="schedule"), "schedule"),
    *_around_commit("clear", _holds(MoveTask, event=TaskEvent.CLEAR), "clear"),
    *_around_commit("wish", _holds(SetWish), "cancel"),
    *_around_publish("stop", wire.Stop, "cancel"),
    *_around_commit("pause", _holds(SetPaused), "pause"),
)
_TOKENS = (
    Point("claim-received", f"{_CORE}.receive", "after", _holds(wire.Claim)),
    *_around_commit("grant", _holds(OpenTry), inside="dispatcher.store.writer:open_tries"),
    Point("grant-applied-before-commit", _APPLY, "after", _holds(OpenTry)),
    Point("grant-acked", _CARRY_OUT, "before", _replies(wire.Grant)),
    *_around_publish("grant", wire.Grant, confirmed=True),
    Point("result-received", f"{_CORE}.receive", "after", _holds(wire.Finished)),
    *_around_commit("result", _holds(CloseTry), inside="dispatcher.store.writer:close_tries"),
    Point("result-acked", _CARRY_OUT, "before", _replies(wire.Answered)),
    *_around_publish("answer", wire.Answered),
)
_SESSIONS = (
    Point("hello-received", f"{_CORE}.receive", "after", _holds(wire.Hello), "rejoin"),
    *_around_commit("hello", _greets, "rejoin"),
    Point("goodbye-after-commit", _COMMIT, "after", _holds(EndSession, how="goodbye"), "rejoin"),
    *_around_publish("marker", wire.Marker, "silence"),
    Point("marker-returned", f"{_CORE}.receive", "after", _holds(wire.Marker), "silence"),
    Point("reconcile-observed", f"{_CORE}.queue_observed", "after", stimulus="silence"),
    Point(
        "reconcile-publishes",
        f"{_CORE}.queue_observed",
        "after",
        _has_effect("publications"),
        "silence",
    ),
    Point("takeover-before-commit", _COMMIT, "before", _holds(EndSession, how="lost"), "takeover"),
    Point("takeover-after-commit", _COMMIT, "after", _holds(EndSession, how="lost"), "takeover"),
)
_VALUES = (
    Point("xcoms-written", "dispatcher.store.writer:save_xcoms", "after", _holds(SaveXcoms), "ask"),
    Point("ask-received", f"{_CORE}.receive", "after", _holds(wire.Ask), "ask"),
    Point("values-read", f"{_STORE}.find_values", "after", stimulus="ask"),
    *_around_publish("values", wire.Answer, "ask"),
)
_FOLDER = (
    Point("blobs-stored", f"{_STORE}.store_blobs", "after", stimulus="ship"),
    Point("before-bundle", f"{_STORE}.store_bundle", "before", stimulus="ship"),
    Point("after-bundle", f"{_STORE}.store_bundle", "after", stimulus="ship"),
    Point("before-dags", f"{_STORE}.record_files", "before", stimulus="ship"),
    Point("between-dags", "dispatcher.store.catalogue:_make_current", "before", stimulus="ship"),
    Point("after-dags", f"{_STORE}.record_files", "after", stimulus="ship"),
    Point("pieces-read", f"{_STORE}.read_pieces", "after", _returns_some, "ship"),
    Point("piece-sent", "dispatcher.shipping:_publication", "after", _holds(wire.Piece), "ship"),
)
_UPKEEP = (
    Point("log-before-write", "dispatcher.logstore:LogStore.write", "before"),
    Point("log-after-write", "dispatcher.logstore:LogStore.write", "after"),
    Point("touch-before-commit", _COMMIT, "before", _holds(TouchLeader)),
    Point("touch-after-commit", _COMMIT, "after", _holds(TouchLeader)),
    Point("before-prune", f"{_STORE}.prune_bundles", "before"),
    Point("after-prune", f"{_STORE}.prune_bundles", "after"),
)

POINTS: tuple[Point, ...] = (
    *(_BEGINNING + _RUNS + _TOKENS + _SESSIONS),
    *(_VALUES + _FOLDER + _UPKEEP),
)
