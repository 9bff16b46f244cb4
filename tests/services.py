"""A private RabbitMQ node and PostgreSQL cluster for one test session.

``python -m tests.services run -- COMMAND...`` starts both on free ports of 127.0.0.1 in a
directory of their own, runs the command with their addresses in ``FLOW_TEST_*``, ends them
whatever happens, and exits with the command's status. Nothing is shared with the system's own
services or with another session, so several sessions can run at once and a test may break things.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Short, and passable for the services' users: pytest's own folders are 0700.
_PARENT = Path("/tmp")  # noqa: S108 - see above; mkdtemp makes the names
_PREFIX = "flow-test-"
_START_DEADLINE = 90.0
_START_ATTEMPTS = 3
_COMMAND_GRACE = 30.0
_YOUNG = 60.0


class ServiceFailed(Exception):
    """A service did not come up; the message carries the end of its log."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses now.

    Below the range from which the kernel takes the ports of outgoing connections, so that none
    of those can grab it before its user binds it.
    """
    while True:
        port = random.randint(20_000, 31_999)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


class Service(ABC):
    """One server process in a directory of its own, thrown away when stopped.

    As root it runs as the user that Debian's package made for it, since both servers refuse or
    dislike root; otherwise as oneself. It dies with the process that started it, even if that
    is killed: hence the parent-death signal.
    """

    user = ""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start; :meth:`wait_ready` waits until it serves."""
        self.home.mkdir(mode=0o700)
        self._own(self.home)
        self.prepare()
        self.launch()

    def launch(self) -> None:
        """The same again after :meth:`halt` or a crash, on the data that is there."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._wrap(self.command()),
                cwd=self.home,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return once it serves; raise :class:`ServiceFailed` when it ends or takes too long."""
        assert self.process is not None, "start() comes first"
        deadline = time.monotonic() + _START_DEADLINE
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ServiceFailed(f"{type(self).__name__} did not start:\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once: nothing of it is kept. Safe twice, and before :meth:`start`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def halt(self, number: int, within: float = 60.0) -> None:
        """Send it a signal that ends it, and wait; its data stays for :meth:`launch`."""
        assert self.process is not None, "start() comes first"
        self.process.send_signal(number)
        self.process.wait(within)

    @abstractmethod
    def prepare(self) -> None:
        """Write what the server needs into its home."""

    @abstractmethod
    def command(self) -> list[str]:
        """The server in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves now."""

    @property
    @abstractmethod
    def variables(self) -> dict[str, str]:
        """How tests reach it."""

    def environment(self) -> dict[str, str]:
        """What the server and its tools see: nothing of the user's own settings."""
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

    def _wrap(self, command: Sequence[str]) -> list[str]:
        wrapped = ["setpriv", "--pdeathsig=KILL"]
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.user)
            wrapped += [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
        return [*wrapped, "--", *command]

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _write(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.home / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        self._own(path)
        return path

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


class Postgres(Service):
    """One cluster; the superuser ``flow`` needs no password."""

    user = "postgres"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.port = free_port()
        self.bin = _postgres_bin()

    def prepare(self) -> None:
        command = [f"{self.bin}/initdb", "-D", f"{self.home}/data", "-U", "flow"]
        command += ["-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            self._wrap(command),
            cwd=self.home,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise ServiceFailed(f"initdb failed:\n{done.stdout.decode(errors='replace')}")
        # The first line that fits decides: members of this role, which a test may make, log in
        # with a password.
        rules = self.home / "data" / "pg_hba.conf"
        locked = "host all +with_password 127.0.0.1/32 scram-sha-256\n"
        rules.write_text(locked + rules.read_text())

    def command(self) -> list[str]:
        # No socket directory: its path would have to fit into 107 bytes, and TCP is what flow uses.
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [f"{self.bin}/postgres", "-D", f"{self.home}/data", *options]

    def ready(self) -> bool:
        probe = [f"{self.bin}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(probe, check=False).returncode == 0

    def stop(self) -> None:
        # "Immediate" shutdown, not SIGKILL: the postmaster removes its shared memory first.
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        super().stop()

    @property
    def variables(self) -> dict[str, str]:
        return {"FLOW_TEST_DATABASE_URL": f"postgresql://flow@127.0.0.1:{self.port}/postgres"}


class RabbitMQ(Service):
    """One node with the management plugin, whose HTTP API makes a virtual host in milliseconds
    where rabbitmqctl takes a second."""

    user = "rabbitmq"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.port, self.distribution_port, self.management_port = free_ports(3)
        self.node = f"flow-{secrets.token_hex(6)}@localhost"
        self.bin = _rabbitmq_bin()

    def prepare(self) -> None:
        self._write(
            "rabbitmq.conf",
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n",
        )
        self._write("plugins", "[rabbitmq_management].\n")
        # A cookie of its own, so that two first starts on a fresh machine do not race for one.
        self._write(".erlang.cookie", secrets.token_hex(20), mode=0o400)

    def command(self) -> list[str]:
        return [f"{self.bin}/rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_BASE": str(self.home),
            "RABBITMQ_MNESIA_BASE": str(self.home / "data"),
            "RABBITMQ_LOG_BASE": str(self.home / "logs"),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "plugins"),
            "RABBITMQ_PID_FILE": str(self.home / "pid"),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Makes the start script exec the Erlang VM instead of waiting for it, so that the
            # process that we end is the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            self.api("GET", "/vhosts")
        except OSError:
            return False
        return True

    def api(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Call the management API, as :func:`management` does."""
        return management(
            f"http://guest:guest@127.0.0.1:{self.management_port}", method, path, body
        )

    def write_rabbitmqctl(self, path: Path) -> None:
        """Make *path* a ``rabbitmqctl`` for this node that needs no ``-n`` and no rights."""
        variables = {**self.environment(), "RUNNING_UNDER_SYSTEMD": ""}
        settings = [f"{name}={value}" for name, value in variables.items()]
        command = self._wrap(["env", "-C", str(self.home), *settings, f"{self.bin}/rabbitmqctl"])
        path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        path.chmod(0o755)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "FLOW_TEST_BROKER_URL": f"amqp://guest:guest@127.0.0.1:{self.port}/",
            "FLOW_TEST_MANAGEMENT_URL": f"http://guest:guest@127.0.0.1:{self.management_port}",
            "FLOW_TEST_RABBITMQ_NODE": self.node,
        }


def free_ports(count: int) -> list[int]:
    """*count* different free ports."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def management(url: str, method: str, path: str, body: bytes | None = None) -> bytes:
    """One call of RabbitMQ's management API at *url*, which carries user and password.

    Raises :class:`OSError` (``urllib.error.HTTPError`` for a refusal).
    """
    scheme, _, rest = url.partition("://")
    credentials, _, address = rest.rpartition("@")
    user, _, password = credentials.partition(":")
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    passwords.add_password(None, f"{scheme}://{address}", user, password, is_authenticated=True)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(passwords)
    )
    request = urllib.request.Request(f"{scheme}://{address}/api{path}", data=body, method=method)  # noqa: S310 - http, see above
    request.add_header("Content-Type", "application/json")
    with opener.open(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A directory for services, removed in the end; those of killed sessions are removed first."""
    _remove_leftovers()
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PARENT))
    path.chmod(0o711)
    lock = (path / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        lock.close()


def _remove_leftovers() -> None:
    # A live session holds the lock on its directory; one that was killed no longer does. A young
    # one may be about to take it.
    for path in _PARENT.glob(f"{_PREFIX}*/lock"):
        with contextlib.suppress(OSError), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - path.stat().st_mtime > _YOUNG:
                shutil.rmtree(path.parent, ignore_errors=True)


@contextlib.contextmanager
def running(parent: Path, *kinds: type[Service]) -> Iterator[list[Service]]:
    """Services of these kinds, started side by side in *parent* and stopped in the end.

    Must be called from the main thread: a parent-death signal follows the thread that forked.
    """
    services: list[Service] = []
    try:
        for attempt in range(1, _START_ATTEMPTS + 1):
            services = [
                kind(parent / f"{kind.__name__.lower()}-{secrets.token_hex(3)}") for kind in kinds
            ]
            try:
                for service in services:
                    service.start()
                for service in services:
                    service.wait_ready()
                break
            except ServiceFailed:
                # Another program may have taken one of the ports meanwhile.
                if attempt == _START_ATTEMPTS:
                    raise
                _stop(services)
        yield services
    finally:
        _stop(services)


def _stop(services: Sequence[Service]) -> None:
    for service in services:
        service.stop()


def _postgres_bin() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise ServiceFailed("PostgreSQL is missing; run: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


def _rabbitmq_bin() -> Path:
    # Debian's /usr/sbin/rabbitmq-server insists on its own user; the real one is here.
    packaged = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    on_path = shutil.which("rabbitmq-server")
    if not packaged.exists() and on_path is None:
        raise ServiceFailed("RabbitMQ is missing; run: apt-get install rabbitmq-server")
    return packaged.parent if packaged.exists() else Path(str(on_path)).parent


def run(command: Sequence[str]) -> int:
    """Run *command* beside fresh services and return its exit status."""
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGHUP, _exit_on_signal)
    mark = f"FLOW_TEST_SESSION={secrets.token_hex(8)}"
    with home() as parent:
        begun = time.monotonic()
        # RabbitMQ first: it takes longest and starts while initdb runs.
        with running(parent, RabbitMQ, Postgres) as services:
            tools = parent / "bin"
            tools.mkdir(mode=0o755)
            environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
            for service in services:
                environment |= service.variables
                if isinstance(service, RabbitMQ):
                    service.write_rabbitmqctl(tools / "rabbitmqctl")
            name, _, value = mark.partition("=")
            environment[name] = value
            print(f"services: up after {time.monotonic() - begun:.1f} s in {parent}", flush=True)
            try:
                return _run_command(command, environment)
            finally:
                _kill_marked(mark)


def _exit_on_signal(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _run_command(command: Sequence[str], environment: dict[str, str]) -> int:
    watched = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    process = subprocess.Popen(["setpriv", "--pdeathsig=INT", "--", *command], env=environment)
    deadline = float("inf")
    # Signals are fetched, not handled: only so can one typed at the terminal, which the command
    # got too, be told from one that was sent to us alone. A second SIGINT would cut short what
    # pytest does on the first.
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        while process.poll() is None:
            received = signal.sigtimedwait(watched, 0.5)
            if received is not None and received.si_signo != signal.SIGCHLD:
                typed = received.si_signo == signal.SIGINT and received.si_code > 0
                if not typed:
                    process.send_signal(signal.SIGINT)
                deadline = time.monotonic() + _COMMAND_GRACE
            if time.monotonic() > deadline:
                process.kill()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _kill_marked(mark: str) -> None:
    """Kill what the command left behind: every process with this session's mark.

    Not their descendants, which need no mark: an agent's tasks end with it.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            print(f"services: killing what was left behind: {entry.name} {line}", file=sys.stderr)
            os.kill(int(entry.name), signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    if list(arguments[:2]) != ["run", "--"] or len(arguments) < 3:
        print("usage: python -m tests.services run -- COMMAND...", file=sys.stderr)
        return 2
    try:
        return run(arguments[2:])
    except ServiceFailed as error:
        print(f"services: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
