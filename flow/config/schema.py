"""Every setting: its name, default, kind and meaning. The reader, the names of the environment
variables, ``flow config show`` and docs/configuration.md are all derived from these classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from flow.config import kinds
from flow.config.kinds import Kind
from flow.config.secret import SecretUrl
from flow.dagspec import MAX_XCOM_BYTES
from flow.names import AGENT, QUEUE


@dataclass(frozen=True, slots=True)
class Derived:
    """A default that depends on the home folder or the machine; ``shown`` is what the docs say."""

    shown: str
    make: Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Spec:
    """What the schema says of one setting."""

    section: str
    key: str
    kind: Kind
    default: object
    doc: str

    @property
    def path(self) -> str:
        """``agent.slots``; ``home`` stands alone."""
        return f"{self.section}.{self.key}" if self.section else self.key

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "_".join(("FLOW", *self.path.split("."))).upper()

    def default_in(self, home: Path) -> object:
        """The default of a process whose home folder is *home*."""
        return self.default.make(home) if isinstance(self.default, Derived) else self.default


def _means(kind: Kind, doc: str, derived: Derived | None = None) -> dict[str, object]:
    return {"kind": kind, "doc": doc, "derived": derived}


def _inside(name: str) -> Derived:
    return Derived(f"`<home>/{name}`", lambda home: home / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """How to reach RabbitMQ. Dispatcher, agents and commands need it."""

    url: SecretUrl = field(
        default=SecretUrl("amqp://guest:guest@localhost:5672/"),
        metadata=_means(
            kinds.broker_url(), "User, password, host and virtual host; `amqps://` for TLS."
        ),
    )
    password_file: Path | None = field(
        default=None,
        metadata=_means(
            kinds.password_file(),
            "Where the password is, for a URL without one. "
            "Else it is looked for in `$CREDENTIALS_DIRECTORY/broker-password`.",
        ),
    )
    ca_file: Path | None = field(
        default=None,
        metadata=_means(
            kinds.file("certificates in PEM"),
            "For `amqps://`: the authorities of which one must have signed the broker's "
            "certificate; else the system's.",
        ),
    )
    cert_file: Path | None = field(
        default=None,
        metadata=_means(
            kinds.file("a certificate in PEM"),
            "This side's own, shown to the broker; with a URL without password it is the login.",
        ),
    )
    key_file: Path | None = field(
        default=None,
        metadata=_means(
            kinds.file("a private key in PEM"),
            "Of `cert_file`, unencrypted, where that does not hold it, too.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """How to reach the database. Dispatcher and commands need it, agents never."""

    url: SecretUrl = field(
        metadata=_means(
            kinds.database_url(),
            "PostgreSQL, or SQLite on one machine.",
            Derived(
                "`sqlite:///<home>/flow.db`", lambda home: SecretUrl(f"sqlite:///{home}/flow.db")
            ),
        )
    )
    password_file: Path | None = field(
        default=None,
        metadata=_means(
            kinds.password_file(),
            "Where the password is, for a URL without one. "
            "Else it is looked for in `$CREDENTIALS_DIRECTORY/database-password`.",
        ),
    )

    @property
    def is_sqlite(self) -> bool:
        """One machine, and perhaps no broker."""
        return self.url.scheme == "sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class DagsSettings:
    """Where the DAG files are and how the dispatcher reads them."""

    folder: Path = field(
        metadata=_means(
            kinds.folder(), "Searched for `*.py`, with its subfolders.", _inside("dags")
        )
    )
    python: str | None = field(
        default=None,
        metadata=_means(
            kinds.text("the path or name of a Python interpreter"),
            "The interpreter that reads the DAG files, where it is not flow's own.",
        ),
    )
    dag_dir_list_interval: float = field(
        default=1.0,
        metadata=_means(
            kinds.seconds(), "Seconds between two looks for new, changed and removed files."
        ),
    )
    min_file_process_interval: float = field(
        default=0.0,
        metadata=_means(
            kinds.seconds(positive=False), "Seconds before a changed file is read once more."
        ),
    )
    parsing_processes: int = field(
        default=2, metadata=_means(kinds.whole(1, 64), "Files read at the same time.")
    )
    parse_timeout: float = field(
        default=30.0,
        metadata=_means(kinds.seconds(), "Seconds after which the reading of a file is given up."),
    )
    bundle_file_max_bytes: int = field(
        default=64 * 1024 * 1024,
        metadata=_means(
            kinds.whole(0, 1024**3), "The largest file of the folder that is shipped to nodes."
        ),
    )
    bundle_max_bytes: int = field(
        default=256 * 1024 * 1024,
        metadata=_means(kinds.whole(0, 64 * 1024**3), "All files that are shipped, together."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """What holds everywhere."""

    default_timezone: str = field(
        default="UTC",
        metadata=_means(
            kinds.timezone(), "Dates without a time zone are read in it, in DAGs that name none."
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherSettings:
    """The dispatcher's pace and limits."""

    name: str | None = field(
        default=None,
        metadata=_means(kinds.name(AGENT), "Its name in logs and audit; else the host's."),
    )
    lookahead: int = field(
        default=2,
        metadata=_means(
            kinds.whole(0, 10_000),
            "Messages kept in a queue beyond the free slots of its agents, unless one of them can "
            "be handed its next task.",
        ),
    )
    intent_poll_interval: float = field(
        default=1.0,
        metadata=_means(
            kinds.seconds(), "Seconds after which a command is found whose wake-up was lost."
        ),
    )
    reconcile_interval: float = field(
        default=10.0,
        metadata=_means(
            kinds.seconds(), "Seconds between two comparisons of the database with the broker."
        ),
    )
    parallelism: int = field(
        default=0,
        metadata=_means(
            kinds.whole(0, 1_000_000),
            "Tasks of all DAGs that may be queued or running at the same time; 0 for any number.",
        ),
    )
    verify_users: bool = field(
        default=False,
        metadata=_means(
            kinds.switch(),
            "Whether an agent's word counts only from a broker user of the agent's name. "
            "Needs a user per agent ([broker](broker.md)).",
        ),
    )
    max_active_runs_per_dag: int = field(
        default=16,
        metadata=_means(kinds.whole(1, 100_000), "For DAGs that do not say `max_active_runs`."),
    )
    max_active_tasks_per_dag: int = field(
        default=16,
        metadata=_means(kinds.whole(1, 100_000), "For DAGs that do not say `max_active_tasks`."),
    )


