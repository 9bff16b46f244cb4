"""What commands do at the broker: ring the dispatcher's bell, and follow output live."""

from __future__ import annotations

import threading
from pathlib import Path

import pika
import pytest

from dispatcher.logstore import LogStore
from dispatcher.store.reader import Reader
from flow import topology, wire
from flow.cli.broker import open_channel
from flow.cli.main import main
from flow.cli.wake import wake_by_broker
from flow.errors import BrokerRefused, TransportError
from tests.database_world import DatabaseWorld, dag, task
from tests.waiting import until


def test_the_bell_rings_on_the_events_exchange(broker_url: str) -> None:
    with open_channel(broker_url) as channel:
        channel.exchange_declare(topology.EVENTS, exchange_type="topic", durable=True)
        channel.queue_declare("listener", exclusive=True)
        channel.queue_bind("listener", topology.EVENTS, topology.WAKE_KEY)
        assert wake_by_broker(broker_url) is None
        bodies: list[bytes] = []

        def heard() -> bool:
            method, _, body = channel.basic_get("listener", auto_ack=True)
            bodies.extend([body] if method else [])
            return bool(bodies)

        until(heard)
    assert wire.decode(bodies[0]) == wire.Wake()


def test_a_broker_that_has_never_seen_a_dispatcher_is_told(broker_url: str) -> None:
    failure = wake_by_broker(broker_url)
    assert failure is not None
    assert "no exchange 'flow.events'" in str(failure)


def test_a_wrong_password_is_refused_in_one_line(broker_url: str) -> None:
    wrong = broker_url.replace("guest:guest@", "guest:wrong@")
    with (
        pytest.raises(BrokerRefused, match="expected to be let in, got ") as caught,
        open_channel(wrong),
    ):
        pass
    assert "wrong" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_virtual_host_is_refused(broker_url: str) -> None:
    with (
        pytest.raises(BrokerRefused, match="expected to be let in"),
        open_channel(f"{broker_url}-missing"),
    ):
        pass


def test_a_broker_that_is_away_is_a_transport_error(free_port: int) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{free_port}/"
    with (
        pytest.raises(TransportError, match=r"expected an answer, got '.*refused'"),
        open_channel(url),
    ):
        pass


def publish(broker_url: str, *chunks: wire.LogChunk) -> None:
    with open_channel(broker_url) as channel:
        for chunk in chunks:
            channel.basic_publish(
                topology.LOGS, topology.log_key("node1", "d", "t"), wire.encode(chunk)
            )


def bound(broker_url: str) -> bool:
    """Whether a follower's queue takes what is published."""
    with open_channel(broker_url) as channel:
        try:
            channel.basic_publish(
                topology.LOGS, topology.log_key("node1", "d", "t"), b"not flow's", mandatory=True
            )
        except pika.exceptions.UnroutableError:
            return False
        return True


def test_output_is_followed_live_from_the_broker(
    broker_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_BROKER_URL", broker_url)
    url = f"sqlite:///{tmp_path}/flow.db"
    world = DatabaseWorld(url, dag("d", task("t")))
    world.hello("node1")
    reader = Reader(world.database)
    arguments = {"dag_id": "d", "run_id": "r", "conf": {}}
    reader.request("trigger", arguments, actor="user t", at=world.now().wall)
    world.serve_requests()
    grant = world.start("node1")
    run = reader.find_run("r")
    LogStore(tmp_path / "logs").write(run.pk, grant.task_instance_id, 1, 0, b"stored\n")
    with open_channel(broker_url) as channel:
        channel.exchange_declare(topology.LOGS, exchange_type="topic", durable=True)
    codes: list[int] = []
    follower = threading.Thread(
        target=lambda: codes.append(main(["tasks", "logs", "d/r", "t", "-f"]))
    )
    follower.start()
    until(lambda: bound(broker_url))
    last = wire.LogChunk(
        task_instance_id=grant.task_instance_id,
        try_number=1,
        token=grant.token,
        run_id="r",
        offset=7,
        text="livé\n",
        last=True,
    )
    publish(broker_url, last)
    publish(broker_url, last)
    world.finish("node1", grant)
    follower.join(30)
    assert codes == [0]
    out, err = capsys.readouterr()
    assert out == "stored\nlivé\n"
    assert err == "flow: t: try 1 on node1\n"


def test_without_a_broker_what_is_stored_is_followed_and_it_is_said(
    free_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_BROKER_URL", f"amqp://guest:guest@127.0.0.1:{free_port}/")
    world = DatabaseWorld(f"sqlite:///{tmp_path}/flow.db", dag("d", task("t")))
    world.hello("node1")
    reader = Reader(world.database)
    arguments = {"dag_id": "d", "run_id": "r", "conf": {}}
    reader.request("trigger", arguments, actor="user t", at=world.now().wall)
    world.serve_requests()
    grant = world.start("node1")
    run = reader.find_run("r")
    LogStore(tmp_path / "logs").write(run.pk, grant.task_instance_id, 1, 0, b"stored\n")
    world.finish("node1", grant)
    assert main(["tasks", "logs", "d/r", "t", "-f"]) == 0
    out, err = capsys.readouterr()
    assert out == "stored\n"
    assert err.splitlines()[0].endswith("; following what is stored instead")
