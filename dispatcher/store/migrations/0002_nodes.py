"""What nodes have, what tries use of it, and what people want of agents."""

from __future__ import annotations

from typing import Any

from peewee import BigIntegerField, BooleanField, Database, DoubleField, TextField

_AGENT = {
    "cores": BigIntegerField(default=0),
    "memory": BigIntegerField(default=0),
    "gpus": TextField(default="[]"),
    "gpu_share": BigIntegerField(default=1),
    "limits": BooleanField(default=False),
    "drained": TextField(default=""),
    "wanted_queues": TextField(null=True),
    "wanted_slots": BigIntegerField(null=True),
    "charged": TextField(default="[]"),
}
_TASK_TRY = {
    "memory_peak": BigIntegerField(null=True),
    "cpu_seconds": DoubleField(null=True),
}
_AUDIT = {"agent": TextField(null=True)}


def up(migrator: Any, _db: Database) -> None:
    """Add the columns."""
    for table, columns in (("agent", _AGENT), ("task_try", _TASK_TRY), ("audit", _AUDIT)):
        for name, column in columns.items():
            migrator.migrate(migrator.add_column(table, name, column))
