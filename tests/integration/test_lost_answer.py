"""A COMMIT whose answer is lost stands, and whoever asked for it does not know."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import psycopg2
import pytest

from tests.chaos.pgproxy import Frontend, PostgresProxy


def insert(url: str, number: int) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO it VALUES (%s)", (number,))
    finally:
        connection.close()


def rows(url: str) -> list[int]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT n FROM it ORDER BY n")
            return [number for (number,) in cursor.fetchall()]
    finally:
        connection.close()


def create(url: str) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE it (n int)")
    finally:
        connection.close()


async def test_only_the_chosen_transaction_loses_its_answer_and_it_stands(
    postgres_url: str,
) -> None:
    create(postgres_url)
    server = urlsplit(postgres_url)
    assert server.port is not None
    async with PostgresProxy("127.0.0.1", server.port) as proxy:
        url = proxy.through(postgres_url)
        proxy.lose_answer("VALUES (2)")
        await asyncio.to_thread(insert, url, 1)
        with pytest.raises(psycopg2.OperationalError):
            await asyncio.to_thread(insert, url, 2)
        assert proxy.lost == ["VALUES (2)"]
        await asyncio.to_thread(insert, url, 3)
        assert await asyncio.to_thread(rows, url) == [1, 2, 3]


def test_messages_of_a_client_are_cut_out_of_any_chunks() -> None:
    startup = (8 + 4).to_bytes(4, "big") + (196608).to_bytes(4, "big") + b"xyz\0"
    ssl = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
    query = b"Q" + (4 + 7).to_bytes(4, "big") + b"COMMIT\0"
    end = b"X" + (4).to_bytes(4, "big")
    stream = ssl + startup + query + end
    for size in (1, 3, len(stream)):
        frontend = Frontend()
        chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
        found = [each for chunk in chunks for each in frontend.feed(chunk)]
        assert found == [(b"", ssl), (b"", startup), (b"COMMIT", query), (b"", end)]
