"""What the machine itself can do: scripts of a screenful, without any of flow's code.

Each is run as ``python -m bench.limits.NAME BROKER_URL DATABASE_URL`` and prints one JSON object of
metrics. They use the same broker and database, the same kinds of queues (quorum, persistent
messages) and the same synchronous commits as flow.
"""

from __future__ import annotations

from typing import Any

import pika

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def channel(url: str, *queues: str) -> Any:
    """A channel on a connection of its own, and durable quorum queues of these names."""
    opened = pika.BlockingConnection(pika.URLParameters(url)).channel()
    for queue in queues:
        opened.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    return opened
