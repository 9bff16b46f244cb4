"""Users with flow's own rights in a test's virtual host, and raw AMQP operations with them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel

from flow.brokerrights import Rights
from flow.topology import QueueSpec

Management = Callable[..., bytes]


def vhost_of(url: str) -> str:
    """The virtual host of a test's ``broker_url``."""
    return urlsplit(url).path[1:]


def grant(api: Management, vhost: str, user: str, rights: Rights) -> None:
    """Give *user* exactly *rights*."""
    body = {"configure": rights.configure, "write": rights.write, "read": rights.read}
    api("PUT", f"/permissions/{vhost}/{user}", json.dumps(body).encode())
    for topic in rights.topics:
        body = {"exchange": topic.exchange, "write": topic.write, "read": topic.read}
        api("PUT", f"/topic-permissions/{vhost}/{user}", json.dumps(body).encode())


def declare(opened: BlockingChannel, spec: QueueSpec) -> None:
    """The queue with its exchange and binding."""
    opened.exchange_declare(spec.exchange, exchange_type="topic", durable=True)
    opened.queue_declare(
        spec.name, durable=spec.durable, exclusive=spec.exclusive, arguments=spec.arguments
    )
    opened.queue_bind(spec.name, spec.exchange, spec.key)


@contextmanager
def user(api: Management, broker_url: str, name: str, rights: Rights) -> Iterator[str]:
    """A user *name* with *rights*; yields its broker URL."""
    password = secrets.token_hex(8)
    body = json.dumps({"password": password, "tags": ""}).encode()
    api("PUT", f"/users/{name}", body)
    try:
        grant(api, vhost_of(broker_url), name, rights)
        yield broker_url.replace("guest:guest@", f"{name}:{password}@")
    finally:
        remaining = {each["name"] for each in json.loads(api("GET", "/users"))}
        if name in remaining:  # else the test has deleted it
            api("DELETE", f"/users/{name}")


@contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    """A channel in confirm mode on a connection of its own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        if connection.is_open:
            connection.close()
