"""What DAG files come to: versions, which DAGs are active, and why a file cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from peewee import Database

from dispatcher.core.records import DagRow
from dispatcher.store import bulk
from dispatcher.store.audit import add_lines, dag_line
from dispatcher.store.database import errors_translated, transaction
from dispatcher.store.leader import hold_epoch
from dispatcher.store.models import Dag, DagImportError, DagVersion
from dispatcher.store.rows import Raw, chunks, dag_query, dag_records, fetch
from flow.dagspec import DagSpec

_ACTOR = "dispatcher"


@dataclass(frozen=True, slots=True)
class DagFile:
    """A file that could be read: its DAGs, and its text."""

    file: str
    specs: Sequence[DagSpec]
    source: str


@dataclass(frozen=True, slots=True)
class _Known:
    """A DAG as the database has it, or is about to."""

    version_id: int
    digest: str
    file: str
    active: bool
    bundle: str | None

    def is_now(self, digest: str, file: str) -> bool:
        """Whether it is that already."""
        return self.active and (self.digest, self.file) == (digest, file)


@dataclass(frozen=True, slots=True)
class _Version:
    """One that a DAG shall have: a new one, or one that it has had."""

    digest: str
    text: str
    source: str
    file: str


@dataclass(slots=True)
class _Changes:
    """What some files mean for the DAGs that are known. No two of them have the same DAG."""

    known: dict[str, _Known]
    """By dag_id. Changes with every file that is taken in."""
    wanted: dict[str, _Version] = field(default_factory=dict)
    retired: dict[str, None] = field(default_factory=dict)
    shipped: dict[str, None] = field(default_factory=dict)
    """DAGs that get another bundle."""
    events: list[tuple[str, str, str | None]] = field(default_factory=list)
    """For the audit, in order: a DAG, the version that it had until then, and the digest of the one
    that it gets; ``None``: it is retired."""

    def take(self, file: DagFile, bundle: str | None) -> None:
        """*file* holds these DAGs now and no others."""
        names = {spec.dag_id for spec in file.specs}
        for spec in file.specs:
            text = spec.to_json()
            digest = hashlib.sha256(text.encode()).hexdigest()
            before = self.known.get(spec.dag_id)
            if before is None or before.bundle != bundle:
                self.shipped[spec.dag_id] = None
            if before is not None and before.is_now(digest, file.file):
                continue
            self._note(spec.dag_id, before, digest)
            self.retired.pop(spec.dag_id, None)
            self.wanted[spec.dag_id] = _Version(digest, text, file.source, file.file)
            self.known[spec.dag_id] = _Known(0, digest, file.file, active=True, bundle=bundle)
        for dag_id, before in self.known.items():
            if before.file == file.file and before.active and dag_id not in names:
                self._note(dag_id, before, None)
                self.retired[dag_id] = None
                self.known[dag_id] = replace(before, active=False)

    def _note(self, dag_id: str, before: _Known | None, digest: str | None) -> None:
        had = f"version {before.version_id}" if before is not None and before.active else ""
        self.events.append((dag_id, had, digest))


def record_files(
    database: Database,
    epoch: int,
    files: Sequence[DagFile],
    at: datetime,
    *,
    bundle: str | None = None,
) -> list[DagRow]:
    """Make the DAGs of *files* what these files hold; those that they held before and no longer
    hold are retired.

    A DAG that did not change keeps its version and is not written; one that is again as it was
    once gets that version back. New runs take *bundle*, which is stored. Returns the DAGs that are
    new, changed, active again or retired. Raises :class:`~flow.errors.EpochLost`.
    """
    with transaction(database):
        hold_epoch(database, epoch)
        names = [file.file for file in files]
        for chunk in chunks(names):
            DagImportError.delete().where(DagImportError.file.in_(chunk)).execute(database)
        known = _known(database, names, [spec.dag_id for file in files for spec in file.specs])
        there = set(known)
        changes = _Changes(known)
        for file in files:
            changes.take(file, bundle)
        versions = _versions(database, changes.wanted, at)
        _make_current(database, changes.wanted, versions, there, at)
        concerned = {dag_id for dag_id, _, _ in changes.events} | changes.shipped.keys()
        for chunk in chunks(list(changes.shipped)):
            Dag.update({Dag.bundle: bundle}).where(Dag.dag_id.in_(chunk)).execute(database)
        for chunk in chunks(list(changes.retired)):
            gone = Dag.update(active=False, updated_at=at).where(Dag.dag_id.in_(chunk))
            gone.execute(database)
        add_lines(database, _lines(changes, versions, at))
        answer: list[Raw] = []
        for chunk in chunks(sorted(concerned)):
            answer += fetch(database, dag_query().where(Dag.dag_id.in_(chunk)))
    return sorted(dag_records(answer), key=lambda row: row.dag_id)


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
    """:func:`record_files` for one."""
    return record_files(database, epoch, [DagFile(file, specs, source)], at, bundle=bundle)


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


def _known(database: Database, files: Sequence[str], names: Sequence[str]) -> dict[str, _Known]:
    columns = (Dag.dag_id, Dag.version, DagVersion.digest, Dag.file, Dag.active, Dag.bundle)
    query = Dag.select(*columns).join(DagVersion)
    answer: list[Raw] = []
    for chunk in chunks(names):
        answer += fetch(database, query.where(Dag.dag_id.in_(chunk)))
    for chunk in chunks(files):
        answer += fetch(database, query.where(Dag.file.in_(chunk)))
    return {
        dag_id: _Known(version_id, digest, was_file, bool(active), bundle)
        for dag_id, version_id, digest, was_file, active, bundle in answer
    }


def _versions(
    database: Database, wanted: dict[str, _Version], at: datetime
) -> dict[tuple[str, str], int]:
    """By DAG and digest: the versions *wanted*, those made that are not there, and others."""
    found = _find_versions(database, wanted)
    into = (
        DagVersion.dag_id,
        DagVersion.digest,
        DagVersion.spec,
        DagVersion.source,
        DagVersion.file,
        DagVersion.created_at,
    )
    rows = [
        (dag_id, version.digest, version.text, version.source, version.file, at)
        for dag_id, version in wanted.items()
        if (dag_id, version.digest) not in found
    ]
    if not rows:
        return found
    bulk.insert(database, DagVersion, into, rows)
    return _find_versions(database, wanted)


def _find_versions(database: Database, wanted: dict[str, _Version]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    query: Any = DagVersion.select(DagVersion.dag_id, DagVersion.digest, DagVersion.id)
    for chunk in chunks(list(wanted.items())):
        named = DagVersion.dag_id.in_([dag_id for dag_id, _ in chunk])
        alike = DagVersion.digest.in_([version.digest for _, version in chunk])
        for dag_id, digest, pk in fetch(database, query.where(named, alike)):
            found[dag_id, digest] = pk
    return found


def _make_current(
    database: Database,
    wanted: dict[str, _Version],
    versions: dict[tuple[str, str], int],
    there: set[str],
    at: datetime,
) -> None:
    """Insert DAGs, active and not paused, or give those *there* their version; they stay paused if
    they are."""
    rows = [
        (versions[dag_id, version.digest], version.file, True, at, dag_id)
        for dag_id, version in wanted.items()
    ]
    old = [row for row in rows if row[-1] in there]
    new = [(*row, False, at) for row in rows if row[-1] not in there]
    changed = (Dag.version, Dag.file, Dag.active, Dag.updated_at)
    bulk.update(database, Dag, changed, [Dag.dag_id], [], old)
    bulk.insert(database, Dag, (*changed, Dag.dag_id, Dag.paused, Dag.created_at), new)


def _lines(changes: _Changes, versions: dict[tuple[str, str], int], at: datetime) -> list[Raw]:
    """What the audit says of each of the events."""
    lines = []
    for dag_id, had, digest in changes.events:
        now = "" if digest is None else f"version {versions[dag_id, digest]}"
        event = "retire" if not now else "update" if had else "register"
        lines.append(dag_line(at, _ACTOR, dag_id, event, source=had, target=now))
    return lines
