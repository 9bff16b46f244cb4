"""TLS to a real RabbitMQ and a real PostgreSQL, with an authority of the tests' own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlencode

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from dispatcher.store import check_schema, open_database
from flow import topology
from flow.brokerrights import agent_rights
from flow.cli.broker import open_channel
from flow.cli.main import main
from flow.cli.wake import wake_by_broker
from flow.errors import BrokerRefused, ConfigError, StoreError, TransportError
from flow.topology import TASKS, task_queue
from flow.transport.amqp import AmqpBroker
from flow.transport.port import Publication
from flow.transport.tls import Tls
from tests import services
from tests.contract.inbox import Inbox
from tests.integration import broker_users
from tests.integration.agent_harness import AgentProcess, FakeDispatcher
from tests.integration.certificates import Authority, Pair
from tests.proxy import Proxy
from tests.services import Postgres, RabbitMQ, free_port, running
from tests.waiting import eventually

GPU = task_queue("gpu")


class TlsRabbitMQ(RabbitMQ):
    """Also speaks TLS, and takes a client's certificate for a login."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.tls_port = free_port()

    def prepare(self) -> None:
        super().prepare()
        authority = Authority(self.home / "tls")
        server = authority.sign("broker", host="IP:127.0.0.1")
        for path in (authority.file, server.cert, server.key):
            self._own(path)
        self._write("plugins", "[rabbitmq_management,rabbitmq_auth_mechanism_ssl].\n")
        conf = self.home / "rabbitmq.conf"
        conf.write_text(
            conf.read_text() + f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {authority.file}\n"
            f"ssl_options.certfile = {server.cert}\n"
            f"ssl_options.keyfile = {server.key}\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = false\n"
            "ssl_cert_login_from = common_name\n"
            "auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\n"
        )
        self.authority, self.server = authority, server

    def url(self, user: str = "guest:guest", host: str = "127.0.0.1") -> str:
        return f"amqps://{user}@{host}:{self.tls_port}/"


@pytest.fixture(scope="module")
def rabbit() -> Iterator[TlsRabbitMQ]:
    with services.home() as home, running(home, TlsRabbitMQ) as (server,):
        assert isinstance(server, TlsRabbitMQ)
        yield server


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    """Somebody else's authority."""
    return Authority(tmp_path / "foreign", "foreign")


def trusting(rabbit: TlsRabbitMQ, pair: Pair | None = None) -> Tls:
    if pair is None:
        return Tls(rabbit.authority.file)
    return Tls(rabbit.authority.file, pair.cert, pair.key)


async def refused(url: str, tls: Tls) -> str:
    """What agent and dispatcher say, the same as what commands say."""
    with pytest.raises(TransportError) as caught:
        await AmqpBroker(url, tls).connect("node1")
    daemon = str(caught.value).partition(": ")[2]

    def command() -> None:
        with open_channel(url, tls):
            pass

    with pytest.raises(TransportError) as caught:
        await asyncio.to_thread(command)
    assert str(caught.value).partition(": ")[2] == daemon
    return daemon


async def test_messages_travel_over_tls(rabbit: TlsRabbitMQ) -> None:
    link = await AmqpBroker(rabbit.url(), trusting(rabbit)).connect("node1")
    try:
        await link.declare(GPU)
        body = b"x" * 1_000_000
        await (await link.outlet()).publish(Publication(TASKS, "gpu", body))
        inbox = Inbox()
        await link.consume(GPU.name, inbox, prefetch=1)
        assert await inbox.bodies(1) == [body]
        await link.declare(topology.event_queue())
    finally:
        await link.close()
    assert wake_by_broker(rabbit.url(), trusting(rabbit)) is None
    shown = json.loads(rabbit.api("GET", "/connections"))
    assert all(each["ssl"] for each in shown)


async def test_a_broker_whose_certificate_nobody_known_has_signed_is_not_talked_to(
    rabbit: TlsRabbitMQ, foreign: Authority
) -> None:
    assert await refused(rabbit.url(), Tls()) == (
        "the broker's certificate is signed by nobody in the system's authorities; name the "
        "authority that signed it in broker.ca_file"
    )
    assert await refused(rabbit.url(), Tls(foreign.file)) == (
        f"the broker's certificate is signed by nobody in '{foreign.file}'; name the authority "
        "that signed it in broker.ca_file"
    )


