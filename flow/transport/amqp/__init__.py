"""RabbitMQ behind the port of :mod:`flow.transport.port`.

It is built on aiormq, the protocol engine of aio-pika, since only that level tells of a consumer
that the broker cancelled, has one close signal per channel, and lets us keep hold of the socket so
that a dead peer cannot delay a close. Nothing outside this package imports either of them, and
none of their exceptions leaves it.
"""

from __future__ import annotations

from flow.transport.amqp.broker import AmqpBroker

__all__ = ["AmqpBroker"]
