"""Bundles in the database: what agents fetch, each content stored once.

In the database, and not in a folder, so that whichever dispatcher leads can serve what another has
read. Content is named by its digest, so writing it needs no epoch: whoever writes it writes the
same. Foreign keys keep what a DAG or a run needs from being removed under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from peewee import Database

from dispatcher.core.records import DagRow
from dispatcher.store.database import errors_translated, transaction
from dispatcher.store.leader import hold_epoch
from dispatcher.store.models import Blob, BlobPiece, Bundle, BundleBlob, Dag, DagRun
from dispatcher.store.rows import chunks, dag_query, dag_records, fetch
from flow.bundle import PIECE_BYTES

_PORTION_BYTES = 1024 * 1024
_PORTION_PIECES = 500

Piece = tuple[str, int]
"""(digest, number)"""


def lacking(database: Database, digests: Iterable[str]) -> set[str]:
    """Those of *digests* whose content is not stored."""
    wanted = sorted(set(digests))
    known: set[str] = set()
    with errors_translated(database):
        for chunk in chunks(wanted):
            query = Blob.select(Blob.digest).where(Blob.digest.in_(chunk), Blob.complete)
            known.update(digest for (digest,) in fetch(database, query))
    return set(wanted) - known


def store_blobs(database: Database, contents: Mapping[str, bytes]) -> None:
    """Keep *contents* by their digests, which the caller has verified. Harmless twice."""
    blobs = [(digest, len(content), False) for digest, content in contents.items()]
    columns = (Blob.digest, Blob.size, Blob.complete)
    with transaction(database):
        for chunk in chunks(blobs):
            Blob.insert_many(chunk, columns).on_conflict_ignore().as_rowcount().execute(database)
    into = (BlobPiece.blob, BlobPiece.number, BlobPiece.data)
    for rows in _portions(_pieces(contents)):
        with transaction(database):
            BlobPiece.insert_many(rows, into).on_conflict_ignore().as_rowcount().execute(database)
    with transaction(database):
        for digests in chunks(list(contents)):
            Blob.update(complete=True).where(Blob.digest.in_(digests)).execute(database)


def _pieces(contents: Mapping[str, bytes]) -> Iterator[tuple[str, int, bytes]]:
    for digest, content in contents.items():
        for number, start in enumerate(range(0, len(content), PIECE_BYTES)):
            yield digest, number, content[start : start + PIECE_BYTES]


def _portions(
    pieces: Iterable[tuple[str, int, bytes]],
) -> Iterator[list[tuple[str, int, bytes]]]:
    """What is written in one transaction: other writers of an SQLite file wait for it."""
    portion: list[tuple[str, int, bytes]] = []
    total = 0
    for piece in pieces:
        portion.append(piece)
        total += len(piece[2])
        if total >= _PORTION_BYTES or len(portion) >= _PORTION_PIECES:
            yield portion
            portion, total = [], 0
    if portion:
        yield portion


def store_bundle(database: Database, bundle: str, digests: Iterable[str], at: datetime) -> None:
    """Make *bundle* known, which needs *digests* and its manifest. Doing it again is harmless.

    Raises :class:`~flow.errors.GuardFailed` when one of them is not stored (any more).
    """
    rows = [(bundle, digest) for digest in sorted({*digests, bundle})]
    into = (BundleBlob.bundle, BundleBlob.blob)
    with transaction(database):
        values = {Bundle.id: bundle, Bundle.created_at: at}
        Bundle.insert(values).on_conflict_ignore().as_rowcount().execute(database)
        for chunk in chunks(rows):
            BundleBlob.insert_many(chunk, into).on_conflict_ignore().as_rowcount().execute(database)


def use_bundle(
    database: Database, epoch: int, bundle: str, files: Sequence[str], at: datetime
) -> list[DagRow]:
    """New runs of the active DAGs of *files* take *bundle*. Returns the DAGs for which it is
    another one. Raises :class:`~flow.errors.EpochLost`."""
    changed: list[DagRow] = []
    with transaction(database):
        hold_epoch(database, epoch)
        for chunk in chunks(files):
            other = (Dag.bundle != bundle) | Dag.bundle.is_null()
            query = Dag.select(Dag.dag_id).where(Dag.file.in_(chunk), Dag.active, other)
            names = [dag_id for (dag_id,) in fetch(database, query)]
            change = Dag.update({Dag.bundle: bundle, Dag.updated_at: at})
            change.where(Dag.dag_id.in_(names)).execute(database)
            rows = fetch(database, dag_query().where(Dag.dag_id.in_(names)))
            changed += dag_records(rows)
    return changed


def read_pieces(database: Database, wanted: Iterable[Piece]) -> dict[Piece, tuple[int, bytes]]:
    """The size of the whole blob and the content of the piece, for those that are stored. A blob
    without content has an empty piece 0."""
    asked = set(wanted)
    digests = sorted({digest for digest, _ in asked})
    numbers = sorted({number for _, number in asked})
    found: dict[Piece, tuple[int, bytes]] = {}
    with errors_translated(database):
        for chunk in chunks(digests):
            stored = Blob.select(Blob.digest, Blob.size).where(Blob.digest.in_(chunk))
            sizes: Mapping[str, int] = dict(fetch(database, stored.where(Blob.complete)))
            found.update({(digest, 0): (0, b"") for digest, size in sizes.items() if size == 0})
            for number in numbers:
                of_number = [digest for digest in chunk if (digest, number) in asked]
                query = BlobPiece.select(BlobPiece.blob, BlobPiece.data).where(
                    BlobPiece.number == number, BlobPiece.blob.in_(of_number)
                )
                for digest, data in fetch(database, query):
                    if digest in sizes:
                        found[digest, number] = (sizes[digest], bytes(data))
    return {piece: found[piece] for piece in asked & found.keys()}


def unused_bundles(database: Database) -> set[str]:
    """Bundles that no DAG and no run, ended or not, has."""
    with errors_translated(database):
        return {bundle for (bundle,) in fetch(database, Bundle.select(Bundle.id).where(_unused()))}


def prune(database: Database, bundles: Iterable[str]) -> int:
    """Remove those of *bundles* that are still unused, and all content that no bundle needs;
    returns how many blobs that were. Not while a bundle is being stored."""
    with transaction(database):
        for chunk in chunks(sorted(bundles)):
            Bundle.delete().where(Bundle.id.in_(chunk), _unused()).execute(database)
        needed = BundleBlob.select(BundleBlob.blob)
        removed: int = Blob.delete().where(Blob.digest.not_in(needed)).execute(database)
    return removed


def _unused() -> Any:
    # NOT IN over a column that may be NULL would never be true.
    of_dags = Dag.select(Dag.bundle).where(Dag.bundle.is_null(is_null=False))
    of_runs = DagRun.select(DagRun.bundle).where(DagRun.bundle.is_null(is_null=False))
    return Bundle.id.not_in(of_dags) & Bundle.id.not_in(of_runs)
