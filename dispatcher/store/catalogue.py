"""What DAG files come to: versions, which DAGs are active, and why a file cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from peewee import Database

from dispatcher.core.records import DagRow
from dispatcher.store.audit import add_lines, dag_line
from dispatcher.store.database import errors_translated, transaction
from dispatcher.store.leader import hold_epoch
from dispatcher.store.models import Dag, DagImportError, DagVersion
from dispatcher.store.rows import Raw, dag_query, dag_records, fetch
from flow.dagspec import DagSpec

_ACTOR = "dispatcher"


@dataclass(frozen=True, slots=True)
class _Known:
    """A DAG as the database has it."""

    version_id: int
    digest: str
    file: str
    active: bool
    bundle: str | None

    def same(self, spec: DagSpec, file: str) -> bool:
        """Whether *spec* in *file* is what it is already."""
        return self.active and self.file == file and self.digest == spec.digest


def record_dags(
    database: Database,
    epoch: int,
    file: str,
    specs: Sequence[DagSpec],
    source: str,
    at: datetime,
    *,
    bundle: str | None = None,
) -> list[DagRow]:
    """Make *specs* the DAGs of *file*; those it held before and no longer holds are retired.

    A DAG that did not change keeps its version and is not written; one that is again as it was
    once gets that version back. New runs take *bundle*, which is stored. Returns the DAGs that are
    new, changed, active again or retired. Raises :class:`~flow.errors.EpochLost`.
    """
    with transaction(database):
        hold_epoch(database, epoch)
        DagImportError.delete().where(DagImportError.file == file).execute(database)
        names = [spec.dag_id for spec in specs]
        known = _known(database, file, names)
        lines: dict[str, Raw] = {}
        shipped: list[str] = []
        for spec in specs:
            before = known.get(spec.dag_id)
            if before is None or not before.same(spec, file):
                version_id = _version(database, spec, file, source, at)
                _make_current(database, spec.dag_id, version_id, file, at)
                lines[spec.dag_id] = _line(at, spec.dag_id, before, version_id)
            if before is None or before.bundle != bundle:
                shipped.append(spec.dag_id)
        Dag.update({Dag.bundle: bundle}).where(Dag.dag_id.in_(shipped)).execute(database)
        for dag_id, before in known.items():
            if before.file == file and before.active and dag_id not in names:
                gone = Dag.update(active=False, updated_at=at).where(Dag.dag_id == dag_id)
                gone.execute(database)
                lines[dag_id] = _line(at, dag_id, before, None)
        add_lines(database, lines.values())
        answer = fetch(database, dag_query().where(Dag.dag_id.in_([*lines, *shipped])))
    return list(dag_records(answer))


def retire_file(database: Database, epoch: int, file: str, at: datetime) -> list[DagRow]:
    """*file* is gone: its DAGs are retired and its error is forgotten. Returns those DAGs."""
    return record_dags(database, epoch, file, (), "", at)


def record_error(database: Database, epoch: int, file: str, message: str, at: datetime) -> None:
    """*file* cannot be read now; the last good versions of its DAGs stay active."""
    with transaction(database):
        hold_epoch(database, epoch)
        (
            DagImportError.insert(file=file, message=message, at=at)
            .on_conflict(
                conflict_target=[DagImportError.file],
                preserve=[DagImportError.message, DagImportError.at],
            )
            .as_rowcount()
            .execute(database)
        )


def dag_files(database: Database) -> set[str]:
    """The files that active DAGs come from, and those that cannot be read."""
    with errors_translated(database):
        active = fetch(database, Dag.select(Dag.file).where(Dag.active))
        broken = fetch(database, DagImportError.select(DagImportError.file))
    return {file for (file,) in (*active, *broken)}


def _known(database: Database, file: str, names: Sequence[str]) -> dict[str, _Known]:
    query = (
        Dag.select(Dag.dag_id, Dag.version, DagVersion.digest, Dag.file, Dag.active, Dag.bundle)
        .join(DagVersion)
        .where(Dag.dag_id.in_(names) | (Dag.file == file))
    )
    return {
        dag_id: _Known(version_id, digest, was_file, bool(active), bundle)
        for dag_id, version_id, digest, was_file, active, bundle in fetch(database, query)
    }


def _version(database: Database, spec: DagSpec, file: str, source: str, at: datetime) -> int:
    """The version that *spec* is: an earlier one with the same digest, or a new one."""
    same = (DagVersion.dag_id == spec.dag_id) & (DagVersion.digest == spec.digest)
    for (version_id,) in fetch(database, DagVersion.select(DagVersion.id).where(same)):
        return int(version_id)
    values = {
        DagVersion.dag_id: spec.dag_id,
        DagVersion.digest: spec.digest,
        DagVersion.spec: spec.to_json(),
        DagVersion.source: source,
        DagVersion.file: file,
        DagVersion.created_at: at,
    }
    return int(DagVersion.insert(values).execute(database))


def _make_current(
    database: Database, dag_id: str, version_id: int, file: str, at: datetime
) -> None:
    """Insert the DAG, active and not paused, or give it this version; it stays paused if it is."""
    values = {
        Dag.dag_id: dag_id,
        Dag.version: version_id,
        Dag.file: file,
        Dag.paused: False,
        Dag.active: True,
        Dag.created_at: at,
        Dag.updated_at: at,
    }
    (
        Dag.insert(values)
        .on_conflict(
            conflict_target=[Dag.dag_id],
            preserve=[Dag.version, Dag.file, Dag.active, Dag.updated_at],
        )
        .as_rowcount()
        .execute(database)
    )


def _line(at: datetime, dag_id: str, before: _Known | None, version_id: int | None) -> Raw:
    source = f"version {before.version_id}" if before is not None and before.active else ""
    target = f"version {version_id}" if version_id is not None else ""
    event = "retire" if not target else "update" if source else "register"
    return dag_line(at, _ACTOR, dag_id, event, source=source, target=target)