async def test_a_broker_that_wants_a_certificate_is_an_error_in_words(tmp_path: Path) -> None:
    """TLS 1.3 says so after the handshake, while the login is under way."""
    authority = Authority(tmp_path / "tls")
    pair = authority.sign("broker", host="IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
    context.load_cert_chain(pair.cert, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        broker = AmqpBroker(f"amqps://guest:guest@127.0.0.1:{port}/", Tls(authority.file))
        for _ in range(3):
            # Whether the alert or the reset behind it comes first is a matter of luck.
            with pytest.raises(TransportError, match=r"certificate required|reset by peer|closed"):
                await broker.connect("node1")


async def test_a_certificate_of_another_host_is_not_accepted(rabbit: TlsRabbitMQ) -> None:
    assert await refused(rabbit.url(host="localhost"), trusting(rabbit)) == (
        "the broker's certificate is not for 'localhost'; use the name it is for in broker.url, "
        "or give the broker another"
    )


async def test_an_expired_certificate_is_named_as_such(rabbit: TlsRabbitMQ) -> None:
    old = rabbit.authority.sign("old", host="IP:127.0.0.1", days=-1)
    async with behind(rabbit, old) as url:
        assert await refused(url, trusting(rabbit)) == (
            f"a certificate of the broker, or of '{rabbit.authority.file}', has expired; renew it"
        )


async def test_a_port_without_tls_is_named_as_such(rabbit: TlsRabbitMQ) -> None:
    url = rabbit.url().replace(str(rabbit.tls_port), str(rabbit.port))
    assert await refused(url, trusting(rabbit)) == (
        "the other side speaks no TLS on this port; is the port right?"
    )


async def test_a_certificate_is_a_login(rabbit: TlsRabbitMQ) -> None:
    own = rabbit.authority.sign("gpu1-gpu")
    with external_user(rabbit, "gpu1-gpu"):
        link = await AmqpBroker(rabbit.url("gpu1-gpu"), trusting(rabbit, own)).connect("gpu1-gpu")
        try:
            assert link.user == "gpu1-gpu"
            await link.consume("flow.q.gpu", inbox := Inbox(), prefetch=1)
            outlet = await link.outlet()
            await outlet.publish(Publication(topology.EVENTS, "gpu1-gpu.hello", b"{}"))
            assert inbox.waiting == 0
        finally:
            await link.close()
        with open_channel(rabbit.url("gpu1-gpu"), trusting(rabbit, own)) as channel:
            said = pika.BasicProperties(user_id="gpu1-gpu")
            channel.basic_publish(topology.EVENTS, "gpu1-gpu.hello", b"{}", said)


async def test_a_certificate_is_no_login_for_anybody_else(rabbit: TlsRabbitMQ) -> None:
    own = rabbit.authority.sign("gpu2-gpu")
    with pytest.raises(BrokerRefused, match="login refused"):
        await AmqpBroker(rabbit.url("gpu2-gpu"), trusting(rabbit, own)).connect("gpu2-gpu")
    with pytest.raises(BrokerRefused), open_channel(rabbit.url("x"), trusting(rabbit, own)):
        pass


async def test_a_certificate_that_the_broker_does_not_trust_is_named(
    rabbit: TlsRabbitMQ, foreign: Authority
) -> None:
    stranger = foreign.sign("gpu1-gpu")
    tls = trusting(rabbit, stranger)
    with pytest.raises(TransportError) as caught:
        await AmqpBroker(rabbit.url("gpu1-gpu"), tls).connect("gpu1-gpu")
    assert f"this side's certificate, '{stranger.cert}'" in str(caught.value)


async def test_a_certificate_that_was_renewed_counts_from_the_next_connection_on(
    rabbit: TlsRabbitMQ, foreign: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "ca.pem"
    shutil.copy(foreign.file, trusted)
    broker = AmqpBroker(rabbit.url(), Tls(trusted))
    with pytest.raises(TransportError, match="signed by nobody"):
        await broker.connect("node1")
    shutil.copy(rabbit.authority.file, trusted)
    link = await broker.connect("node1")
    await link.close()
    trusted.unlink()
    with pytest.raises(TransportError, match=f"got '{trusted}': No such file or directory"):
        await broker.connect("node1")


async def test_an_agent_works_over_tls_by_its_settings(rabbit: TlsRabbitMQ, tmp_path: Path) -> None:
    own = rabbit.authority.sign("node1")
    with external_user(rabbit, "node1", "q1"):
        async with FakeDispatcher(f"{rabbit.url()}?cafile={rabbit.authority.file}") as dispatcher:
            agent = AgentProcess(
                tmp_path,
                rabbit.url("node1"),
                FLOW_BROKER_CA_FILE=str(rabbit.authority.file),
                FLOW_BROKER_CERT_FILE=str(own.cert),
                FLOW_BROKER_KEY_FILE=str(own.key),
            )
            await agent.start()
            try:
                number = await dispatcher.submit("echo hello")
                assert (await dispatcher.result(number)).state == "success"
                await eventually(lambda: dispatcher.log_ended(number))
            finally:
                await agent.kill()
    assert dispatcher.text(number) == "hello\n"
    assert dispatcher.users == {"node1"}


@contextlib.contextmanager
def external_user(rabbit: TlsRabbitMQ, name: str, queue: str = "gpu") -> Iterator[None]:
    """A user without a password: only a certificate lets it in."""
    with channel_of(rabbit) as admin:
        for spec in (topology.event_queue(), topology.log_queue(), task_queue(queue)):
            broker_users.declare(admin, spec)
        admin.exchange_declare(topology.CONTROL, exchange_type="topic", durable=True)
        admin.queue_purge(topology.EVENTS)
    rabbit.api("PUT", f"/users/{name}", b'{"password_hash":"","tags":""}')
    broker_users.grant(rabbit.api, "%2F", name, agent_rights(name, [queue]))
    yield
    rabbit.api("DELETE", f"/users/{name}")


def channel_of(rabbit: TlsRabbitMQ) -> AbstractContextManager[BlockingChannel]:
    return broker_users.channel(f"amqp://guest:guest@127.0.0.1:{rabbit.port}/")


@contextlib.asynccontextmanager
async def behind(rabbit: TlsRabbitMQ, pair: Pair) -> AsyncIterator[str]:
    """The broker's URL behind something that shows another certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    plain = f"amqp://guest:guest@127.0.0.1:{rabbit.port}/"
    async with Proxy.to(plain, tls=context) as proxy:
        yield proxy.through(plain).replace("amqp://", "amqps://")


# -- files that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        (
            Tls(ca_file=Path("/none/ca.pem")),
            (
                "broker.ca_file: expected a file with certificates of authorities, got "
                "'/none/ca.pem': No such file or directory"
            ),
        ),
        (
            Tls(cert_file=Path("/none/own.pem")),
            (
                "broker.cert_file: expected a file with a certificate, got '/none/own.pem': "
                "No such file or directory"
            ),
        ),
        (
            Tls(key_file=Path("/none/own.key")),
            "broker.key_file: expected broker.cert_file beside it, got '/none/own.key' alone",
        ),
    ],
)
def test_a_file_that_is_missing_is_named_before_anything_starts(tls: Tls, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AmqpBroker("amqps://guest:guest@127.0.0.1/", tls)
    assert str(caught.value) == problem


def test_files_that_hold_something_else_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    one, two = authority.sign("one"), authority.sign("two")
    text = tmp_path / "text"
    text.write_text("nothing of the kind")
    locked = tmp_path / "locked.key"
    run = ["openssl", "ec", "-in", str(two.key), "-aes256", "-passout", "pass:x"]
    run += ["-out", str(locked)]
    subprocess.run(run, check=True, capture_output=True)
    problems = [
        (Tls(ca_file=text), f"certificates of authorities, got '{text}': no certificate"),
        (Tls(cert_file=text), f"private key of '{text}', got '{text}': "),
        (Tls(cert_file=one.cert, key_file=two.key), f"got '{two.key}': key values mismatch"),
        (
            Tls(cert_file=two.cert, key_file=locked),
            f"unencrypted private key of '{two.cert}', got ",
        ),
    ]
    for tls, problem in problems:
        with pytest.raises(ConfigError) as caught:
            AmqpBroker("amqps://guest:guest@127.0.0.1/", tls)
        assert problem in str(caught.value)


def test_nobody_is_asked_not_to_verify() -> None:
    with pytest.raises(ConfigError) as caught:
        AmqpBroker("amqps://guest:s3cret@127.0.0.1/?no_verify_ssl=1")
    assert str(caught.value) == (
        "broker url: expected no 'no_verify_ssl', since certificates are always verified; name "
        "the authority that signed the broker's in broker.ca_file"
    )


# -- the database --------------------------------------------------------------------------------


def test_the_doctor_tells_for_how_long_certificates_are_good(
    rabbit: TlsRabbitMQ,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    authority = Authority(tmp_path / "old")
    own = authority.sign("node1", days=-1)
    for name, value in {
        "FLOW_CONFIG": "",
        "FLOW_HOME": str(tmp_path),
        "FLOW_BROKER_URL": rabbit.url(),
        "FLOW_BROKER_CA_FILE": str(rabbit.authority.file),
    }.items():
        monkeypatch.setenv(name, value)

    def found() -> list[str]:
        main(["doctor", "--agent"])
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.split()[1] in ("tls:", "broker:")]

    ca, login, broker = found()
    assert ca.startswith(
        f"warning  tls: the authority of broker.ca_file in {rabbit.authority.file} expires in 29 "
    )
    assert login.startswith("ok       broker: amqps://guest@127.0.0.1:")
    assert broker.startswith("warning  broker: its certificate expires in 29 days, on ")
    monkeypatch.setenv("FLOW_BROKER_CERT_FILE", str(own.cert))
    monkeypatch.setenv("FLOW_BROKER_KEY_FILE", str(own.key))
    assert found()[1].startswith(
        f"problem  tls: this side's certificate in {own.cert} has expired on "
    )


class TlsPostgres(Postgres):
    """With TLS, and nothing else, over TCP."""

    def prepare(self) -> None:
        super().prepare()
        self.authority = Authority(self.home / "tls")
        server = self.authority.sign("database", host="IP:127.0.0.1")
        server.key.chmod(0o600)
        self._own(server.key)
        self.server = server
        rules = self.home / "data" / "pg_hba.conf"
        rules.write_text("hostssl all all 127.0.0.1/32 trust\n")

    def command(self) -> list[str]:
        files = {"ssl_cert_file": self.server.cert, "ssl_key_file": self.server.key}
        options = [f"--{name}={path}" for name, path in files.items()]
        return [*super().command(), "--ssl=on", *options]

    def url(self, host: str = "127.0.0.1", **parameters: str) -> str:
        return f"postgresql://flow@{host}:{self.port}/postgres?{urlencode(parameters)}"


@pytest.fixture(scope="module")
def postgres() -> Iterator[TlsPostgres]:
    with services.home() as home, running(home, TlsPostgres) as (server,):
        assert isinstance(server, TlsPostgres)
        yield server


def test_the_database_is_verified_as_the_url_says(postgres: TlsPostgres, tmp_path: Path) -> None:
    trusted = {"sslmode": "verify-full", "sslrootcert": str(postgres.authority.file)}
    database = open_database(postgres.url(**trusted))
    with contextlib.closing(database):
        row = database.execute_sql(  # type: ignore[no-untyped-call]  # Peewee's
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        )
        assert row.fetchone() == (True,)
    foreign = Authority(tmp_path / "foreign", "foreign")
    stranger = {**trusted, "sslrootcert": str(foreign.file)}
    for url, problem in (
        (postgres.url(**stranger), "certificate verify failed"),
        (postgres.url("localhost", **trusted), "does not match host name"),
        (postgres.url(sslmode="disable"), "no encryption"),
    ):
        with pytest.raises(StoreError, match=problem):
            check_schema(open_database(url))
