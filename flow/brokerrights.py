"""What each user may do at RabbitMQ, and nothing else: permissions on exchanges and queues, and
topic permissions on routing keys.

Permissions are regular expressions over the names of exchanges *and* queues. Those on routing keys
are per topic exchange, and where a user has none for an exchange every key is allowed (RabbitMQ
manual, access-control), so each user has an entry for each of flow's exchanges. RabbitMQ searches
with them, so all are anchored. What needs which right:

- an agent consumes its task queues (read) and makes none of them: who may declare a queue may also
  delete it. A dispatcher makes them;
- it declares, binds and consumes a control queue per connection. To bind is to write to the queue
  and to read the exchange, which is held to the agent's own key;
- it publishes events and log chunks under keys that begin with its own name.

Permissions alone cannot hold it to its keys. RabbitMQ does not tell the right to a queue from that
to an exchange of the same name: so an agent may make an exchange of its own, bind flow.events to
it, and publish there under any key; or have its queue dead-letter there. Such messages state its
own user or none. That is why the dispatcher looks at the user of each event and each piece of
output (``dispatcher.verify_users``, :mod:`flow.senders`). Other agents and other queues are out of
reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flow.topology import (
    CONTROL,
    EVENTS,
    EXCHANGES,
    LOGS,
    MARKER_KEY,
    PROBE_KEY,
    TASKS,
    WAKE_KEY,
    agent_key,
    control_queue,
    event_key,
    follower_queue,
    task_queue,
)

NOTHING = "^$"
#: How long a consumer may keep a message unacknowledged, in ms: a year. An agent acknowledges a
#: task when it has ended. Nothing is lost when RabbitMQ's 30 minutes are over, but the connection.
CONSUMER_TIMEOUT = 365 * 24 * 3600 * 1000

# Parts of names and keys, as flow.topology and flow.names make them.
_SUFFIX = "[0-9a-f]+"
_WORD = "[a-z_]+"
_QUEUE = "[A-Za-z0-9_.-]+"
_AGENT = "[a-z0-9-]+"
_PART = "[^.]+"


@dataclass(frozen=True, slots=True)
class TopicRights:
    """Which routing keys may be written to an exchange, and bound there."""

    exchange: str
    write: str = NOTHING
    read: str = NOTHING


@dataclass(frozen=True, slots=True)
class Rights:
    """What one user may do in flow's virtual host."""

    configure: str
    write: str
    read: str
    topics: tuple[TopicRights, ...]


def agent_rights(name: str, queues: Iterable[str]) -> Rights:
    """Of the user of agent *name*, which serves *queues*."""
    own = _plain(control_queue(name, "").name) + _SUFFIX
    served = [_plain(task_queue(queue).name) for queue in queues]
    return Rights(
        configure=_any(own),
        write=_any(_plain(EVENTS), _plain(LOGS), own),
        read=_any(_plain(CONTROL), own, *served),
        topics=_topics(
            TopicRights(EVENTS, write=_any(_plain(event_key(name, "")) + _WORD)),
            TopicRights(LOGS, write=_any(_plain(event_key(name, "")) + rf"{_PART}\.{_PART}")),
            TopicRights(CONTROL, read=_any(_plain(agent_key(name)))),
        ),
    )


def dispatcher_rights() -> Rights:
    """Of the user of the dispatchers: they make everything that outlives a connection."""
    # The exchanges flow.events and flow.logs and the queues of these names are one to RabbitMQ.
    queues = _plain(task_queue("").name) + _QUEUE
    tasks, events, control, logs = (_plain(exchange) for exchange in EXCHANGES)
    return Rights(
        configure=_any(tasks, events, control, logs, queues),
        write=_any(tasks, events, control, logs, queues),
        read=_any(tasks, events, logs, queues),
        topics=_topics(
            TopicRights(EVENTS, write=_any(_plain(PROBE_KEY), _plain(MARKER_KEY)), read="^#$"),
            TopicRights(LOGS, read="^#$"),
            TopicRights(TASKS, write=_any(_QUEUE), read=_any(_QUEUE)),
            TopicRights(CONTROL, write=_any(_plain(agent_key("")) + _AGENT)),
        ),
    )


def command_rights() -> Rights:
    """Of the user of the ``flow`` command: it rings the dispatcher's bell and follows output."""
    own = _plain(follower_queue("", "").name) + _SUFFIX
    return Rights(
        configure=_any(own),
        write=_any(_plain(EVENTS), own),
        read=_any(_plain(LOGS), own),
        topics=_topics(
            TopicRights(EVENTS, write=_any(_plain(WAKE_KEY))),
            TopicRights(LOGS, read=rf"^\*\.{_PART}\.{_PART}$"),
        ),
    )


def policies(broker: tuple[int, int]) -> dict[str, dict[str, int]]:
    """What the policy of the quorum queues should say on RabbitMQ *broker* (major, minor), by the
    regular expression of the queues' names. No policy is needed before 3.12.

    From 4.0 on a message that came back 20 times is dropped unless the limit is lifted: each time
    an agent dies or loses its connection counts."""
    rules: dict[str, int] = {}
    if broker >= (3, 12):
        rules["consumer-timeout"] = CONSUMER_TIMEOUT
    if broker >= (4, 0):
        rules["delivery-limit"] = -1
    pattern = _any(_plain(EVENTS), _plain(task_queue("").name) + ".*")
    return {pattern: rules} if rules else {}


def _topics(*given: TopicRights) -> tuple[TopicRights, ...]:
    """*given*, and nothing on flow's other exchanges."""
    said = {each.exchange: each for each in given}
    return tuple(said.get(exchange, TopicRights(exchange)) for exchange in EXCHANGES)


def _plain(name: str) -> str:
    """*name* or key as a regular expression: it consists of letters, digits, ``-``, ``_`` and
    dots."""
    return name.replace(".", r"\.")


def _any(*patterns: str) -> str:
    return f"^({'|'.join(patterns)})$" if len(patterns) > 1 else f"^{patterns[0]}$"
