"""The tables. Columns carry the rows of ``dispatcher.core.records``, name by name.

No model is bound to a database: give one to the query, as in ``query.execute(database)`` or
``query.bind(database)``. The schema is made by ``migrations``, never from here; a test holds the
two together.
"""

from __future__ import annotations

from typing import Any

from peewee import (
    BigAutoField,
    BigIntegerField,
    BooleanField,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from dispatcher.core.records import AgentState, RunType, Wish
from dispatcher.store.fields import BytesField, EnumField, FreeTextField, JsonField, UtcField
from flow.states import RunState, TaskState


class Table(Model):
    """What all tables have in common."""

    class Meta:
        legacy_table_names = False

    @classmethod
    def sql_name(cls) -> str:
        """What the database calls it."""
        return str(cls._meta.table_name)

    @classmethod
    def column(cls, name: str) -> Any:
        """The column called *name*."""
        return cls._meta.columns[name]


class DagVersion(Table):
    """One version of a DAG. Never changed, never deleted while a run uses it."""

    id = BigAutoField()
    dag_id = TextField()
    digest = TextField()
    """``DagSpec.digest``: the same DAG again is the same version."""
    spec = TextField()
    """``DagSpec.to_json()``."""
    source = FreeTextField()
    """The text of the file it came from."""
    file = TextField()
    created_at = UtcField()

    class Meta:
        table_name = "dag_version"
        indexes = ((("dag_id", "digest"), True),)


class Blob(Table):
    """A file of a bundle, or a manifest, under the SHA-256 of its content."""

    digest = TextField(primary_key=True)
    size = BigIntegerField()
    complete = BooleanField()
    """All its pieces are there."""


class BlobPiece(Table):
    """``flow.bundle.PIECE_BYTES`` of a blob's content; the last piece has what is left."""

    id = BigAutoField()
    blob = ForeignKeyField(Blob, column_name="digest", index=False, on_delete="CASCADE")
    number = IntegerField()
    data = BytesField()

    class Meta:
        table_name = "blob_piece"
        indexes = ((("blob", "number"), True),)


class Bundle(Table):
    """The DAG folder at one moment. ``id`` is the digest of its manifest."""

    id = TextField(primary_key=True)
    created_at = UtcField()


class BundleBlob(Table):
    """The blobs that a bundle needs, its manifest included: they stay for as long as it does."""

    id = BigAutoField()
    bundle = ForeignKeyField(Bundle, column_name="bundle", index=False, on_delete="CASCADE")
    blob = ForeignKeyField(Blob, column_name="digest", index=True)

    class Meta:
        table_name = "bundle_blob"
        indexes = ((("bundle", "blob"), True),)


class Dag(Table):
    """A DAG and its current version. ``active`` is false once its file no longer holds it."""

    dag_id = TextField(primary_key=True)
    version = ForeignKeyField(DagVersion, column_name="version_id", index=False)
    bundle = ForeignKeyField(Bundle, column_name="bundle", index=False, null=True)
    file = TextField(index=True)
    paused = BooleanField()
    active = BooleanField()
    created_at = UtcField()
    updated_at = UtcField()


class DagImportError(Table):
    """Why a DAG file cannot be read; the last good versions of its DAGs stay active."""

    file = TextField(primary_key=True)
    message = FreeTextField()
    at = UtcField()

    class Meta:
        table_name = "import_error"


class DagRun(Table):
    """``RunRow``. The core assigns ``id``."""

    id = BigIntegerField(primary_key=True)
    dag_id = TextField()
    run_id = TextField(index=True)
    version = ForeignKeyField(DagVersion, column_name="version_id", index=False)
    bundle = ForeignKeyField(Bundle, column_name="bundle", index=True, null=True)
    state = EnumField(RunState, index=True)
    conf = JsonField()
    run_type = EnumField(RunType)
    logical_date = UtcField(null=True)
    data_interval_start = UtcField(null=True)
    data_interval_end = UtcField(null=True)
    previous_pk = BigIntegerField(null=True)
    """No foreign key: history may be deleted from its old end."""
    created_at = UtcField()
    start_date = UtcField(null=True)
    end_date = UtcField(null=True)
    cancelled_by = FreeTextField()

    class Meta:
        table_name = "dag_run"
        indexes = (
            (("dag_id", "run_id"), True),
            (("dag_id", "run_type", "logical_date"), False),
        )


class TaskInstance(Table):
    """``TaskRow``. The core assigns ``id``.

    Its state has no index on purpose: Postgres updates a row in place (HOT) only while no indexed
    column changes. Unfinished tasks are found through unfinished runs.
    """

    id = BigIntegerField(primary_key=True)
    run = ForeignKeyField(DagRun, column_name="run_pk", index=False, on_delete="CASCADE")
    task_id = TextField()
    map_index = IntegerField()
    state = EnumField(TaskState)
    try_number = IntegerField()
    failures = IntegerField()
    deaths = IntegerField()
    releases = IntegerField()
    token = BigIntegerField()
    queue = TextField()
    agent = TextField(null=True)
    session = BigIntegerField(null=True)
    not_before = UtcField(null=True)
    queued_at = UtcField(null=True)
    start_date = UtcField(null=True)
    end_date = UtcField(null=True)
    reason = FreeTextField()
    wish = EnumField(Wish)
    wish_by = FreeTextField()

    class Meta:
        table_name = "task_instance"
        indexes = ((("run", "task_id", "map_index"), True),)


class TaskTry(Table):
    """One token of a task instance, from its grant to its end."""

    id = BigAutoField()
    task = ForeignKeyField(TaskInstance, column_name="task_pk", index=False, on_delete="CASCADE")
    try_number = IntegerField()
    token = BigIntegerField(index=True)
    agent = TextField()
    session = BigIntegerField()
    opened_at = UtcField()
    closed_at = UtcField(null=True)
    outcome = TextField(null=True)
    """success, failed, released or lost; NULL while the token lives."""
    exit_code = BigIntegerField(null=True)
    reason = FreeTextField()
    started_at = UtcField(null=True)
    ended_at = UtcField(null=True)
    memory_peak = BigIntegerField(null=True)
    """The most its processes used together, in bytes, where the node measures it."""
    cpu_seconds = DoubleField(null=True)

    class Meta:
        table_name = "task_try"
        indexes = ((("task", "try_number"), True),)


class Xcom(Table):
    """What the latest try of a task instance has pushed. ``value`` is JSON."""

    id = BigAutoField()
    task = ForeignKeyField(TaskInstance, column_name="task_pk", index=False, on_delete="CASCADE")
    key = TextField()
    value = FreeTextField()
    at = UtcField()

    class Meta:
        table_name = "xcom"
        indexes = ((("task", "key"), True),)


class Variable(Table):
    """What people set with ``flow variables`` and tasks read."""

    name = TextField(primary_key=True)
    value = FreeTextField()
    updated_at = UtcField()


class Agent(Table):
    """``AgentRow``: an agent and its latest session."""

    name = TextField(primary_key=True)
    session = BigIntegerField()
    state = EnumField(AgentState)
    home_id = FreeTextField()
    boot_id = FreeTextField()
    incarnation = FreeTextField()
    queues = JsonField()
    slots = BigIntegerField()
    lease = DoubleField()
    software = FreeTextField()
    suspended = FreeTextField()
    last_heartbeat = UtcField(null=True)
    cores = BigIntegerField(default=0)
    memory = BigIntegerField(default=0)
    gpus = JsonField(default=())
    gpu_share = BigIntegerField(default=1)
    limits = BooleanField(default=False)
    drained = FreeTextField(default="")
    wanted_queues = JsonField(null=True)
    wanted_slots = BigIntegerField(null=True)
    charged = JsonField(default=())


class AgentSession(Table):
    """One session of an agent, from its hello to its end."""

    id = BigAutoField()
    agent = TextField()
    session = BigIntegerField()
    home_id = FreeTextField()
    boot_id = FreeTextField()
    incarnation = FreeTextField()
    software = FreeTextField()
    started_at = UtcField()
    ended_at = UtcField(null=True)
    how = TextField(null=True)
    """goodbye, superseded, lapsed or lost; NULL while it lasts."""

    class Meta:
        table_name = "agent_session"
        indexes = ((("agent", "session"), True),)


class Intent(Table):
    """A command's request to the dispatcher; pending while ``done_at`` is NULL."""

    id = BigAutoField()
    kind = TextField()
    arguments = JsonField()
    created_at = UtcField()
    done_at = UtcField(null=True, index=True)
    error = FreeTextField(default="")
    """Why it was not carried out; empty when it was."""


class Audit(Table):
    """Every transition, in order; rows are only ever added, and they outlive what they name."""

    id = BigAutoField()
    at = UtcField()
    actor = TextField()
    """Who: ``dispatcher``, ``agent <name>``, ``user <name>``."""
    entity = TextField()
    """What moved: ``dag``, ``run``, ``task`` or ``agent``."""
    dag_id = TextField()
    """Empty where it is an agent."""
    run_id = TextField(null=True)
    task_id = TextField(null=True)
    map_index = IntegerField(null=True)
    run_pk = BigIntegerField(null=True, index=True)
    task_pk = BigIntegerField(null=True)
    event = TextField()
    source = TextField()
    """The state it left; empty for what had none."""
    target = TextField()
    reason = FreeTextField()
    agent = TextField(null=True)
    """The agent that somebody wanted something of."""


class Leader(Table):
    """One row, made by the first migration: who leads, and the epoch that fences all writes."""

    id = IntegerField(primary_key=True)
    epoch = BigIntegerField()
    dispatcher = TextField()
    backend_pid = IntegerField(null=True)
    """The leader's session in Postgres, with its start since process ids are used again."""
    backend_start = UtcField(null=True)
    since = UtcField(null=True)
    heard_at = UtcField(null=True)
    """When it last wrote that it is there: what listings know of it."""


#: Every table, in an order in which they can be created.
TABLES: tuple[type[Table], ...] = (
    Blob,
    BlobPiece,
    Bundle,
    BundleBlob,
    DagVersion,
    Dag,
    DagImportError,
    DagRun,
    TaskInstance,
    TaskTry,
    Xcom,
    Variable,
    Agent,
    AgentSession,
    Intent,
    Audit,
    Leader,
)
