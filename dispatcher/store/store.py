"""The store as the dispatcher uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from peewee import Database

from dispatcher.core.records import DagRow, Intent, LoadedRun, Snapshot, Write
from dispatcher.store import bundles, catalogue, leader, loader, values, writer
from dispatcher.store.database import errors_translated, transaction
from flow.dagspec import DagSpec
from flow.wire import Wanted


class Store:
    """One dispatcher's access to the database.

    Every method raises :class:`~flow.errors.StoreError` when the database cannot be used; whether
    a commit took effect is then unknown. Connections belong to threads: a method uses that of the
    thread it runs on, and opens it when needed.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def begin_reign(self, dispatcher: str, at: datetime) -> int:
        """Begin to lead: the new epoch, under which all further writes must come.

        The predecessor's session is ended and its writes are refused from now on. The session
        that this thread has here is the one that a successor will end.
        """
        return leader.begin_reign(self.database, dispatcher, at)

    def load(self) -> Snapshot:
        """All that is live, as it was at one moment."""
        return loader.load(self.database)

    def commit(self, epoch: int, writes: Sequence[Write]) -> None:
        """Apply *writes* in order, all or none of them.

        Raises :class:`~flow.errors.EpochLost` when another dispatcher leads, and
        :class:`~flow.errors.GuardFailed` when a row is not as the core had it.
        """
        with transaction(self.database):
            leader.hold_epoch(self.database, epoch)
            writer.apply(self.database, writes)

    def record_dags(
        self,
        epoch: int,
        file: str,
        specs: Sequence[DagSpec],
        source: str,
        at: datetime,
        *,
        bundle: str | None = None,
    ) -> list[DagRow]:
        """Make *specs* the DAGs of *file*, which has the text *source*, and forget its error. New
        runs take *bundle*.

        Returns the DAGs that are new, changed, active again or retired. Raises ``EpochLost``.
        """
        return catalogue.record_dags(self.database, epoch, file, specs, source, at, bundle=bundle)

    def record_files(
        self,
        epoch: int,
        files: Sequence[catalogue.DagFile],
        at: datetime,
        *,
        bundle: str | None = None,
    ) -> list[DagRow]:
        """:meth:`record_dags` for several files at once."""
        return catalogue.record_files(self.database, epoch, files, at, bundle=bundle)

    def record_error(self, epoch: int, file: str, message: str, at: datetime) -> None:
        """*file* cannot be read; its DAGs stay as they are. Raises ``EpochLost``."""
        catalogue.record_error(self.database, epoch, file, message, at)

    def retire_file(self, epoch: int, file: str, at: datetime) -> list[DagRow]:
        """*file* is gone; returns its DAGs, now inactive. Raises ``EpochLost``."""
        return catalogue.retire_file(self.database, epoch, file, at)

    def dag_files(self) -> set[str]:
        """The files that active DAGs come from, and those that cannot be read."""
        return catalogue.dag_files(self.database)

    def use_bundle(
        self, epoch: int, bundle: str, files: Sequence[str], at: datetime
    ) -> list[DagRow]:
        """New runs of the DAGs of *files* take *bundle*; returns those DAGs for which it is
        another one. Raises ``EpochLost``."""
        return bundles.use_bundle(self.database, epoch, bundle, files, at)

    def lacking(self, digests: Iterable[str]) -> set[str]:
        """Those of *digests* whose content is not stored."""
        return bundles.lacking(self.database, digests)

    def store_blobs(self, contents: Mapping[str, bytes]) -> None:
        """Keep the contents of files, and manifests, by their digests. Harmless twice."""
        bundles.store_blobs(self.database, contents)

    def store_bundle(self, bundle: str, digests: Iterable[str], at: datetime) -> None:
        """Make a bundle known whose content is stored. Harmless twice. Raises ``GuardFailed``
        when some of it is not."""
        bundles.store_bundle(self.database, bundle, digests, at)

    def read_pieces(
        self, wanted: Iterable[bundles.Piece]
    ) -> dict[bundles.Piece, tuple[int, bytes]]:
        """Pieces of blobs by (digest, number): the blob's size, and the piece. Those that are not
        stored are left out."""
        return bundles.read_pieces(self.database, wanted)

    def unused_bundles(self) -> set[str]:
        """Bundles that no DAG and no run has."""
        return bundles.unused_bundles(self.database)

    def prune_bundles(self, unused: Iterable[str]) -> int:
        """Remove those of *unused* that still are, and content that no bundle needs; returns how
        many blobs that were."""
        return bundles.prune(self.database, unused)

    def find_values(self, run_pk: int, wanted: Sequence[Wanted], limit: int) -> list[str | None]:
        """What tasks of a run have pushed, and variables, as JSON: for the first of *wanted*, as
        many as *limit* bytes hold and at least one; ``None`` where there is none."""
        return values.find_values(self.database, run_pk, wanted, limit)

    def pending_intents(self) -> list[Intent]:
        """What commands asked for and nobody has dealt with, oldest first."""
        return loader.pending_intents(self.database)

    def load_run(self, dag_id: str, run_id: str) -> LoadedRun | None:
        """One run with all its task instances, ended or not; ``None`` if there is none."""
        return loader.load_run(self.database, dag_id, run_id)

    def owner_of_try(self, task_pk: int, try_number: int, token: int) -> tuple[int, str] | None:
        """The run of the try that was granted *token*, and its agent; ``None`` if there was
        none."""
        return loader.owner_of_try(self.database, task_pk, try_number, token)

    def close(self) -> None:
        """Close this thread's connection; the next call would open another."""
        with errors_translated(self.database):
            self.database.close()
