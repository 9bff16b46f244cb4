"""When an agent's heartbeats arrive at the broker, seen by a consumer of the chaos run's own."""

from __future__ import annotations

import threading
from itertools import pairwise

import pika

from flow import topology
from tests.acceptance.ledger import now


class PulseThread:
    """Listens to one agent from its start to :meth:`close`."""

    def __init__(self, broker_url: str, agent: str) -> None:
        self._moments: list[float] = []
        self._connection = pika.BlockingConnection(pika.URLParameters(broker_url))
        channel = self._connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, topology.EVENTS, topology.event_key(agent, "heartbeat"))
        channel.basic_consume(queue, self._on_heartbeat, auto_ack=True)
        self._channel = channel
        self._began = now()
        self._thread = threading.Thread(target=channel.start_consuming, name="pulse")
        self._thread.start()

    def worst_gap(self) -> float:
        """The longest time without a heartbeat so far, in seconds; also that up to now."""
        moments = [self._began, *self._moments, now()]
        return max(later - earlier for earlier, later in pairwise(moments))

    def close(self) -> None:
        """Stop listening."""
        self._connection.add_callback_threadsafe(self._channel.stop_consuming)
        self._thread.join()
        self._connection.close()

    def _on_heartbeat(self, *_: object) -> None:
        self._moments.append(now())
