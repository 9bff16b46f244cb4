"""What the AMQP library and the broker say, put into one clause for the user."""

from __future__ import annotations

import asyncio
from typing import Any

import aiormq

from flow.errors import BrokerRefused, TransportError

#: What may come out of an aiormq call: its own errors (connection errors are OSErrors too), and
#: RuntimeError where a connection or channel has closed already.
CALL_ERRORS = (aiormq.AMQPError, OSError, RuntimeError)

#: The broker understood, and said no: asking again will not help.
_REFUSALS = (
    aiormq.ChannelAccessRefused,
    aiormq.ChannelLockedResource,
    aiormq.ChannelPreconditionFailed,
)


def reply(error: BaseException) -> str:
    """What happened, in the words of the broker or the system, without class names and codes."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error.__cause__, asyncio.IncompleteReadError):
        return "the other side closed it"
    source = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(source, OSError) and source.strerror:
        return source.strerror
    words = " ".join(str(part) for part in error.args if part not in (None, ""))
    return words or type(error).__name__


def refusal(what: str, error: BaseException) -> TransportError:
    """The error for an operation (*what* it was) that failed on its own channel."""
    kind = BrokerRefused if isinstance(error, _REFUSALS) else TransportError
    return kind(f"{what}: {reply(error)}")


def closing_reason(channel: str, error: BaseException | None) -> str:
    """Why a connection, or *channel* on it, has closed without our asking.

    A lost connection ends its channels with its own error, in any order, so the text says
    "connection" then whichever comes first.
    """
    if isinstance(error, aiormq.AMQPChannelError):
        return f"{channel} closed by the broker: {reply(error)}"
    if isinstance(error, aiormq.ConnectionClosed):
        return f"connection closed by the broker: {reply(error)}"
    if error is None or isinstance(error, asyncio.CancelledError):
        return "connection lost: no sign of life from the broker"
    return f"connection lost: {reply(error)}"


def mark_seen(future: asyncio.Future[Any]) -> None:
    """Look at an outcome that nobody may be waiting for, so that asyncio does not complain."""
    if not future.cancelled():
        future.exception()
