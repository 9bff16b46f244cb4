"""Where AMQP links come from."""

from __future__ import annotations

import asyncio
import ssl

import aiormq
from yarl import URL

from flow.errors import BrokerRefused, ConfigError, TransportError
from flow.transport.amqp.connection import Connection
from flow.transport.amqp.faults import CALL_ERRORS, reply
from flow.transport.amqp.greeting import Greeting
from flow.transport.amqp.link import AmqpLink
from flow.transport.tls import DEFAULT, PARAMETERS, Tls

_PORTS = {"amqp": 5672, "amqps": 5671}
_HEARTBEAT = 10
#: Above it a lost broker would be noticed only after minutes.
_SLOWEST_HEARTBEAT = 60


class AmqpBroker:
    """RabbitMQ at *url*, ``amqp[s]://user:password@host:port/vhost``.

    *tls* goes before the files that the URL may name (``?cafile=``, ``certfile=``, ``keyfile=``).
    With a certificate and no password, that certificate is the login; the broker takes the user
    from it, and the URL must name the same one. All times are in seconds. *heartbeat* overrides
    ``?heartbeat=``, and is 10 without both; a silent broker is given up after a little more than
    twice that.

    Raises :class:`~flow.errors.ConfigError` when *url* is not such a URL, or a file of *tls* cannot
    be used.
    """

    def __init__(
        self,
        url: str,
        tls: Tls = DEFAULT,
        *,
        heartbeat: int | None = None,
        connect_limit: float = 10.0,
        check_interval: float = 10.0,
        call_limit: float = 30.0,
        close_limit: float = 2.0,
    ) -> None:
        parsed = _parse(url)
        seconds = _heartbeat(parsed) if heartbeat is None else heartbeat
        self._url = parsed.without_query_params(*PARAMETERS).update_query(heartbeat=str(seconds))
        self._tls = tls.or_of(url)
        if parsed.scheme == "amqps":
            self._tls.context()  # a file that cannot be used is better told now than in a loop
            if self._tls.cert_file is not None and not parsed.password:
                self._url = self._url.update_query(auth="external")
        self._connect_limit = connect_limit
        self._check_interval = check_interval
        self._call_limit = call_limit
        self._close_limit = close_limit

    def __repr__(self) -> str:
        return f"AmqpBroker({self.address!r})"

    @property
    def address(self) -> str:
        """The URL without password and options, fit to be shown."""
        return str(self._url.with_password(None).with_query(None))

    async def connect(self, name: str) -> AmqpLink:
        """See :class:`flow.transport.port.Broker`."""
        context = self._context()
        consuming = Connection(self._url, f"{name} consume", context)
        publishing = Connection(self._url, f"{name} publish", context)
        try:
            await self._open(consuming)
            await self._open(publishing)
        except BaseException:
            await asyncio.gather(
                *(each.shut(self._close_limit) for each in (consuming, publishing))
            )
            raise
        return AmqpLink(
            consuming,
            publishing,
            user_id=self._login,
            check_interval=self._check_interval,
            call_limit=self._call_limit,
            close_limit=self._close_limit,
        )

    async def greet(self, name: str) -> Greeting:
        """Log in, and leave again. Raises what :meth:`connect` raises."""
        connection = Connection(self._url, name, self._context())
        try:
            await self._open(connection)
            return connection.greeting
        finally:
            await connection.shut(self._close_limit)

    @property
    def _login(self) -> str | None:
        """The user whom the broker will know this side as. With a certificate it is unknown where
        the URL does not say it."""
        external = self._url.query.get("auth", "").lower() == "external"
        return self._url.user or (None if external else "guest")

    def _context(self) -> ssl.SSLContext | None:
        if self._url.scheme != "amqps":
            return None
        try:
            return self._tls.context()
        except ConfigError as error:
            # It was good when this process began: somebody is about to replace it.
            raise TransportError(str(error)) from None

    async def _open(self, connection: Connection) -> None:
        where = f"broker {self.address}"
        try:
            await connection.open(self._connect_limit)
        except TimeoutError:
            limit = f"{self._connect_limit:g} s"
            raise TransportError(f"{where}: cannot be reached: no answer in {limit}") from None
        except CALL_ERRORS as error:
            raise self._explain(where, error) from error

    def _explain(self, where: str, error: Exception) -> TransportError:
        if self._url.scheme == "amqps":
            unsafe = self._tls.problem(error.__cause__ or error, self._url.host or "")
            if unsafe is not None:
                return TransportError(f"{where}: {unsafe}")
        if isinstance(error, aiormq.ProbableAuthenticationError | aiormq.AuthenticationError):
            return BrokerRefused(f"{where}: login refused: {reply(error)}")
        if isinstance(error, aiormq.InvalidFrameError) and "Connection.Close" in str(error):
            # aiormq drops the broker's own words when the answer to connection.open is a close.
            return BrokerRefused(
                f"{where}: virtual host {self._vhost!r} refused: it does not exist, is down, or "
                f"user {self._login!r} has no permission for it"
            )
        if isinstance(error, aiormq.ConnectionClosed):
            return BrokerRefused(f"{where}: refused: {reply(error)}")
        return TransportError(f"{where}: cannot be reached: {reply(error)}")

    @property
    def user(self) -> str:
        """Who logs in, as far as this side knows."""
        return self._login or "the one of its certificate"

    @property
    def asked_heartbeat(self) -> int:
        """Seconds; the broker may want less."""
        return int(self._url.query["heartbeat"])

    @property
    def _vhost(self) -> str:
        return self._url.path[1:].replace("%2F", "/") or "/"


def _parse(url: str) -> URL:
    problem = "broker url: expected amqp://user:password@host:port/vhost, got"
    try:
        parsed = URL(url)
    except ValueError:
        # The text may hold a password: do not show it.
        raise ConfigError(f"{problem} something that is not a URL") from None
    if parsed.scheme not in _PORTS:
        raise ConfigError(f"{problem} scheme {parsed.scheme!r}")
    if not parsed.host:
        raise ConfigError(f"{problem} no host")
    return parsed.with_port(parsed.explicit_port or _PORTS[parsed.scheme])


def _heartbeat(url: URL) -> int:
    text = url.query.get("heartbeat", str(_HEARTBEAT))
    if not text.isdecimal() or not 1 <= int(text) <= _SLOWEST_HEARTBEAT:
        raise ConfigError(
            f"broker url: expected heartbeat to be a whole number of seconds from 1 to "
            f"{_SLOWEST_HEARTBEAT}, got {text!r}"
        )
    return int(text)