def _usable_cpus(_: Path) -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One agent. Options of `flow-agent` go before these."""

    name: str | None = field(
        default=None,
        metadata=_means(kinds.name(AGENT), "Unique among all agents; else made from the host's."),
    )
    queues: tuple[str, ...] = field(
        default=("default",), metadata=_means(kinds.names(QUEUE, least=1), "The queues it serves.")
    )
    slots: int = field(
        metadata=_means(
            kinds.whole(1, 10_000),
            "Tasks that run at the same time.",
            Derived("the CPUs it may use", _usable_cpus),
        )
    )
    gpus: tuple[str, ...] | None = field(
        default=None,
        metadata=_means(
            kinds.names(kinds.DEVICE, least=0),
            'Its devices, by number or UUID, as in `["0", "1"]`; `[]` for none. '
            "Else all that are found.",
        ),
    )
    gpu_share: int = field(
        default=1,
        metadata=_means(kinds.whole(1, 1000), "Tasks that may have one device at the same time."),
    )
    kill_grace: float = field(
        default=5.0,
        metadata=_means(
            kinds.seconds(positive=False), "Seconds between SIGTERM and SIGKILL of a task."
        ),
    )
    drain_timeout: float = field(
        default=3600.0,
        metadata=_means(
            kinds.seconds(positive=False), "Seconds for which a stopping agent lets tasks finish."
        ),
    )
    log_max_bytes: int = field(
        default=64 * 1024 * 1024,
        metadata=_means(
            kinds.whole(0, 16 * 1024**3), "Output kept per try; the rest is counted only."
        ),
    )
    cache_max_bytes: int = field(
        default=4 * 1024**3,
        metadata=_means(
            kinds.whole(0, 1024**4),
            "Shipped DAG folders kept in `<home>/cache`; those in use stay in any case.",
        ),
    )
    claim_resend_interval: float = field(
        default=2.0,
        metadata=_means(kinds.seconds(), "Seconds before an unanswered message is sent again."),
    )
    pass_env: tuple[str, ...] = field(
        default=(),
        metadata=_means(
            kinds.names(kinds.VARIABLE, least=0),
            "Variables of the agent's own environment that its tasks see.",
        ),
    )
    python: str | None = field(
        default=None,
        metadata=_means(
            kinds.text("the path or name of a Python interpreter"),
            "The interpreter of Python tasks that name none, where it is not flow's own.",
        ),
    )
    python_for: tuple[str, ...] = field(
        default=(),
        metadata=_means(
            kinds.names(kinds.INTERPRETER_OF_QUEUE, least=0),
            "The same for single queues, as in `gpu=/opt/torch/bin/python`.",
        ),
    )
    warm: bool = field(
        default=True,
        metadata=_means(
            kinds.switch(),
            "Whether Python tasks that are started again and again come from an interpreter that "
            "has their DAG file loaded already ([Python tasks](python-tasks.md)).",
        ),
    )
    task_memory: int = field(
        default=0,
        metadata=_means(
            kinds.memory(),
            "What the processes of a task that does not say `memory` may use together, such as "
            "`4G`; 0 for no limit.",
        ),
    )
    task_cpus: float = field(
        default=0.0,
        metadata=_means(
            kinds.cpus(), "The same for `cpus`, CPUs' worth of time, such as 1.5; 0 for no limit."
        ),
    )
    task_pids: int = field(
        default=8192,
        metadata=_means(
            kinds.whole(0, 4_194_304), "The same for `pids`, processes and threads; 0 for no limit."
        ),
    )
    run_without_limits: bool = field(
        default=False,
        metadata=_means(
            kinds.switch(),
            "Whether tasks that ask for `memory`, `cpus` or `pids` run all the same where they "
            "cannot be held to it.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class XComSettings:
    """What tasks leave for each other."""

    max_bytes: int = field(
        default=256 * 1024,
        metadata=_means(
            kinds.whole(1024, MAX_XCOM_BYTES),
            "Results that one try of a task may push, all of them as JSON. Agents read it.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """For how long silence is borne. Give dispatcher and agents the same values."""

    heartbeat_interval: float = field(
        default=5.0, metadata=_means(kinds.seconds(), "Seconds between two heartbeats of an agent.")
    )
    duration: float = field(
        default=60.0,
        metadata=_means(
            kinds.seconds(),
            "Seconds for which a confirmed heartbeat keeps an agent's tasks its own.",
        ),
    )
    margin: float = field(
        default=5.0,
        metadata=_means(
            kinds.seconds(),
            "An agent cut off kills its tasks these seconds before `duration` ends.",
        ),
    )
    grace: float = field(
        default=15.0,
        metadata=_means(
            kinds.seconds(), "The dispatcher takes tasks over these seconds after `duration`."
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSettings:
    """The output of tasks, as the dispatcher stores it."""

    folder: Path = field(
        metadata=_means(kinds.folder(), "On the dispatcher's machine.", _inside("logs"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a process, checked. Nothing reads files or the environment after this."""

    home: Path = field(
        metadata=_means(
            kinds.folder(),
            "flow's own folder: state, and what has no place of its own below.",
            Derived("`~/.flow`", lambda home: home),
        )
    )
    broker: BrokerSettings
    database: DatabaseSettings
    dags: DagsSettings
    core: CoreSettings
    dispatcher: DispatcherSettings
    agent: AgentSettings
    xcom: XComSettings
    lease: LeaseSettings
    logs: LogsSettings
    file: Path | None = None
    """The file that was read, if any."""
    instance: str = ""
    """Which of a machine's agents this is, where it was started as an instance."""
    warnings: tuple[str, ...] = ()
    """One line each; for stderr."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Where each setting that is not a default comes from, by its path (``agent.slots``)."""


