"""Asking the agent, over a Unix socket, for what only the dispatcher knows."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from flow.errors import FlowError

#: The environment variable with the path of the socket: user code, too, may ask.
SOCKET = "FLOW_TASK_SOCKET"

Wanted = dict[str, str]
"""``{"kind": "xcom", "name": TASK_ID, "key": KEY}`` or ``{"kind": "variable", "name": NAME}``."""


class Refused(FlowError):
    """The dispatcher does not answer this task, and asking again would not help."""


def ask(path: str, wanted: Sequence[Wanted]) -> list[list[Any]]:
    """The value of each of *wanted*, in a list of one, or an empty list where there is none.

    Waits for as long as the dispatcher is away. Raises :class:`Refused`.
    """
    answers: list[list[Any]] = []
    while len(answers) < len(wanted):
        # An answer holds as many values as fit into a message, at least one.
        answers += _exchange(path, wanted[len(answers) :])
    return answers


def _exchange(path: str, wanted: Sequence[Wanted]) -> list[list[Any]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _connect(connection, path)
        connection.sendall(json.dumps({"wanted": list(wanted)}).encode() + b"\n")
        with connection.makefile("rb") as stream:
            line = stream.readline()
    if not line:
        raise Refused("expected an answer of the agent, got none; it has ended")
    answer = json.loads(line)
    if answer.get("error"):
        raise Refused(str(answer["error"]))
    values: list[list[Any]] = answer["values"]
    if not values:
        raise Refused("expected the values that were asked for, got none")
    return values


def _connect(connection: socket.socket, path: str) -> None:
    """Connect to a path of any length: unix(7) allows 107 bytes, so through its folder."""
    folder, _, name = path.rpartition("/")
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{opened}/{name}")
    finally:
        os.close(opened)
