"""The names of everything on the broker, spelled once (docs/architecture.md, "On the broker")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from flow.names import MAX_AGENT

TASKS = "flow.tasks"
EVENTS = "flow.events"
CONTROL = "flow.control"
LOGS = "flow.logs"
EXCHANGES = (TASKS, EVENTS, CONTROL, LOGS)

#: AMQP 0-9-1 carries a routing key as a short string: at most 255 bytes.
MAX_KEY_BYTES = 255

#: The dispatcher's and the commands' own keys on flow.events. An agent's name has no underscore,
#: so no agent can be mistaken for them.
PROBE_KEY = "_dispatcher.probe"
MARKER_KEY = "_dispatcher.marker"
WAKE_KEY = "_command.wake"


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue and its one binding. ``arguments`` never change for a name (AMQP refuses that)."""

    name: str
    exchange: str
    key: str
    durable: bool = True
    exclusive: bool = False
    arguments: dict[str, str | int | bool] = field(default_factory=dict)


def task_queue(queue: str) -> QueueSpec:
    """The durable quorum queue that all agents serving *queue* share."""
    return QueueSpec(f"flow.q.{queue}", TASKS, queue, arguments={"x-queue-type": "quorum"})


def event_queue() -> QueueSpec:
    """Events for the dispatchers; its single active consumer is the leader."""
    arguments: dict[str, str | int | bool] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
    }
    return QueueSpec(EVENTS, EVENTS, "#", arguments=arguments)


def log_queue(max_bytes: int = 64 * 1024 * 1024) -> QueueSpec:
    """Log chunks for the store; bounded, so an absent dispatcher cannot fill the broker."""
    arguments: dict[str, str | int | bool] = {
        "x-max-length-bytes": max_bytes,
        "x-overflow": "drop-head",
    }
    return QueueSpec(LOGS, LOGS, "#", arguments=arguments)


def control_queue(agent: str, suffix: str) -> QueueSpec:
    """One agent connection's own queue. *suffix* is fresh per connection: a named exclusive queue
    races with its own deletion when its owner reconnects (RabbitMQ manual, queues)."""
    return QueueSpec(
        f"flow.control.{agent}.{suffix}", CONTROL, agent_key(agent), durable=False, exclusive=True
    )


def follower_queue(key: str, suffix: str) -> QueueSpec:
    """A short-lived queue that receives the log chunks that match *key* (:func:`log_pattern`)."""
    return QueueSpec(f"flow.logs.follow.{suffix}", LOGS, key, durable=False, exclusive=True)


def agent_key(agent: str) -> str:
    """Where control messages for *agent* go."""
    return f"agent.{agent}"


def event_key(agent: str, kind: str) -> str:
    """The key an agent's event carries; broker rights are given on its first word."""
    return f"{agent}.{kind}"


def log_key(agent: str, dag_id: str, task_id: str) -> str:
    """``<agent>.<dag>.<task>``. Broker rights are given on the first word; the others have no dots
    and are cut so that the key fits AMQP's 255 bytes."""
    return f"{agent}.{_key_part(dag_id)}.{_key_part(task_id)}"


def log_pattern(dag_id: str, task_id: str) -> str:
    """What a follower of one task binds its queue with: its output from any agent."""
    return f"*.{_key_part(dag_id)}.{_key_part(task_id)}"


def sender_of(key: str) -> str:
    """The agent that an event or a log chunk with this key comes from: where broker rights are per
    agent, the broker lets nobody else use the key."""
    return key.partition(".")[0]


def _key_part(text: str, limit: int = (MAX_KEY_BYTES - MAX_AGENT - 2) // 2) -> str:
    escaped = re.sub(r"[^A-Za-z0-9_-]", lambda found: f"%{found[0].encode().hex()}", text)
    if len(escaped) <= limit:
        return escaped
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{escaped[: limit - 17]}~{digest}"