SECTION_CLASSES: Mapping[str, type[Any]] = {
    "broker": BrokerSettings,
    "database": DatabaseSettings,
    "dags": DagsSettings,
    "core": CoreSettings,
    "dispatcher": DispatcherSettings,
    "agent": AgentSettings,
    "xcom": XComSettings,
    "lease": LeaseSettings,
    "logs": LogsSettings,
}
SECTIONS = frozenset(SECTION_CLASSES)
#: What an agent reads: nothing of the database, the DAG files or the stored logs.
AGENT_SECTIONS = frozenset({"broker", "agent", "lease", "xcom"})
#: What the dispatcher reads.
DISPATCHER_SECTIONS = SECTIONS - {"agent", "xcom"}


def _spec(section: str, item: Field[Any]) -> Spec:
    meta = item.metadata
    default = item.default if meta["derived"] is None else meta["derived"]
    return Spec(section, item.name, meta["kind"], default, meta["doc"])


SPECS: tuple[Spec, ...] = (
    *(_spec("", item) for item in fields(Config) if "kind" in item.metadata),
    *(_spec(section, item) for section, cls in SECTION_CLASSES.items() for item in fields(cls)),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A relation between settings. ``problem`` returns what is wrong, or ``None``."""

    paths: tuple[str, ...]
    problem: Callable[[Config], str | None]


#: Sums of floats such as 3 * 0.1 and 0.3 differ in the last bit.
_ROUNDING = 1e-9


def _heartbeats_fit(config: Config) -> str | None:
    lease = config.lease
    if 3 * lease.heartbeat_interval <= lease.duration - lease.margin + _ROUNDING:
        return None
    enough = 3 * lease.heartbeat_interval + lease.margin
    return (
        f"expected lease.duration - lease.margin ({lease.duration:g} - {lease.margin:g}) to be at "
        f"least 3 times lease.heartbeat_interval ({lease.heartbeat_interval:g}), so that two lost "
        f"heartbeats end no lease; raise lease.duration to {enough:g}"
    )


def _grace_fits(config: Config) -> str | None:
    lease = config.lease
    if 3 * lease.heartbeat_interval <= lease.grace + _ROUNDING:
        return None
    return (
        f"expected lease.grace ({lease.grace:g}) to be at least 3 times lease.heartbeat_interval "
        f"({lease.heartbeat_interval:g}), so that no alarm of the broker is taken for an agent's "
        f"silence; raise lease.grace to {3 * lease.heartbeat_interval:g}"
    )


def _kill_fits(config: Config) -> str | None:
    kill_grace, margin = config.agent.kill_grace, config.lease.margin
    if kill_grace <= margin + _ROUNDING:
        return None
    return (
        f"expected agent.kill_grace ({kill_grace:g}) to be at most lease.margin ({margin:g}), so "
        f"that an agent cut off has killed its tasks when its lease ends; lower agent.kill_grace "
        f"to {margin:g} or raise lease.margin to {kill_grace:g}"
    )


RULES = (
    Rule(("lease.heartbeat_interval", "lease.duration", "lease.margin"), _heartbeats_fit),
    Rule(("lease.heartbeat_interval", "lease.grace"), _grace_fits),
    Rule(("agent.kill_grace", "lease.margin"), _kill_fits),
)
