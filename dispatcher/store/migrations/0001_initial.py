"""All tables of the first release."""

# ruff: noqa: D101 - dispatcher.store.models says what the tables are

from __future__ import annotations

from typing import Any

from peewee import (
    BigAutoField,
    BigIntegerField,
    BooleanField,
    Database,
    DoubleField,
    Field,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)


class UtcField(Field):
    """timestamptz on Postgres; ``open_database`` makes it text on SQLite."""

    field_type = "TIMESTAMPTZ"


class Table(Model):
    """What all tables have in common."""

    class Meta:
        legacy_table_names = False


class DagVersion(Table):
    id = BigAutoField()
    dag_id = TextField()
    digest = TextField()
    spec = TextField()
    source = TextField()
    file = TextField()
    created_at = UtcField()

    class Meta:
        table_name = "dag_version"
        indexes = ((("dag_id", "digest"), True),)


class BytesField(Field):
    """bytea on Postgres."""

    field_type = "BLOB"


class Blob(Table):
    digest = TextField(primary_key=True)
    size = BigIntegerField()
    complete = BooleanField()


class BlobPiece(Table):
    id = BigAutoField()
    blob = ForeignKeyField(Blob, column_name="digest", index=False, on_delete="CASCADE")
    number = IntegerField()
    data = BytesField()

    class Meta:
        table_name = "blob_piece"
        indexes = ((("blob", "number"), True),)


class Bundle(Table):
    id = TextField(primary_key=True)
    created_at = UtcField()


class BundleBlob(Table):
    id = BigAutoField()
    bundle = ForeignKeyField(Bundle, column_name="bundle", index=False, on_delete="CASCADE")
    blob = ForeignKeyField(Blob, column_name="digest", index=True)

    class Meta:
        table_name = "bundle_blob"
        indexes = ((("bundle", "blob"), True),)


class Dag(Table):
    dag_id = TextField(primary_key=True)
    version = ForeignKeyField(DagVersion, column_name="version_id", index=False)
    bundle = ForeignKeyField(Bundle, column_name="bundle", index=False, null=True)
    file = TextField(index=True)
    paused = BooleanField()
    active = BooleanField()
    created_at = UtcField()
    updated_at = UtcField()


class DagImportError(Table):
    file = TextField(primary_key=True)
    message = TextField()
    at = UtcField()

    class Meta:
        table_name = "import_error"


class DagRun(Table):
    id = BigIntegerField(primary_key=True)
    dag_id = TextField()
    run_id = TextField(index=True)
    version = ForeignKeyField(DagVersion, column_name="version_id", index=False)
    bundle = ForeignKeyField(Bundle, column_name="bundle", index=True, null=True)
    state = TextField(index=True)
    conf = TextField()
    run_type = TextField()
    logical_date = UtcField(null=True)
    data_interval_start = UtcField(null=True)
    data_interval_end = UtcField(null=True)
    previous_pk = BigIntegerField(null=True)
    created_at = UtcField()
    start_date = UtcField(null=True)
    end_date = UtcField(null=True)
    cancelled_by = TextField()

    class Meta:
        table_name = "dag_run"
        indexes = (
            (("dag_id", "run_id"), True),
            (("dag_id", "run_type", "logical_date"), False),
        )


class TaskInstance(Table):
    id = BigIntegerField(primary_key=True)
    run = ForeignKeyField(DagRun, column_name="run_pk", index=False, on_delete="CASCADE")
    task_id = TextField()
    map_index = IntegerField()
    state = TextField()
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
    reason = TextField()
    wish = TextField()
    wish_by = TextField()

    class Meta:
        table_name = "task_instance"
        indexes = ((("run", "task_id", "map_index"), True),)


class TaskTry(Table):
    id = BigAutoField()
    task = ForeignKeyField(TaskInstance, column_name="task_pk", index=False, on_delete="CASCADE")
    try_number = IntegerField()
    token = BigIntegerField(index=True)
    agent = TextField()
    session = BigIntegerField()
    opened_at = UtcField()
    closed_at = UtcField(null=True)
    outcome = TextField(null=True)
    exit_code = BigIntegerField(null=True)
    reason = TextField()
    started_at = UtcField(null=True)
    ended_at = UtcField(null=True)

    class Meta:
        table_name = "task_try"
        indexes = ((("task", "try_number"), True),)


class Xcom(Table):
    id = BigAutoField()
    task = ForeignKeyField(TaskInstance, column_name="task_pk", index=False, on_delete="CASCADE")
    key = TextField()
    value = TextField()
    at = UtcField()

    class Meta:
        table_name = "xcom"
        indexes = ((("task", "key"), True),)


class Variable(Table):
    name = TextField(primary_key=True)
    value = TextField()
    updated_at = UtcField()


class Agent(Table):
    name = TextField(primary_key=True)
    session = BigIntegerField()
    state = TextField()
    home_id = TextField()
    boot_id = TextField()
    incarnation = TextField()
    queues = TextField()
    slots = BigIntegerField()
    lease = DoubleField()
    software = TextField()
    suspended = TextField()
    last_heartbeat = UtcField(null=True)


class AgentSession(Table):
    id = BigAutoField()
    agent = TextField()
    session = BigIntegerField()
    home_id = TextField()
    boot_id = TextField()
    incarnation = TextField()
    software = TextField()
    started_at = UtcField()
    ended_at = UtcField(null=True)
    how = TextField(null=True)

    class Meta:
        table_name = "agent_session"
        indexes = ((("agent", "session"), True),)


class Intent(Table):
    id = BigAutoField()
    kind = TextField()
    arguments = TextField()
    created_at = UtcField()
    done_at = UtcField(null=True, index=True)
    error = TextField()


class Audit(Table):
    id = BigAutoField()
    at = UtcField()
    actor = TextField()
    entity = TextField()
    dag_id = TextField()
    run_id = TextField(null=True)
    task_id = TextField(null=True)
    map_index = IntegerField(null=True)
    run_pk = BigIntegerField(null=True, index=True)
    task_pk = BigIntegerField(null=True)
    event = TextField()
    source = TextField()
    target = TextField()
    reason = TextField()


class Leader(Table):
    id = IntegerField(primary_key=True)
    epoch = BigIntegerField()
    dispatcher = TextField()
    backend_pid = IntegerField(null=True)
    backend_start = UtcField(null=True)
    since = UtcField(null=True)
    heard_at = UtcField(null=True)


TABLES = (
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


def up(_migrator: Any, db: Database) -> None:
    """Create the tables, and the one row of ``leader``."""
    db.bind(TABLES)
    db.create_tables(TABLES, safe=False)
    Leader.insert(id=1, epoch=0, dispatcher="").execute()
